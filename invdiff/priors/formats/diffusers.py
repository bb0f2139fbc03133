"""diffusers: UNet2DModel and pixel-space DiTTransformer2DModel with their schedulers, as pipelines or bare folders.

The network comes from diffusers, its weights are read here (never by unpickling), and the scheduler's description says
what its output means. Pictures are on [-1, 1], but for ScoreSdeVe, whose pipeline works on [0, 1]. `clip_sample` and
`thresholding` are a sampler's habits and no part of D; methods have `clip` for that. Beyond a schedule's noise levels
the network is told the nearest one it has.

A UNet with attention, and any DiT, is taken at the size it was trained at (card.size); option size: null lifts it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from invdiff.errors import RequestError, unknown
from invdiff.priors.base import Card
from invdiff.priors.formats.base import (
    Loaded,
    carded,
    check_options,
    checksum,
    fill,
    line,
    read_tensors,
    span,
)
from invdiff.priors.precondition import EDM, VE, VP, Flow, Precondition

OPTIONS = ("prediction", "range")
"""prediction: epsilon, v_prediction, sample or flow_prediction; range: what black and white are, [-1, 1] or [0, 1]."""

WEIGHTS = tuple(
    (f"{stem}{variant}.{ending}", f"{stem}{variant}-*-of-*.{ending}", f"{stem}.{ending}.index{variant}.json")
    for stem, ending in (("diffusion_pytorch_model", "safetensors"), ("diffusion_pytorch_model", "bin"))
    for variant in ("", ".fp16")
)
"""Names of files of weights, the preferred ones first; each with its name where it is split, and the split's index."""

VARIANCE_PRESERVING = (
    *(
        "DDPMScheduler",
        "DDPMParallelScheduler",
        "DDIMScheduler",
        "DDIMParallelScheduler",
        "DDIMInverseScheduler",
    ),
    *(
        "PNDMScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "DEISMultistepScheduler",
    ),
    *("UniPCMultistepScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler"),
    *("KDPM2AncestralDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
)
"""Schedulers whose table of β_t is the schedule the network was trained with."""

FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
ELUCIDATED = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
VARIANCE_EXPLODING = ("ScoreSdeVeScheduler",)
SCHEDULERS = (*VARIANCE_PRESERVING, *VARIANCE_EXPLODING, *FLOW, *ELUCIDATED)

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0", "flow_prediction": "velocity"}
_LATENT = ("vae", "vqvae", "movq", "vqgan", "autoencoder")
_FLOW_ENDS = (0.001, 0.99)
"""The times of a flow, where t = 0 and t = 1 are no noise and noise alone."""

_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention's layers before diffusers 0.12 and since."""


class Description(NamedTuple):
    """What a folder's JSON files say: where the network lies, its configuration and its scheduler's."""

    folder: Path
    network: dict[str, Any]
    scheduler: dict[str, Any] | None


def is_folder(path: Path) -> bool:
    """Whether it looks like a diffusers pipeline or model."""
    return (path / "model_index.json").is_file() or (path / "config.json").is_file()


def describe(path: Path, name: str) -> Description:
    """RequestError where it is no denoiser of pictures: a latent model, another network, an unknown scheduler."""
    index = _json(path / "model_index.json") if (path / "model_index.json").is_file() else {}
    latent = next((key for key in _LATENT if _is_there(index, key)), None)
    if latent is not None:
        raise RequestError(
            f"prior {name}: a latent diffusion model ({index.get('_class_name', 'pipeline')} with {latent}): its noise "
            "is not on pixels; expected a network of pictures themselves"
        )
    folder = next(
        (path / part for part in ("unet", "transformer") if (path / part / "config.json").is_file()), path
    )
    if not (folder / "config.json").is_file():
        raise RequestError(f"prior {name}: {folder / 'config.json'} is missing")
    network = _json(folder / "config.json")
    _check_network(network, name)
    places = (path / "scheduler", path, folder, path.parent / "scheduler")
    found = next(
        (p / "scheduler_config.json" for p in places if (p / "scheduler_config.json").is_file()), None
    )
    scheduler = _json(found) if found else None
    if scheduler is not None:
        _check_scheduler(scheduler, name)
    return Description(folder, network, scheduler)


def weights_in(folder: Path) -> list[Path]:
    """The files of weights in a network's folder, of the preferred kind that is there."""
    for whole, parts, _ in WEIGHTS:
        files = [folder / whole] if (folder / whole).is_file() else sorted(folder.glob(parts))
        if files:
            return files
    return []


def load(path: Path, options: Mapping[str, Any], name: str) -> Loaded:
    """A folder with model_index.json or config.json. RequestError for a wrong option and what `describe` refuses."""
    check_options(options, OPTIONS, str(path))
    library = _library(name)
    about = describe(path, name)
    files = weights_in(about.folder)
    if not files:
        raise RequestError(f"prior {name}: no weights: expected {about.folder / WEIGHTS[0][0]}")
    kind = _network_kind(about.network)
    try:
        network = getattr(library, kind).from_config(about.network)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError, NotImplementedError) as error:
        raise RequestError(
            f"{about.folder / 'config.json'}: no {kind} can be built of it ({line(error)})"
        ) from None
    expected = network.state_dict()
    tensors = {_since(key, expected): value for file in files for key, value in read_tensors(file).items()}
    fill(network, tensors, files[0], f"{about.folder.name}/config.json says")
    scheduler = None
    if about.scheduler is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some schedulers' own, of numpy
            scheduler = getattr(library, about.scheduler["_class_name"]).from_config(about.scheduler)
    loaded = _of(network, scheduler, options, name)
    return loaded._replace(card=dataclasses.replace(loaded.card, checksum=checksum(*files)))


def of_pipeline(pipeline: Any, options: Mapping[str, Any]) -> Loaded:
    """A pipeline object that has a network and a scheduler; the network becomes the prior's own."""
    name = type(pipeline).__name__
    check_options(options, OPTIONS, name)
    parts = pipeline.components
    latent = next((key for key in _LATENT if parts.get(key) is not None), None)
    if latent is not None:
        raise RequestError(
            f"{name}: a latent diffusion model (with {latent}): its noise is not on pixels; expected a network of "
            "pictures themselves"
        )
    network = parts.get("unet") or parts.get("transformer")
    scheduler = parts.get("scheduler")
    if network is None or scheduler is None:
        raise RequestError(f"{name}: expected a pipeline of a unet or transformer and a scheduler")
    _check_network({**network.config, "_class_name": type(network).__name__}, name)
    _check_scheduler({**scheduler.config, "_class_name": type(scheduler).__name__}, name)
    loaded = _of(network.float(), scheduler, options, name)
    return loaded._replace(card=carded(loaded.card, options, name))


class Network(nn.Module):
    """A diffusers network as F(x, c_noise) or F(x, c_noise, label)."""

    def __init__(self, network: Any, classes: int) -> None:
        super().__init__()
        config = network.config
        self.network = network
        self.classes = classes
        self.labelled = classes > 0
        self.needs_label = False
        if type(network).__name__ == "UNet2DModel":
            self.multiple = 2 ** (len(config.down_block_types) - 1)
            self.needs_label = self.labelled and classes >= config.num_class_embeds
        else:
            self.multiple = config.patch_size
        self.whole_times = config.get("time_embedding_type") == "learned"
        self.divides = (
            config.get("time_embedding_type") == "fourier"
        )  # by the time it is told, and takes its logarithm

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), c_noise (B,), labels (B,) → (B, C or 2C, H, W). RequestError where a label is missing."""
        times = c_noise.round().long() if self.whole_times else c_noise
        times = times.clamp(min=1e-8) if self.divides else times
        if not self.labelled:
            return self.network(x, times, return_dict=False)[0]
        if labels is None or (self.needs_label and bool((labels >= self.classes).any())):
            raise RequestError(
                f"a network of {self.classes} classes that knows no picture without one: give a label, 0 to "
                f"{self.classes - 1} (prior.given, --label), and no guidance: guidance needs a network that knows "
                f'"no label". Say option classes: {self.classes - 1} where its last label stands for that'
            )
        return self.network(x, times, class_labels=labels, return_dict=False)[0]


def _of(network: Any, scheduler: Any | None, options: Mapping[str, Any], name: str) -> Loaded:
    kind, config = type(network).__name__, network.config
    of_unet = kind == "UNet2DModel"
    own = (config.num_class_embeds if of_unet else config.num_embeds_ada_norm) or 0
    told = {key: value for key, value in options.items() if key == "classes"}
    classes = carded(Card(name=name, classes=own), told, f"prior {name}").classes
    if classes == 0 and (own or not of_unet):
        raise RequestError(
            f"prior {name}: a {kind} that is always told a class: classes: expected at least 1, got 0"
        )
    precondition, sigmas, said = _precondition(scheduler, options, name)
    attends = not of_unet or _attends(config)
    side = config.sample_size
    if isinstance(side, (tuple, list)):
        side = side[0] if len(set(side)) == 1 else None
    card = Card(
        name=name,
        channels=config.in_channels,
        size=side if attends else None,
        classes=classes,
        sigma_min=sigmas[0],
        sigma_max=sigmas[1],
        format=f"diffusers {kind}, {said}",
    )
    return Loaded(Network(network, classes), precondition, card)


def _precondition(
    scheduler: Any | None, options: Mapping[str, Any], name: str
) -> tuple[Precondition, tuple[float, float], str]:
    """What the scheduler says of the network's output, the noise levels it knows, image units, and in words."""
    kind = "DDPMScheduler" if scheduler is None else type(scheduler).__name__
    config = (_library(name).DDPMScheduler() if scheduler is None else scheduler).config
    told = _prediction(kind, config, options.get("prediction"), name)
    black, white = span(
        options.get("range", (0, 1) if kind in VARIANCE_EXPLODING else (-1, 1)), f"prior {name}"
    )
    gain = white - black
    if told == "flow_prediction":
        low, high = (t / (1 - t) / gain for t in _FLOW_ENDS)
        flow = Flow(scale=config.num_train_timesteps, black=black, white=white)
        return flow, (low, high), f"{kind}, {told}"
    if kind in VARIANCE_EXPLODING:
        return (
            VE(black=black, white=white),
            (config.sigma_min / gain, config.sigma_max / gain),
            f"{kind}, {told}",
        )
    if kind in ELUCIDATED:
        edm = EDM(sigma_data=config.sigma_data, black=black, white=white)
        return edm, (config.sigma_min / gain, config.sigma_max / gain), f"{kind}, F"
    alphas = _alphas(scheduler if scheduler is not None else _library(name).DDPMScheduler())
    precondition = VP(prediction=_PREDICTIONS[told], alphas=alphas, black=black, white=white)  # type: ignore[arg-type]
    levels = precondition.levels
    without = "" if scheduler is not None else " assumed, as there is no scheduler_config.json"
    return precondition, (levels[0], levels[-1]), f"{kind}{without}, {told}"


def _prediction(kind: str, config: Mapping[str, Any], said: Any, name: str) -> str:
    """What the network's output is: what the option says, else the scheduler. RequestError where they contradict."""
    if kind in VARIANCE_EXPLODING:
        if said is not None:
            raise RequestError(
                f"prior {name}: option prediction {said} with a {kind}: its output is the score; leave the option out"
            )
        return "score"
    default = "flow_prediction" if kind in FLOW else str(config.get("prediction_type", "epsilon"))
    told = default if said is None else str(said)
    if told not in _PREDICTIONS:
        raise unknown("prediction", told, _PREDICTIONS)
    flows = kind in FLOW or config.get("use_flow_sigmas")
    expected = "flow_prediction" if flows else "epsilon" if kind in ELUCIDATED else told
    if told != expected:
        why = ", which is EDM's F" if kind in ELUCIDATED else ""
        with_flows = " with use_flow_sigmas" if flows and kind not in FLOW else ""
        raise RequestError(
            f"prior {name}: prediction {told} with a {kind}{with_flows}: expected {expected}{why}"
        )
    return told


def _alphas(scheduler: Any) -> tuple[float, ...]:
    """ᾱ_t as the network met them, which is in float32; without a last one of 0, where no picture is left."""
    alphas = scheduler.alphas_cumprod.double()
    return tuple(alphas[alphas > 0].tolist())


def _attends(config: Mapping[str, Any]) -> bool:
    blocks = (*config["down_block_types"], *config["up_block_types"])
    middle = config.get("mid_block_type") is not None and config.get("add_attention", True)
    return bool(middle or any("Attn" in block for block in blocks))


def _network_kind(config: Mapping[str, Any]) -> str:
    kind = str(config.get("_class_name"))
    as_dit = kind == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero"
    return "DiTTransformer2DModel" if as_dit else kind


def _check_network(config: Mapping[str, Any], name: str) -> None:
    kind = _network_kind(config)
    if kind not in ("UNet2DModel", "DiTTransformer2DModel"):
        hint = ": it is told texts" if "Condition" in kind else ""
        raise RequestError(
            f"prior {name}: a diffusers {kind}{hint}; expected a UNet2DModel or a DiTTransformer2DModel of pixels"
        )
    # What the class itself takes where its description does not say.
    channels = config.get("in_channels", 3 if kind == "UNet2DModel" else 4)
    out = config.get("out_channels") or (3 if kind == "UNet2DModel" else channels)
    if channels not in (1, 3):
        what = "latent" if channels in (4, 8, 16, 32) else "conditional or other"
        raise RequestError(
            f"prior {name}: a {kind} of {channels} channels, a {what} model: expected one of 1 or 3, of pictures"
        )
    if out not in (channels, 2 * channels):
        raise RequestError(
            f"prior {name}: a {kind} of {channels} channels in and {out} out: expected {channels}, or {2 * channels} "
            "with a learned variance"
        )
    if config.get("class_embed_type") is not None:
        raise RequestError(
            f"prior {name}: class_embed_type {config['class_embed_type']}: expected labels (num_class_embeds)"
        )


def _check_scheduler(config: Mapping[str, Any], name: str) -> None:
    kind = str(config.get("_class_name"))
    if kind not in SCHEDULERS:
        raise unknown(f"scheduler of prior {name},", kind, SCHEDULERS)
    if config.get("timestep_type") == "continuous":
        raise RequestError(f"prior {name}: {kind} with continuous timesteps: expected discrete ones")


def _is_there(index: Mapping[str, Any], key: str) -> bool:
    return isinstance(index.get(key), list) and index[key] and index[key][0] is not None


def _since(name: str, expected: Mapping[str, Tensor]) -> str:
    """The name that a weight has in today's diffusers."""
    if name in expected:
        return name
    return re.sub(r"\b(query|key|value|proj_attn)(?=\.\w+$)", lambda found: _OLD[found[1]], name)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: expected JSON ({line(error)})") from None
    if not isinstance(found, dict):
        raise RequestError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def _library(name: str) -> Any:
    try:
        import diffusers
    except ImportError:
        raise RequestError(f"prior {name} needs diffusers: pip install 'invdiff[diffusers]'") from None
    return diffusers
