"""score_sde's weights: names and shapes as in its module tree, the network and D as in its score function."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.priors import NetworkPrior, load_prior, save_prior
from invdiff.priors.formats import score_sde
from invdiff.priors.formats.base import read_tensors
from invdiff.priors.nets.ncsnpp import NCSNpp

FILE = Path("weights.pt")

# The module trees of models/ncsnpp.py and models/ddpm.py: nf 16, ch_mult (1, 2), one block a level, attention on the
# second level. A row is one of all_modules: what it is, and its channels.
TREES: dict[str, list[tuple[Any, ...]]] = {
    "NCSN++": [
        *(("fourier", 16), ("dense", 32, 64), ("dense", 64, 64), ("conv", 3, 16)),
        *(("block", 16, 16), ("resampling", 16), ("smaller", 3, 16)),
        *(("block", 16, 32), ("attention", 32)),
        *(("block", 32, 32), ("attention", 32), ("block", 32, 32)),
        *(("block", 64, 32), ("block", 48, 32), ("attention", 32), ("resampling", 32)),
        *(("block", 48, 16), ("block", 32, 16), ("norm", 16), ("conv", 16, 3)),
    ],
    "NCSN++ with pyramids": [
        *(("fourier", 16), ("dense", 32, 64), ("dense", 64, 64), ("conv", 3, 16)),
        *(("block", 16, 16), ("resampling", 16), ("nothing",), ("combine", 3, 16)),
        *(("block", 16, 32), ("attention", 32)),
        *(("block", 32, 32), ("attention", 32), ("block", 32, 32)),
        *(
            ("block", 64, 32),
            ("block", 48, 32),
            ("attention", 32),
            ("norm", 32),
            ("conv", 32, 3),
            ("resampling", 32),
        ),
        *(("block", 48, 16), ("block", 32, 16), ("nothing",), ("norm", 16), ("conv", 16, 3)),
    ],
    "DDPM++": [
        *(("dense", 16, 64), ("dense", 64, 64), ("conv", 3, 16)),
        *(("block", 16, 16), ("resampling", 16)),
        *(("block", 16, 32), ("attention", 32)),
        *(("block", 32, 32), ("attention", 32), ("block", 32, 32)),
        *(("block", 64, 32), ("block", 48, 32), ("attention", 32), ("resampling", 32)),
        *(("block", 48, 16), ("block", 32, 16), ("norm", 16), ("conv", 16, 3)),
    ],
    "DDPM": [
        *(("dense", 16, 64), ("dense", 64, 64), ("conv", 3, 16)),
        *(("ddpmblock", 16, 16), ("convresample", 16)),
        *(("ddpmblock", 16, 32), ("attention", 32)),
        *(("ddpmblock", 32, 32), ("attention", 32), ("ddpmblock", 32, 32)),
        *(("ddpmblock", 64, 32), ("ddpmblock", 48, 32), ("attention", 32), ("convresample", 32)),
        *(("ddpmblock", 48, 16), ("ddpmblock", 32, 16), ("norm", 16), ("conv", 16, 3)),
    ],
}
VP = {"fourier": False, "pyramid_in": "none", "fir": False, "centered": True, "over_sigma": False}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "NCSN++": {},
    "NCSN++ with pyramids": {"pyramid_in": "input_skip", "pyramid_out": "output_skip"},
    "DDPM++": VP,
    "DDPM": {**VP, "ddpm": True, "rescale": False},
}
TINY: dict[str, Any] = {"width": 16, "mults": [1, 2], "blocks": 1, "attention": [False, True]}


def shapes_of(kind: str, *c: int) -> dict[str, tuple[int, ...]]:
    """Of one of all_modules."""

    def nin(i: int, a: int, b: int) -> dict[str, tuple[int, ...]]:
        return {f"NIN_{i}.W": (a, b), f"NIN_{i}.b": (b,)}

    def layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}weight": shape, f"{name}bias": shape[:1]}

    if kind in ("block", "ddpmblock", "resampling"):
        a, b = c[0], c[-1]
        return {
            **layer("GroupNorm_0.", a),
            **layer("Conv_0.", b, a, 3, 3),
            **layer("Dense_0.", b, 64),
            **layer("GroupNorm_1.", b),
            **layer("Conv_1.", b, b, 3, 3),
            **(nin(0, a, b) if kind == "ddpmblock" and a != b else {}),
            **(layer("Conv_2.", b, a, 1, 1) if kind == "resampling" or (kind == "block" and a != b) else {}),
        }
    if kind == "attention":
        return {
            **layer("GroupNorm_0.", *c),
            **{k: v for i in range(4) for k, v in nin(i, c[0], c[0]).items()},
        }
    return {
        "fourier": lambda: {"W": c},
        "dense": lambda: layer("", c[1], c[0]),
        "conv": lambda: layer("", c[1], c[0], 3, 3),
        "norm": lambda: layer("", c[0]),
        "smaller": lambda: layer("Conv2d_0.", c[1], c[0], 3, 3),
        "combine": lambda: layer("Conv.", c[1], c[0], 1, 1),
        "convresample": lambda: layer("Conv_0.", c[0], c[0], 3, 3),
        "nothing": dict,
    }[kind]()


def table(name: str) -> dict[str, tuple[int, ...]]:
    rows = enumerate(TREES[name])
    return {f"all_modules.{i}.{key}": shape for i, row in rows for key, shape in shapes_of(*row).items()}


def weights_of(name: str, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in table(name).items():
        spread = 0.1 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        if key == "all_modules.0.W":
            spread = 1.0
        weights[key] = spread * torch.randn(shape, generator=generator)
    return weights


def prior_of(weights: dict[str, Tensor], **options: Any) -> NetworkPrior:
    return NetworkPrior(*score_sde.build(weights, FILE, {"size": 16, **options}))


@pytest.mark.parametrize("name", TREES)
def test_names_and_shapes_are_those_of_the_original_module_tree(name: str) -> None:
    network = NCSNpp(**TINY, **ARGUMENTS[name])
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == table(name)
    assert score_sde.recognises(weights_of(name))
    assert score_sde.architecture(weights_of(name), FILE) == network.config


# The original's forward pass, written over its weights by name: nothing of ours in it.


def filtered(x: Tensor, up: int, down: int, pad: tuple[int, int]) -> Tensor:
    """upfirdn2d with the kernel (1, 3, 3, 1): zeros between pixels, padding, the filter, every down-th pixel."""
    b, c, h, w = x.shape
    spread = torch.zeros(b, c, h * up, w * up)
    spread[:, :, ::up, ::up] = x
    row = torch.tensor([1.0, 3, 3, 1]) / 8 * up
    kernel = torch.outer(row, row)[None, None]
    out = F.conv2d(F.pad(spread, (*pad, *pad)).reshape(b * c, 1, h * up + sum(pad), -1), kernel)
    return out.reshape(b, c, *out.shape[-2:])[:, :, ::down, ::down]


class Literal:
    def __init__(self, name: str, weights: dict[str, Tensor]) -> None:
        self.tree, self.weights, self.at, self.name = TREES[name], weights, 0, name
        self.root = 1.0 if name == "DDPM" else math.sqrt(2)

    def take(self) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
        prefix = f"all_modules.{self.at}."
        self.at += 1
        mine = {k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)}
        return self.tree[self.at - 1], mine

    def norm(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.group_norm(x, min(x.shape[1] // 4, 32), w, b, eps=1e-6)

    def smaller(self, x: Tensor) -> Tensor:
        fir = self.name.startswith("NCSN")
        return filtered(x, 1, 2, (1, 1)) if fir else F.avg_pool2d(x, 2)

    def larger(self, x: Tensor) -> Tensor:
        if self.name.startswith("NCSN"):
            return filtered(x, 2, 1, (2, 1))
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def nin(self, x: Tensor, w: dict[str, Tensor], i: int) -> Tensor:
        return torch.einsum("bchw,cd->bdhw", x, w[f"NIN_{i}.W"]) + w[f"NIN_{i}.b"][:, None, None]

    def step(self, x: Tensor, temb: Tensor, way: str = "") -> Tensor:
        """The next of all_modules, a block, an attention or DDPM's resampling."""
        (kind, *_), w = self.take()
        if kind == "convresample":
            if way == "down":
                return F.conv2d(F.pad(x, (0, 1, 0, 1)), w["Conv_0.weight"], w["Conv_0.bias"], stride=2)
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            return F.conv2d(x, w["Conv_0.weight"], w["Conv_0.bias"], padding=1)
        h = self.norm(x, w["GroupNorm_0.weight"], w["GroupNorm_0.bias"])
        if kind == "attention":
            q, k, v = (self.nin(h, w, i) for i in range(3))
            weight = torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(x.shape[1])
            weight = weight.flatten(3).softmax(-1).view_as(weight)
            h = torch.einsum("bhwij,bcij->bchw", weight, v)
            return (x + self.nin(h, w, 3)) / self.root
        h = F.silu(h)
        if kind == "resampling":
            change = self.smaller if way == "down" else self.larger
            h, x = change(h), change(x)
        h = F.conv2d(h, w["Conv_0.weight"], w["Conv_0.bias"], padding=1)
        h = h + F.linear(F.silu(temb), w["Dense_0.weight"], w["Dense_0.bias"])[:, :, None, None]
        h = F.silu(self.norm(h, w["GroupNorm_1.weight"], w["GroupNorm_1.bias"]))
        h = F.conv2d(h, w["Conv_1.weight"], w["Conv_1.bias"], padding=1)
        if "Conv_2.weight" in w:
            x = F.conv2d(x, w["Conv_2.weight"], w["Conv_2.bias"])
        if "NIN_0.W" in w:
            x = self.nin(x, w, 0)
        return (x + h) / self.root

    def conv(self, x: Tensor) -> Tensor:
        _, w = self.take()
        return F.conv2d(x, w["weight"], w["bias"], padding=1)

    def end(self, x: Tensor) -> Tensor:
        _, w = self.take()
        return self.conv(F.silu(self.norm(x, w["weight"], w["bias"])))

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        self.at = 0
        ve, pyramids = self.name.startswith("NCSN"), "pyramids" in self.name
        if ve:
            angle = time.log()[:, None] * self.take()[1]["W"][None] * 2 * math.pi
            x = 2 * x - 1
        else:
            frequencies = torch.exp(torch.arange(8) * -(math.log(10000) / 7))
            angle = time[:, None] * frequencies[None]
        temb = torch.cat([angle.sin(), angle.cos()], 1)
        for activation in (lambda e: e, F.silu):
            _, w = self.take()
            temb = F.linear(activation(temb), w["weight"], w["bias"])
        picture = x
        hs = [self.conv(x)]
        hs.append(self.step(hs[-1], temb))
        h = self.step(hs[-1], temb, "down")
        if pyramids:
            self.take()
            _, w = self.take()
            h = h + F.conv2d(self.smaller(picture), w["Conv.weight"], w["Conv.bias"])
        elif ve:
            _, w = self.take()
            lower = filtered(picture, 1, 1, (2, 2))
            lower = F.conv2d(lower, w["Conv2d_0.weight"], w["Conv2d_0.bias"], stride=2)
            h = (lower + h) / self.root
        hs.append(h)
        h = self.step(self.step(h, temb), temb)
        hs.append(h)
        for _ in range(3):
            h = self.step(h, temb)
        out = torch.zeros(())
        for _ in range(2):
            h = self.step(torch.cat([h, hs.pop()], 1), temb)
        h = self.step(h, temb)
        if pyramids:
            out = self.end(h)
        h = self.step(h, temb, "up")
        for _ in range(2):
            h = self.step(torch.cat([h, hs.pop()], 1), temb)
        if pyramids:
            self.take()
            out = self.larger(out)
        out = out + self.end(h)
        assert (self.at, hs) == (len(self.tree), [])
        return out / time[:, None, None, None] if ve else out


@pytest.mark.parametrize("name", TREES)
def test_the_network_computes_what_the_original_does(name: str) -> None:
    weights = weights_of(name)
    network = score_sde.build(weights, FILE, {})[0]
    x = torch.rand(2, 3, 16, 24)
    time = torch.tensor([0.1, 3.0]) if "NCSN" in name else torch.tensor([0.5, 998.0])
    with torch.no_grad():
        expected = Literal(name, weights)(x, time)
        torch.testing.assert_close(network(x, time), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.02


@pytest.mark.parametrize("name", ["NCSN++", "NCSN++ with pyramids"])
def test_d_follows_from_the_ve_score(name: str) -> None:
    weights = weights_of(name)
    prior, score = prior_of(weights), Literal(name, weights)
    for sigma in (0.01, 0.5, 40.0):
        x = torch.rand(2, 3, 16, 16) + sigma * torch.randn(
            2, 3, 16, 16
        )  # on [0, 1]: the VE networks' own range
        with torch.no_grad():
            expected = x + sigma**2 * score(x, torch.full((2,), sigma))
        torch.testing.assert_close(prior(x, sigma), expected, rtol=1e-5, atol=1e-5 * max(1, sigma))


def test_d_follows_from_the_continuous_vp_score() -> None:
    weights = weights_of("DDPM++")
    prior, model = prior_of(weights), Literal("DDPM++", weights)
    for t in (0.001, 0.3, 0.9):
        log_mean = -0.25 * t**2 * 19.9 - 0.5 * t * 0.1
        mean, std = math.exp(log_mean), math.sqrt(1 - math.exp(2 * log_mean))
        x_t = torch.randn(2, 3, 16, 16)  # on [-1, 1]
        with torch.no_grad():
            score = -model(x_t, torch.full((2,), 999 * t)) / std
        start = (x_t + std**2 * score) / mean
        came = prior((x_t / mean + 1) / 2, std / mean / 2)
        # 999·t comes from σ in float32, where small t is known to some 1e-4 of a step
        torch.testing.assert_close(came * mean, (start + 1) / 2 * mean, rtol=1e-5, atol=1e-5)


def test_d_of_ddpm_follows_from_the_discrete_steps() -> None:
    weights = weights_of("DDPM")
    prior, model = prior_of(weights), Literal("DDPM", weights)
    kept = torch.cumprod(1 - torch.linspace(0.1 / 1000, 20 / 1000, 1000, dtype=torch.float64), 0)
    for step in (0, 10, 500, 990):
        a = float(kept[step])
        x_t = torch.randn(2, 3, 16, 16)
        with torch.no_grad():
            start = (x_t - (1 - a) ** 0.5 * model(x_t, torch.full((2,), float(step)))) / a**0.5
        came = prior((x_t / a**0.5 + 1) / 2, ((1 - a) / a) ** 0.5 / 2)
        torch.testing.assert_close(came * a**0.5, (start + 1) / 2 * a**0.5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["NCSN++", "DDPM++"])
def test_deepinv_computes_the_same_from_the_same_weights(family: str) -> None:
    from deepinv.models import NCSNpp as Theirs
    from torch import nn

    shape: dict[str, Any] = {
        "img_resolution": 16,
        "model_channels": 32,
        "channel_mult": (1, 2),
        "num_blocks": 1,
    }
    kind = "ncsn" if family == "NCSN++" else "ddpm"
    theirs = Theirs(kind, **shape, attn_resolutions=(8,), augment_dim=0, pretrained=None).eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = min(32, layer.num_channels // 4)
    ours = NCSNpp(**{**TINY, "width": 32}, **ARGUMENTS[family]).eval()
    state: dict[str, Tensor] = {}
    mine = iter(ours.all_modules)

    def put(name: str, layer: Any) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = (getattr(layer, p) for p in ("weight", "bias"))

    if family == "NCSN++":
        state["map_noise.freqs"] = next(mine).W  # type: ignore[assignment]
    put("map_layer0", next(mine))
    put("map_layer1", next(mine))
    blocks = {
        f"{side}.{name}": block for side in ("enc", "dec") for name, block in getattr(theirs, side).items()
    }
    for name, block in blocks.items():
        layer: Any = next(mine)
        if name.endswith("aux_residual"):
            put(name, layer.Conv2d_0)
        elif not hasattr(block, "conv0"):
            put(name, layer)
        else:
            for a, b in (
                ("norm0", "GroupNorm_0"),
                ("conv0", "Conv_0"),
                ("affine", "Dense_0"),
                ("norm1", "GroupNorm_1"),
            ):
                put(f"{name}.{a}", getattr(layer, b))
            put(f"{name}.conv1", layer.Conv_1)
            if layer.skip:
                put(f"{name}.skip", layer.Conv_2)
            if block.num_heads:
                layer = next(mine)
                put(f"{name}.norm2", layer.GroupNorm_0)
                nins = (layer.NIN_0, layer.NIN_1, layer.NIN_2)
                state[f"{name}.qkv.weight"] = torch.stack([n.W.t() for n in nins], 1).flatten(0, 1)[
                    ..., None, None
                ]
                state[f"{name}.qkv.bias"] = torch.stack([n.b for n in nins], 1).flatten()
                state[f"{name}.proj.weight"] = layer.NIN_3.W.t()[..., None, None]
                state[f"{name}.proj.bias"] = layer.NIN_3.b
    assert next(mine, None) is None
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("resample_filter" in name for name in missing)
    x, sigma = torch.rand(2, 3, 16, 16), torch.tensor([0.1, 3.0])
    ve = family == "NCSN++"
    with torch.no_grad():
        expected = theirs.forward_unet(2 * x - 1 if ve else x, sigma.log() if ve else sigma)
        came = ours(x, sigma) * (sigma[:, None, None, None] if ve else 1)
    torch.testing.assert_close(came, expected, rtol=1e-5, atol=1e-5)


RELEASED: dict[str, tuple[dict[str, Any], int, str]] = {  # by configs/: arguments, size, what is said of it
    "ve/cifar10_ncsnpp_continuous": ({}, 32, "NCSN++, 32×32, VE"),
    "ve/ffhq_256_ncsnpp_continuous": (
        {
            "mults": [1, 1, 2, 2, 2, 2, 2],
            "blocks": 2,
            "attention": [0, 0, 0, 0, 1, 0, 0],
            **ARGUMENTS["NCSN++ with pyramids"],
        },
        *(256, "NCSN++, 256×256, VE"),
    ),
    "ve/ffhq_ncsnpp_continuous": (
        {
            "width": 16,
            "mults": [1, 2, 4, 8, 16, 32, 32, 32],
            "blocks": 1,
            "attention": [0, 0, 0, 0, 0, 0, 1, 0],
            **ARGUMENTS["NCSN++ with pyramids"],
        },
        *(1024, "NCSN++, 1024×1024, VE"),
    ),
    "vp/cifar10_ddpmpp_deep_continuous": ({"blocks": 8, **VP}, 32, "DDPM++, 32×32, VP"),
    "vp/cifar10_ncsnpp_continuous": (
        {**VP, "pyramid_in": "residual", "fir": True},
        *(32, "NCSN++, 32×32, VP"),
    ),
    "vp/ddpm/celebahq": (
        {"mults": [1, 1, 2, 2, 4, 4], "blocks": 2, "attention": [0, 0, 0, 0, 1, 0], **ARGUMENTS["DDPM"]},
        *(256, "DDPM, 256×256, VP, 1000 steps"),
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_networks_are_read_off_their_shapes(name: str) -> None:
    arguments, size, words = RELEASED[name]
    with torch.device("meta"):
        network = NCSNpp(**arguments)
    came = score_sde.architecture(network.state_dict(), FILE)
    assert came == network.config
    assert score_sde.described(came, score_sde.Options())[:2] == (size, f"score_sde {words}")
    parameters = sum(value.numel() for value in network.parameters())
    assert NCSNpp.weights_at_least(**network.config) < parameters
    published = {"ve/cifar10_ncsnpp_continuous": 62.8, "ve/ffhq_256_ncsnpp_continuous": 65.6}
    if name in published:
        assert parameters / 1e6 == pytest.approx(published[name], rel=2e-2)


def test_the_card_takes_its_noise_levels_from_the_file() -> None:
    weights = weights_of("NCSN++")
    sigmas = torch.linspace(math.log(90), math.log(0.02), 100).exp()
    _, _, card = score_sde.build({**weights, "sigmas": sigmas}, Path("some/where.pth"), {"size": 64})
    assert (card.name, card.channels, card.size, card.classes) == ("where", 3, 64, 0)
    assert (card.sigma_min, card.sigma_max) == pytest.approx((0.02, 90), rel=1e-5)
    _, _, card = score_sde.build(weights, FILE, {"size": 256})
    assert (card.sigma_min, card.sigma_max) == pytest.approx((0.01, 348))
    _, _, card = score_sde.build(weights_of("DDPM++"), FILE, {})
    assert card.sigma_max == pytest.approx(math.sqrt(math.exp(10.05) - 1) / 2)


def test_the_averaged_weights_of_a_training_checkpoint_are_taken(tmp_path: Path) -> None:
    model, average = weights_of("NCSN++"), weights_of("NCSN++", seed=1)
    trained = [value for name, value in average.items() if name != "all_modules.0.W"]
    checkpoint = {
        "model": {"module.sigmas": torch.linspace(50, 0.01, 64)}
        | {f"module.{k}": v for k, v in model.items()},
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": trained},
        "optimizer": {"state": {}, "param_groups": []},
        "step": 3,
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    came = read_tensors(tmp_path / "checkpoint.pth")
    for name in model:
        expected = (model if name == "all_modules.0.W" else average)[name]
        assert torch.equal(came[name], expected), name


def test_saved_as_ours_it_is_the_same_prior(tmp_path: Path) -> None:
    prior = prior_of(weights_of("NCSN++ with pyramids"))
    save_prior(
        tmp_path / "ours.safetensors", prior.network, prior.precondition, prior.card, dtype=torch.float32
    )
    came = load_prior(tmp_path / "ours.safetensors", precision="float32")
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(came(x, 0.3), prior(x, 0.3))


def broken(change: str) -> dict[str, Tensor]:
    weights = weights_of("NCSN++")
    if change == "missing":
        del weights["all_modules.9.Conv_0.bias"]
    if change == "unexpected":
        weights["all_modules.9.Conv_7.bias"] = torch.zeros(1)
    if change == "shape":
        weights["all_modules.8.NIN_2.b"] = torch.zeros(3)
    if change == "other":
        weights = {"all_modules.0.weight": torch.zeros(3, 3), "all_modules.2.scale": torch.zeros(3)}
    if change == "far":
        weights["all_modules.2000000000.weight"] = torch.zeros(3)
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"all_modules\.9\.Conv_0\.bias: expected \(32,\), got nothing"),
        ("unexpected", r"all_modules\.9\.Conv_7\.bias: expected nothing, got \(1,\)"),
        ("shape", r"all_modules\.8\.NIN_2\.b: expected \(32,\), got \(3,\)"),
        ("other", "expected NCSN"),
        ("far", "expected NCSN"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_what_differs(change: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        score_sde.build(broken(change), FILE, {})


@pytest.mark.parametrize("options", [{"clock": "slow"}, {"size": -1}, {"fir": "maybe"}], ids=str)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        score_sde.build(weights_of("DDPM++"), FILE, options)


def test_a_clock_of_a_network_that_is_told_sigma_is_refused() -> None:
    with pytest.raises(RequestError, match=r"clock discrete: this is a VE network.*leave it out"):
        score_sde.build(weights_of("NCSN++"), FILE, {"clock": "discrete"})
