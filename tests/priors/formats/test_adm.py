"""guided-diffusion's weights: names and shapes as in its module tree, the network and D as in its sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.priors import NetworkPrior, load_prior, save_prior
from invdiff.priors.formats import adm
from invdiff.priors.formats.base import read_tensors
from invdiff.priors.nets.adm import ADM

FILE = Path("weights.pt")

# The module tree of guided_diffusion/unet.py, UNetModel: in_channels 3, model_channels 32, out_channels 6,
# channel_mult (1, 2), num_res_blocks 1, attention_resolutions (2,), resblock_updown, use_scale_shift_norm.
# A block is its first norm's channels → its output's; "skip" where these differ.
BLOCKS = {
    "input_blocks.1.0": (32, 32),
    "input_blocks.2.0": (32, 32),  # halves
    "input_blocks.3.0": (32, 64),
    "middle_block.0": (64, 64),
    "middle_block.2": (64, 64),
    "output_blocks.0.0": (128, 64),
    "output_blocks.1.0": (96, 64),
    "output_blocks.1.2": (64, 64),  # doubles
    "output_blocks.2.0": (96, 32),
    "output_blocks.3.0": (64, 32),
}
ATTENTIONS = {"input_blocks.3.1": 64, "middle_block.1": 64, "output_blocks.0.1": 64, "output_blocks.1.1": 64}
ENDS = {
    "time_embed.0.weight": (128, 32),
    "time_embed.0.bias": (128,),
    "time_embed.2.weight": (128, 128),
    "time_embed.2.bias": (128,),
    "input_blocks.0.0.weight": (32, 3, 3, 3),
    "input_blocks.0.0.bias": (32,),
    "out.0.weight": (32,),
    "out.0.bias": (32,),
    "out.2.weight": (6, 32, 3, 3),
    "out.2.bias": (6,),
}
TINY: dict[str, Any] = {
    "width": 32,
    "mults": [1, 2],
    "blocks": 1,
    "attention": [False, True],
    "heads": 4,
}


def table() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = dict(ENDS)
    for name, (channels, out) in BLOCKS.items():
        parts: dict[str, tuple[int, ...]] = {
            "in_layers.0": (channels,),
            "in_layers.2": (out, channels, 3, 3),
            "emb_layers.1": (2 * out, 128),
            "out_layers.0": (out,),
            "out_layers.3": (out, out, 3, 3),
        }
        if channels != out:
            parts["skip_connection"] = (out, channels, 1, 1)
        for part, shape in parts.items():
            shapes[f"{name}.{part}.weight"], shapes[f"{name}.{part}.bias"] = shape, shape[:1]
    for name, channels in ATTENTIONS.items():
        for part, shape in (
            ("norm", (channels,)),
            ("qkv", (3 * channels, channels, 1)),
            ("proj_out", (channels, channels, 1)),
        ):
            shapes[f"{name}.{part}.weight"], shapes[f"{name}.{part}.bias"] = shape, shape[:1]
    return shapes


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spread = {name: 0.1 if len(s) == 1 else float(np.prod(s[1:])) ** -0.5 for name, s in shapes.items()}
    return {name: spread[name] * torch.randn(s, generator=generator) for name, s in shapes.items()}


def weights_of(seed: int = 0, **changes: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in ADM(**{**TINY, **changes}).state_dict().items()}
    return random_weights(shapes, seed)


def prior_of(weights: dict[str, Tensor], **options: Any) -> NetworkPrior:
    return NetworkPrior(*adm.build(weights, FILE, {"size": 16, **options}))


def meta(**arguments: Any) -> ADM:
    with torch.device("meta"):
        return ADM(**arguments)


def test_names_and_shapes_are_those_of_the_original_module_tree() -> None:
    came = {name: tuple(value.shape) for name, value in ADM(**TINY).state_dict().items()}
    assert came == table()
    assert adm.recognises(random_weights(table()))


RELEASED = {  # by the flags of the releases: arguments, and millions of parameters as the paper's table 4 counts them
    "ffhq_10m": (
        {"width": 128, "mults": [1, 1, 2, 2, 4, 4], "blocks": 1, "attention": [0, 0, 0, 0, 1, 0]},
        93.6,
    ),
    "64x64_diffusion": (
        {"width": 192, "mults": [1, 2, 3, 4], "blocks": 3, "attention": [0, 1, 1, 1], "classes": 1000},
        296,
    ),
    "128x128_diffusion": (
        {"width": 256, "mults": [1, 1, 2, 3, 4], "blocks": 2, "attention": [0, 0, 1, 1, 1], "classes": 1000},
        422,
    ),
    "256x256_diffusion": (
        {
            "width": 256,
            "mults": [1, 1, 2, 2, 4, 4],
            "blocks": 2,
            "attention": [0, 0, 0, 1, 1, 1],
            "classes": 1000,
        },
        554,
    ),
    "256x256_diffusion_uncond": (
        {"width": 256, "mults": [1, 1, 2, 2, 4, 4], "blocks": 2, "attention": [0, 0, 0, 1, 1, 1]},
        552.8,
    ),
    "512x512_diffusion": (
        {
            "width": 256,
            "mults": [0.5, 1, 1, 2, 2, 4, 4],
            "blocks": 2,
            "attention": [0, 0, 0, 0, 1, 1, 1],
            "classes": 1000,
        },
        559,
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_networks_are_read_off_their_shapes_and_have_the_published_size(name: str) -> None:
    arguments, millions = RELEASED[name]
    network = meta(**arguments)
    came = adm.architecture(network.state_dict(), FILE)
    assert came == {key: value for key, value in network.config.items() if key in came}
    parameters = sum(value.numel() for value in network.parameters())
    assert parameters / 1e6 == pytest.approx(millions, rel=2e-3)
    assert ADM.weights_at_least(**network.config) < parameters


@pytest.mark.parametrize("name", ["ffhq_10m", "256x256_diffusion_uncond"])
def test_deepinv_has_the_same_names_and_shapes_for_the_two_it_knows(name: str) -> None:
    from deepinv.models import DiffUNet

    with torch.device("meta"):
        theirs = DiffUNet(large_model=name != "ffhq_10m", pretrained=None).state_dict()
    expected = {key: value.shape for key, value in theirs.items() if not key.startswith("sqrt_")}
    ours = meta(**RELEASED[name][0]).state_dict()
    assert {key: value.shape for key, value in ours.items()} == expected


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("mults", [[2], [1, 1, 2], [0.5, 1, 1]])
@pytest.mark.parametrize("residual_resampling", [True, False])
def test_the_architecture_is_read_off_any_shape(
    blocks: int, mults: list[float], residual_resampling: bool
) -> None:
    for attended in range(len(mults)):
        network = meta(
            channels=1,
            outputs=1 + attended % 2,
            width=64,
            mults=mults,
            blocks=blocks,
            attention=[level == attended for level in range(len(mults))],
            scale_shift=bool(attended % 2),
            residual_resampling=residual_resampling or len(mults) == 1,  # leaves no trace without levels
            classes=10 * attended,
        )
        came = adm.architecture(network.state_dict(), FILE)
        assert came == {key: value for key, value in network.config.items() if key in came}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"legacy": False},
        {"residual_resampling": False, "scale_shift": False, "blocks": 2},
        {"classes": 5, "heads": 0, "head_channels": 16},
    ],
    ids=str,
)
def test_the_network_computes_what_the_original_does(changes: dict[str, Any]) -> None:
    original = pytest.importorskip("azula.plugins.adm._src.unet")  # a copy of the original, with its licence
    shape = {
        **TINY,
        "legacy": True,
        "residual_resampling": True,
        "scale_shift": True,
        "classes": 0,
        **changes,
    }
    theirs = original.UNetModel(
        image_size=16,
        in_channels=3,
        model_channels=32,
        out_channels=6,
        num_res_blocks=shape["blocks"],
        attention_resolutions={2},
        channel_mult=(1, 2),
        num_classes=shape["classes"] or None,
        num_heads=shape["heads"],
        num_head_channels=shape.get("head_channels", -1),
        use_scale_shift_norm=shape["scale_shift"],
        resblock_updown=shape["residual_resampling"],
        use_new_attention_order=not shape["legacy"],
    ).eval()
    weights = weights_of(**changes)
    theirs.load_state_dict(weights)
    options: dict[str, Any] = {"attention_order": "legacy" if shape["legacy"] else "new"}
    options |= {"heads": 4} if shape["heads"] else {"head_channels": 16}
    ours = adm.build(weights, FILE, options)[0]
    x, t = torch.randn(2, 3, 16, 24), torch.tensor([3.0, 700.5])
    told = [torch.tensor([0, 4])] if shape["classes"] else []
    with torch.no_grad():
        expected = theirs(x, t, *told)
        torch.testing.assert_close(ours(x, t, *told), expected, rtol=1e-5, atol=1e-6)
    assert expected.std() > 0.05


def alphas(schedule: str, steps: int = 1000) -> np.ndarray:
    """ᾱ as guided_diffusion/gaussian_diffusion.py has it."""
    if schedule == "linear":
        beta = np.linspace(1000 / steps * 0.0001, 1000 / steps * 0.02, steps)
    else:
        curve = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - curve[1:] / curve[:-1], 0.999)
    return np.cumprod(1 - beta)


@pytest.mark.parametrize(("schedule", "steps"), [("linear", 1000), ("cosine", 1000), ("linear", 100)])
def test_d_is_the_predicted_start_of_the_original_sampler_at_its_own_timesteps(
    schedule: str, steps: int
) -> None:
    weights = weights_of()
    prior = prior_of(weights, schedule=schedule, steps=steps)
    kept = alphas(schedule, steps)
    for step in (0, 7, steps // 2, steps - 10):
        a = kept[step]
        x_t = torch.randn(2, 3, 16, 16)  # √ᾱ x₀ + √(1 − ᾱ) ε on [-1, 1]
        with torch.no_grad():
            epsilon = prior.network(x_t, torch.full((2,), step * 1000 / steps))[:, :3]
        start = (1 / a) ** 0.5 * x_t - (1 / a - 1) ** 0.5 * epsilon
        sigma = ((1 - a) / a) ** 0.5 / 2
        came = prior((x_t / a**0.5 + 1) / 2, torch.full((2,), sigma))
        # in the state's own unit: at high noise the start is the difference of two large numbers
        torch.testing.assert_close(came * a**0.5, (start + 1) / 2 * a**0.5, rtol=1e-5, atol=1e-5)


def test_the_learned_variance_does_not_change_d() -> None:
    weights = weights_of()
    other = {**weights, "out.2.bias": weights["out.2.bias"] + torch.tensor([0.0, 0, 0, 5, 5, 5])}
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(prior_of(weights)(x, 0.3), prior_of(other)(x, 0.3))
    assert "learned variance" in prior_of(weights).card.format
    assert "fixed variance" in prior_of(weights_of(outputs=3)).card.format


def test_half_precision_files_load_in_float32(tmp_path: Path) -> None:
    half = {name: value.half() for name, value in weights_of().items()}
    torch.save(half, tmp_path / "half.pt")
    x = torch.rand(1, 3, 16, 16)
    came = prior_of(read_tensors(tmp_path / "half.pt"))
    expected = prior_of({name: value.float() for name, value in half.items()})
    assert {value.dtype for value in came.network.state_dict().values()} == {torch.float32}
    assert torch.equal(came(x, 0.3), expected(x, 0.3))


def test_saved_as_ours_it_is_the_same_prior(tmp_path: Path) -> None:
    prior = prior_of(weights_of(classes=5))
    save_prior(
        tmp_path / "ours.safetensors", prior.network, prior.precondition, prior.card, dtype=torch.float32
    )
    came = load_prior(tmp_path / "ours.safetensors", precision="float32")
    x = torch.rand(1, 3, 16, 16)
    assert isinstance(came, NetworkPrior)
    assert torch.equal(came.given(2)(x, 0.3), prior.given(2)(x, 0.3))


def test_a_class_conditional_network_needs_a_label_and_listens_to_it() -> None:
    prior = prior_of(weights_of(classes=5))
    x = torch.rand(1, 3, 16, 16)
    with pytest.raises(RequestError, match="never trained without a label: give one of 0 to 4"):
        prior(x, 0.3)
    with pytest.raises(RequestError, match="labels 0 to 4"):
        prior.given(5)
    assert (prior.given(0)(x, 0.3) - prior.given(4)(x, 0.3)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (RELEASED["ffhq_10m"][0], (256, "linear", 1000, 0, True)),
        (RELEASED["64x64_diffusion"][0], (64, "cosine", 1000, 0, False)),
        (RELEASED["128x128_diffusion"][0], (128, "linear", 1000, 4, True)),
        (RELEASED["256x256_diffusion"][0], (256, "linear", 1000, 0, True)),
        (RELEASED["512x512_diffusion"][0], (512, "linear", 1000, 0, True)),
        (
            {"width": 128, "mults": [1, 2, 2, 2], "attention": [0, 1, 1, 0], "residual_resampling": False},
            (32, "cosine", 4000, 4, True),
        ),
        ({"width": 32, "mults": [1, 1, 3], "attention": [0, 1, 0]}, (32, "linear", 1000, 4, True)),
    ],
    ids=str,
)
def test_what_shapes_do_not_show_is_as_in_the_releases(
    shape: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    size, schedule, steps, heads = adm.chosen(
        adm.architecture(meta(**shape).state_dict(), FILE), adm.Options(), FILE
    )
    assert (size, schedule, steps, heads["heads"], heads["legacy"]) == expected
    assert heads["head_channels"] == 64


def test_the_card_says_what_was_recognised_and_its_noise_levels() -> None:
    _, precondition, card = adm.build(weights_of(classes=5), Path("some/where.pt"), {})
    assert (card.name, card.channels, card.size, card.classes) == ("where", 3, 16, 5)
    assert card.format == (
        "guided-diffusion (ADM), 16×16, learned variance, 5 classes, linear schedule of 1000 steps"
    )
    first, last = (((1 - a) / a) ** 0.5 / 2 for a in alphas("linear")[[0, -1]])
    assert (card.sigma_min, card.sigma_max) == pytest.approx((first, last))
    assert card.sigma_min == precondition.levels[0]


def broken(change: str) -> dict[str, Tensor]:
    weights = weights_of()
    if change == "missing":
        del weights["middle_block.0.in_layers.2.bias"]
    if change == "unexpected":
        weights["middle_block.3.weight"] = torch.zeros(1)
    if change == "shape":
        weights["input_blocks.3.0.skip_connection.weight"] = torch.zeros(64, 16, 1, 1)
    if change == "hole":
        weights = {name: value for name, value in weights.items() if not name.startswith("output_blocks.1.")}
    if change == "nan":
        weights["out.0.bias"][3] = torch.nan
    if change == "latent":
        weights["input_blocks.1.1.transformer_blocks.0.norm1.weight"] = torch.zeros(1)
    if change == "upsampler":
        weights["input_blocks.0.0.weight"] = torch.zeros(32, 6, 3, 3)
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"middle_block\.0\.in_layers\.2\.bias: expected \(64,\), got nothing"),
        ("unexpected", r"middle_block\.3\.weight: expected nothing, got \(1,\)"),
        ("shape", r"skip_connection\.weight: expected \(64, 32, 1, 1\), got \(64, 16, 1, 1\)"),
        ("hole", "not what guided-diffusion"),
        ("nan", r"out\.0\.bias holds values that are not finite"),
        ("latent", "latent diffusion network"),
        ("upsampler", "takes 6 channels and gives 6"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_what_differs(change: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        adm.build(broken(change), FILE, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "quadratic"}, "schedule"),
        ({"heads": 5}, "64 channels cannot have 5 heads"),
        ({"head_channels": 48}, "64 channels cannot have 48 channels a head"),
        ({"heads": 2, "head_channels": 32}, "heads or head_channels, got both"),
        ({"steps": 10}, "steps"),
        ({"size": 0}, "size: expected a positive number"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        adm.build(weights_of(), FILE, options)


def test_the_noisy_classifier_of_the_same_release_is_not_taken_for_a_denoiser() -> None:
    weights = weights_of()
    classifier = {
        name: value for name, value in weights.items() if not name.startswith(("output_blocks", "out."))
    }
    assert not adm.recognises({**classifier, "out.2.positional_embedding": torch.zeros(64, 65)})
