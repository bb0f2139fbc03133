"""diffusers folders: D(x, σ) is what diffusers' own scheduler makes of the network's output, in every convention."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from invdiff import load_prior
from invdiff.errors import RequestError
from invdiff.priors import EDM, VE, VP, Flow, NetworkPrior, Prior, with_label
from tests.priors.formats.conftest import randomise

diffusers = pytest.importorskip("diffusers")

# Some schedulers of diffusers convert tensors in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Make = Callable[..., Any]
GREY = {"in_channels": 1, "out_channels": 1}


def load(path: Any, **how: Any) -> NetworkPrior:
    prior = load_prior(path, precision="float32", **how)
    assert isinstance(prior, NetworkPrior)
    return prior


def noisy(channels: int = 3, side: int = 16, batch: int = 2) -> tuple[Tensor, Tensor]:
    """A picture on [-1, 1] and noise."""
    generator = torch.Generator().manual_seed(3)
    shape = (batch, channels, side, side)
    return 2 * torch.rand(shape, generator=generator) - 1, torch.randn(shape, generator=generator)


def close(ours: Tensor, theirs: Tensor, sigma: float) -> None:
    """In the network's range: to 1e-5 of the largest number that goes in."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * (1 + sigma))


def agree(prior: Prior, network: Any, scheduler: Any, t: int, **labels: Any) -> None:
    """At step t: ε added by diffusers, x̂₀ by its scheduler's step, against D at the σ that this is."""
    clean, noise = noisy(network.config.in_channels)
    kept = scheduler.alphas_cumprod[t].double()
    sigma = float(((1 - kept) / kept).sqrt())
    z = scheduler.add_noise(clean, noise, torch.tensor([t] * len(clean)))
    with torch.no_grad():
        output = network(z, torch.tensor([t] * len(z)), **labels).sample[:, : z.shape[1]]
    theirs = scheduler.step(output, t, z).pred_original_sample
    x = (z / kept.sqrt().float() + 1) / 2
    close(2 * prior(x, sigma / 2) - 1, theirs, sigma)


SCHEDULES = {
    "linear": {},
    "scaled": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "given": {"trained_betas": [0.001, 0.004, 0.02, 0.1, 0.3], "num_train_timesteps": 5},
    "short": {"num_train_timesteps": 50, "beta_end": 0.2},
    "clipped": {"clip_sample": True, "thresholding": True},
}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
def test_d_is_the_schedulers_x0(
    make_unet: Make, save: Make, kind: str, schedule: str, prediction: str
) -> None:
    network = make_unet()
    how = {"clip_sample": False, **SCHEDULES[schedule], "prediction_type": prediction}
    scheduler = getattr(diffusers, kind)(**how)
    prior = load(save(network, scheduler))
    scheduler.register_to_config(
        clip_sample=False, thresholding=False
    )  # a sampler's habits, and no part of D
    scheduler.set_timesteps(scheduler.config.num_train_timesteps)
    for share in (0, 0.1, 0.5, 0.99):
        agree(prior, network, scheduler, int(share * scheduler.config.num_train_timesteps))
    assert isinstance(prior.precondition, VP)
    assert prior.card.format == f"diffusers UNet2DModel, {kind}, {prediction}"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_euler_s_variance_exploding_steps_are_the_same_d(
    make_unet: Make, save: Make, prediction: str
) -> None:
    network = make_unet()
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type=prediction)
    prior = load(save(network, scheduler))
    clean, noise = noisy()
    scheduler.set_timesteps(1000)
    for index in (0, 500, 999):
        scheduler._step_index = None
        t, sigma = scheduler.timesteps[index], float(scheduler.sigmas[index])
        sample = clean + sigma * noise
        with torch.no_grad():
            output = network(scheduler.scale_model_input(sample, t), t).sample
        theirs = scheduler.step(output, t, sample).pred_original_sample
        close(2 * prior((sample + 1) / 2, sigma / 2) - 1, theirs, sigma)


@pytest.mark.parametrize(
    "kind",
    ["PNDMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler"],
)
def test_schedulers_that_share_the_table_of_betas_are_the_same_prior(
    make_unet: Make, save: Make, kind: str
) -> None:
    network, table = make_unet(), {"beta_start": 0.0002, "beta_end": 0.03}
    prior = load(save(network, getattr(diffusers, kind)(**table)))
    scheduler = diffusers.DDPMScheduler(**table, clip_sample=False)
    scheduler.set_timesteps(1000)
    agree(prior, network, scheduler, 300)


def test_score_sde_ve_pictures_are_on_0_1_and_its_network_is_told_sigma(make_unet: Make, save: Make) -> None:
    skip = {
        "time_embedding_type": "fourier",
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        "block_out_channels": (32, 32),
        "norm_num_groups": 8,
    }
    network = make_unet(**skip)
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0, num_train_timesteps=200)
    prior = load(save(network, scheduler))
    assert prior.precondition == VE(black=0.0, white=1.0)
    assert (prior.card.sigma_min, prior.card.sigma_max) == (0.01, 50.0)
    clean, noise = noisy()
    scheduler.set_timesteps(200)
    scheduler.set_sigmas(200)
    for index in (0, 120, 199):
        t, sigma = scheduler.timesteps[index], scheduler.sigmas[index]
        x = (clean + 1) / 2 + sigma * noise
        with torch.no_grad():
            score = network(x, sigma * torch.ones(len(x))).sample
        # The mean that step_pred draws around goes along score times the variance that the step takes away; D is where
        # it would go if the step took all of it.
        levels = scheduler.discrete_sigmas
        at = int(t * (len(scheduler.timesteps) - 1))
        taken = levels[at] ** 2 - (levels[at - 1] ** 2 if at else 0)
        mean = scheduler.step_pred(score, t, x, generator=torch.Generator()).prev_sample_mean
        theirs = x + (mean - x) * sigma**2 / taken
        torch.testing.assert_close(prior(x, float(sigma)), theirs, rtol=2e-5, atol=2e-5 * (1 + float(sigma)))
    assert torch.equal(prior(x, 0.0), x)


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_flow_matching_is_a_straight_line_to_d(make_unet: Make, save: Make, kind: str) -> None:
    network = make_unet()
    scheduler = getattr(diffusers, kind)(shift=3.0)
    prior = load(save(network, scheduler))
    assert prior.precondition == Flow(scale=1000)
    clean, noise = noisy()
    scheduler.set_timesteps(50)
    for index in (1, 25, 48):
        scheduler._step_index = None
        t, s, after = scheduler.timesteps[index], scheduler.sigmas[index], scheduler.sigmas[index + 1]
        if kind.startswith("FlowMatchHeun"):
            s = t / 1000
        z = (1 - s) * clean + s * noise
        with torch.no_grad():
            output = network(z, t).sample
        if kind.startswith("FlowMatchEuler"):  # its step goes from s to the next level; D is its end at s = 0
            step = scheduler.step(output, t, z).prev_sample
            theirs = z + (step - z) * s / (s - after)
        else:
            theirs = z - s * output
        sigma = float(s / (1 - s))
        close(2 * prior((z / (1 - s) + 1) / 2, sigma / 2) - 1, theirs, sigma)


@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_schedulers_precondition_as_ours(make_unet: Make, save: Make, kind: str) -> None:
    network = make_unet()
    scheduler = getattr(diffusers, kind)(sigma_data=0.6)
    prior = load(save(network, scheduler))
    assert prior.precondition == EDM(sigma_data=0.6)
    assert (prior.card.sigma_min, prior.card.sigma_max) == (0.001, 40.0)
    clean, noise = noisy()
    for sigma in (0.01, 1.0, 30.0):
        x, level = clean + sigma * noise, torch.tensor(sigma)
        with torch.no_grad():
            output = network(
                scheduler.precondition_inputs(x, level), scheduler.precondition_noise(level)
            ).sample
        theirs = scheduler.precondition_outputs(x, output, level)
        close(2 * prior((x + 1) / 2, sigma / 2) - 1, theirs, sigma)


def test_a_network_with_labels_answers_for_the_one_it_is_given(make_unet: Make, save: Make) -> None:
    network = make_unet(num_class_embeds=4)
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    scheduler.set_timesteps(1000)
    folder = save(network, scheduler)
    prior = load(folder)
    assert prior.card.classes == 4
    for label in (0, 3):
        agree(prior.given(label), network, scheduler, 200, class_labels=torch.tensor([label] * 2))
    with pytest.raises(RequestError, match="give a label, 0 to 3"):
        prior(torch.rand(1, 3, 16, 16), 0.3)
    spare = load(folder, options={"classes": 3})  # its last label stands for none
    assert spare.card.classes == 3
    agree(spare, network, scheduler, 200, class_labels=torch.tensor([3, 3]))


def make_dit(**config: Any) -> Any:
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 3, "out_channels": 6}
    small |= {"num_layers": 2, "sample_size": 16, "patch_size": 4, "num_embeds_ada_norm": 5}
    return randomise(diffusers.DiTTransformer2DModel(**{**small, **config}))


@pytest.mark.parametrize("channels", [{"out_channels": 3}, {"out_channels": 6}, GREY])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_dit_of_pixels_is_a_prior_with_labels_and_without(
    save: Make, channels: dict[str, int], prediction: str
) -> None:
    network = make_dit(**channels)
    scheduler = diffusers.DDPMScheduler(clip_sample=False, prediction_type=prediction)
    scheduler.set_timesteps(1000)
    prior = load(save(network, scheduler))
    assert (prior.card.classes, prior.card.size, prior.card.channels) == (5, 16, network.config.in_channels)
    for t, label in ((0, 2), (400, 5), (990, 0)):
        labels = torch.tensor([label] * 2)
        agree(prior.given(None if label == 5 else label), network, scheduler, t, class_labels=labels)
    with pytest.raises(ValueError, match="expected pictures of 16×16"):
        prior(torch.rand(1, network.config.in_channels, 24, 24), 0.3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_another_type_become_float32(make_unet: Make, save: Make, dtype: torch.dtype) -> None:
    network = make_unet().to(dtype)
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    scheduler.set_timesteps(1000)
    prior = load(save(network, scheduler, variant="fp16"))
    assert {value.dtype for value in prior.network.state_dict().values()} == {torch.float32}
    agree(prior, network.float(), scheduler, 100)


def test_split_weights_and_pickled_tensors_are_read(make_unet: Make, save: Make) -> None:
    network, scheduler = make_unet(), diffusers.DDPMScheduler(clip_sample=False)
    scheduler.set_timesteps(1000)
    folder = save(network, scheduler, max_shard_size="8KB")
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    agree(load(folder), network, scheduler, 100)
    for file in (folder / "unet").glob("*safetensors*"):
        file.unlink()
    torch.save(network.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    agree(load(folder), network, scheduler, 100)


def test_attention_layers_by_their_names_of_old_are_read(make_unet: Make, save: Make) -> None:
    network, scheduler = make_unet(), diffusers.DDPMScheduler(clip_sample=False)
    scheduler.set_timesteps(1000)
    folder = save(network, scheduler)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    tensors = load_file(file)
    for new, name in old.items():
        tensors = {key.replace(new, name): value for key, value in tensors.items()}
    assert any("proj_attn" in key for key in tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    agree(load(folder), network, scheduler, 100)


def test_a_bare_folder_the_network_s_folder_and_the_pipeline_s_are_one_prior(
    make_unet: Make, save: Make
) -> None:
    network = make_unet()
    scheduler = diffusers.DDPMScheduler(clip_sample=False, beta_end=0.03)
    x = torch.rand(1, 3, 16, 16)
    whole = save(network, scheduler)
    priors = [load(whole), load(whole / "unet"), load(diffusers.DDPMPipeline(make_unet(), scheduler))]
    for prior in priors:
        close(prior(x, 0.4), priors[0](x, 0.4), 0.4)
    assert priors[0].card.checksum
    bare = save(network, scheduler, bare=True)
    (bare / "model_index.json").unlink()
    close(load(bare)(x, 0.4), priors[0](x, 0.4), 0.4)


def test_without_a_scheduler_ddpm_is_assumed_and_said_and_options_say_otherwise(
    make_unet: Make, save: Make
) -> None:
    folder = save(make_unet(), bare=True)
    prior = load(folder)
    assert prior.card.format.startswith("diffusers UNet2DModel, DDPMScheduler assumed")
    said = load(
        folder, options={"prediction": "v_prediction", "range": [0, 1], "size": None, "licence": "MIT"}
    )
    precondition = said.precondition
    assert isinstance(precondition, VP)
    assert (precondition.prediction, precondition.black, precondition.white) == ("v", 0.0, 1.0)
    assert (said.card.size, said.card.licence) == (None, "MIT")
    assert said(torch.rand(1, 3, 9, 13), 0.3).shape == (1, 3, 9, 13)
    for wrong, message in (
        ({"predictoin": "sample"}, "unknown option predictoin.*'prediction'"),
        ({"prediction": "noise"}, "unknown prediction 'noise'"),
        ({"range": [1, 0]}, "range: expected black below white"),
        ({"range": "wide"}, "range: expected two numbers"),
    ):
        with pytest.raises(RequestError, match=message):
            load(folder, options=wrong)


def test_a_network_without_attention_takes_any_size(make_unet: Make, save: Make) -> None:
    plain = {
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "add_attention": False,
    }
    prior = load(save(make_unet(**plain), diffusers.DDPMScheduler()))
    assert (prior.card.size, prior.card.multiple) == (None, 2)
    assert prior(torch.rand(1, 3, 21, 9), 0.3).shape == (1, 3, 21, 9)
    assert load(save(make_unet(), diffusers.DDPMScheduler())).card.size == 16


def test_a_schedule_that_ends_in_noise_alone_ends_a_step_earlier(make_unet: Make, save: Make) -> None:
    scheduler = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        clip_sample=False,
        beta_schedule="scaled_linear",
    )
    network = make_unet()
    prior = load(save(network, scheduler))
    assert float(scheduler.alphas_cumprod[-1]) == 0
    assert len(prior.precondition.levels) == 999
    scheduler.set_timesteps(1000)
    agree(prior, network, scheduler, 700)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_changes_little(make_unet: Make, save: Make, precision: str) -> None:
    folder = save(make_unet(), diffusers.DDPMScheduler())
    x = torch.rand(1, 3, 16, 16)
    full, low = load(folder)(x, 0.2), load_prior(folder, precision=precision)(x, 0.2)
    assert 0 < (low - full).abs().max() < 0.05


def rewritten(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "latent": (
        lambda f: rewritten(f / "model_index.json", vqvae=["diffusers", "VQModel"]),
        r"latent diffusion model .*vqvae",
    ),
    "latent network": (
        lambda f: rewritten(f / "unet/config.json", in_channels=4),
        "4 channels, a latent model",
    ),
    "conditional": (lambda f: rewritten(f / "unet/config.json", in_channels=6), "6 channels, a conditional"),
    "answer": (lambda f: rewritten(f / "unet/config.json", out_channels=4), "3 channels in and 4 out"),
    "text": (lambda f: rewritten(f / "unet/config.json", _class_name="UNet2DConditionModel"), "told texts"),
    "vector": (lambda f: rewritten(f / "unet/config.json", class_embed_type="identity"), "expected labels"),
    "scheduler": (
        lambda f: rewritten(f / "scheduler/scheduler_config.json", _class_name="DDPMSchedular"),
        r"unknown scheduler.*'DDPMSchedular'.*Did you mean 'DDPMScheduler'",
    ),
    "no JSON": (lambda f: (f / "unet/config.json").write_text("{"), "expected JSON"),
    "a list": (lambda f: (f / "unet/config.json").write_text("[]"), "expected a JSON object"),
    "blocks": (
        lambda f: rewritten(f / "unet/config.json", block_out_channels=[8]),
        "no UNet2DModel can be built",
    ),
    "wider": (
        lambda f: rewritten(f / "unet/config.json", block_out_channels=[16, 16]),
        r"not what unet/config\.json says: conv_in\.bias: expected \(16,\), got \(8,\); .*; and \d+ more",
    ),
    "no weights": (
        lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(),
        r"no weights: expected .*diffusion_pytorch_model\.safetensors",
    ),
    "cut": (
        lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(
            (f / "unet/diffusion_pytorch_model.safetensors").read_bytes()[:5000]
        ),
        r"diffusion_pytorch_model\.safetensors: truncated or corrupt",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_prior_is_refused_in_one_line(make_unet: Make, save: Make, name: str) -> None:
    folder = save(make_unet(), diffusers.DDPMScheduler())
    change, said = REFUSALS[name]
    change(folder)
    with pytest.raises(RequestError, match=said) as caught:
        load_prior(folder)
    assert "\n" not in str(caught.value)


def test_a_network_without_its_scheduler_and_a_latent_pipeline_are_refused_as_objects(
    make_unet: Make,
) -> None:
    with pytest.raises(RequestError, match="a diffusers UNet2DModel without its scheduler"):
        load_prior(make_unet())
    vq = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4)
    pipeline = diffusers.LDMPipeline(vq, make_unet(), diffusers.DDIMScheduler())
    with pytest.raises(RequestError, match="latent diffusion model"):
        load_prior(pipeline)


def test_without_diffusers_the_extra_is_named(
    make_unet: Make, save: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    folder = save(make_unet(), diffusers.DDPMScheduler())
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(RequestError, match=r"needs diffusers: pip install 'invdiff\[diffusers\]'"):
        load_prior(folder)


def test_options_beside_a_folder_apply_and_an_argument_goes_before(
    make_unet: Make, save: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(make_unet(), diffusers.DDPMScheduler())
    beside = folder.with_name("model.yaml")
    beside.write_text("prediction: v_prediction\nrange: [0, 1]\nlicence: MIT\n")
    monkeypatch.chdir(folder)
    for path in (folder, f"{folder}/", ".", "../model", "unet/.."):
        prior = load(path, options={"licence": "CC0"})
        assert isinstance(prior.precondition, VP)
        assert (prior.precondition.prediction, prior.precondition.black) == ("v", 0.0), path
        assert prior.card.licence == "CC0"
    beside.write_text("predictoin: sample\n")
    with pytest.raises(RequestError, match=r"model: unknown option predictoin\. Did you mean 'prediction'"):
        load(folder)


CONTRADICTIONS = [
    ("FlowMatchEulerDiscreteScheduler", {}, "epsilon", "expected flow_prediction$"),
    ("FlowMatchHeunDiscreteScheduler", {}, "v_prediction", "expected flow_prediction$"),
    ("ScoreSdeVeScheduler", {}, "epsilon", "its output is the score; leave the option out"),
    ("EDMEulerScheduler", {}, "sample", "expected epsilon, which is EDM's F"),
    (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
        "epsilon",
        "with use_flow_sigmas: expected flow_prediction$",
    ),
]


@pytest.mark.parametrize(("kind", "how", "prediction", "said"), CONTRADICTIONS)
def test_a_prediction_that_the_scheduler_contradicts_is_refused_in_one_line(
    make_unet: Make, save: Make, kind: str, how: dict[str, Any], prediction: str, said: str
) -> None:
    folder = save(make_unet(), getattr(diffusers, kind)(**how))
    load(folder)
    with pytest.raises(RequestError, match=f"prediction {prediction} with a {kind}.*{said}") as caught:
        load(folder, options={"prediction": prediction})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("x", r"options: classes: expected a valid integer.*'x'"),
        (-3, r"options: classes: expected 0 to 4, which it knows, got -3"),
        (20, r"options: classes: expected 0 to 4, which it knows, got 20"),
        (0, r"always told a class: classes: expected at least 1, got 0"),
    ],
)
def test_classes_that_a_network_has_not_are_refused(
    make_unet: Make, save: Make, classes: Any, said: str
) -> None:
    for network in (make_unet(num_class_embeds=4), make_dit(num_embeds_ada_norm=4)):
        with pytest.raises(RequestError, match=said):
            load(save(network, diffusers.DDPMScheduler(), bare=True), options={"classes": classes})


def test_guidance_of_a_network_without_no_label_says_that_it_is_missing(make_unet: Make, save: Make) -> None:
    folder = save(make_unet(num_class_embeds=4), diffusers.DDPMScheduler())
    x = torch.rand(1, 3, 16, 16)
    assert with_label(load(folder), 3)(x, 0.3).shape == x.shape
    with pytest.raises(RequestError, match='guidance needs a network that knows "no label"'):
        with_label(load(folder), 3, guidance=2.0)(x, 0.3)
    spare = load(folder, options={"classes": 3})
    assert with_label(spare, 2, guidance=2.0)(x, 0.3).shape == x.shape
