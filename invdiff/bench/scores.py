"""Every number a benchmark gives a restoration: its name, what it needs, which way is better, and how it is worked out.

Three names for what a single picture scores: `psnr` is the average over the samples, each scored alone; `psnr_mean` the
score of the samples' mean; `psnr_best` that of the one sample nearest to the truth (least squared error, after `colour`
and `border`; one sample for all `_best` names), as phase retrieval is reported. A mean is smoother than any sample:
it has the higher PSNR and, mostly, the worse LPIPS, so a table must say which one it shows.

Conventions. Image units, data range 1. Scores with and without a reference are of the picture as its file shows it:
clipped to [0, 1], but not rounded. `colour` and `border` apply to PSNR and SSIM alone: "luma" is
`evaluation.metrics.luma`, border the pixels cut off at each side, as papers on super-resolution do. LPIPS sees the
whole picture in RGB, grey ones three times. Consistency, diversity and calibration judge the sampler, and take its
samples as drawn, unclipped. Coverage is told from so many samples that a truth outside all of them counts as missed by
half at least: of fewer, the interval reaches beyond them, and a sampler that always errs would look right.

Importing this loads no torch: the names are checked before anything is.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InvdiffError, RequestError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.lpips import Lpips
    from ..operators import Operator

Colour = Literal["rgb", "luma"]
Extractor = Callable[["Tensor"], "Tensor"]
"""Features (1, d) of a picture (1, 3, H, W), uint8."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a name stands for."""

    words: str
    unit: str = ""
    higher: bool | None = None
    """Whether higher is better; None where neither is."""
    target: float | None = None
    """The value it has where all is right, if there is such a value."""
    reference: bool = True
    """Whether it needs the truth."""
    samples: int = 1
    """The fewest samples it can be told from."""
    lpips: str | None = None
    """The backbone it needs."""
    scope: Literal["picture", "run"] = "picture"
    """What it is a score of: "run" is all pictures together."""
    base: str = ""
    """Its name without _mean or _best."""


def _thrice(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Each metric of a single picture under its three names."""
    return {
        f"{name}{suffix}": replace(metric, words=f"{metric.words}, {of}", reference=needed, base=name)
        for name, metric in metrics.items()
        for suffix, of, needed in (
            ("", "average over single samples", metric.reference),
            ("_mean", "of the samples' mean", metric.reference),
            ("_best", "of the sample nearest to the truth", True),
        )
    }


METRICS: dict[str, Metric] = {
    **_thrice(
        {
            "psnr": Metric(words="PSNR", unit="dB", higher=True),
            "ssim": Metric(words="SSIM, Gaussian window 1.5", higher=True),
            "lpips_alex": Metric(words="LPIPS (AlexNet)", higher=False, lpips="alex"),
            "lpips_vgg": Metric(words="LPIPS (VGG-16)", higher=False, lpips="vgg"),
            "lpips_squeeze": Metric(words="LPIPS (SqueezeNet)", higher=False, lpips="squeeze"),
            "consistency": Metric(
                words="‖A x̂ − y‖/(σ_y √m), without noise the RMS of A x̂ − y", target=1, reference=False
            ),
            "sharpness": Metric(words="variance of the Laplacian", reference=False),
            "blockiness": Metric(
                words="steps across the borders of 8×8 blocks over those within", target=1, reference=False
            ),
            "noise": Metric(words="σ of white noise, by wavelets", unit="image units", reference=False),
        }
    ),
    "diversity": Metric(
        words="mean RMS distance of two samples", unit="image units", reference=False, samples=2
    ),
    "spread": Metric(
        words="root of the pixels' mean variance over samples",
        unit="image units",
        reference=False,
        samples=2,
    ),
    "coverage_50": Metric(words="truths within the central 50 % interval", target=0.5, samples=2),
    "coverage_80": Metric(words="truths within the central 80 % interval", target=0.8, samples=4),
    "coverage_95": Metric(words="truths within the central 95 % interval", target=0.95, samples=19),
    "spread_error": Metric(words="spread over the error of the mean, below 1: too sure", target=1, samples=2),
    "z_square": Metric(words="mean ((x₀ − x̄)/s)², above 1: too sure", target=1, samples=4),
    "fid": Metric(words="Fréchet Inception distance to the truths", higher=False, scope="run"),
    "kid": Metric(words="kernel Inception distance to the truths", higher=False, scope="run"),
}
METRICS = {name: metric if metric.base else replace(metric, base=name) for name, metric in METRICS.items()}

INCEPTION = "INVDIFF_FID_WEIGHTS"
_INCEPTION_FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")


def score(
    samples: Tensor,
    truth: Tensor | None,
    y: Tensor,
    operator: Operator,
    sigma_y: float,
    names: Sequence[str],
    colour: Colour = "rgb",
    border: int = 0,
    lpips: Mapping[str, Lpips] | None = None,
) -> dict[str, float | None]:
    """One picture's scores, in the order of `names`; those of a whole run are passed over.

    samples: (S, C, H, W); truth: (C, H, W); y: (1, *operator.out_shape), or without the 1; operator: of this picture;
    sigma_y: where the noise is no Gaussian, the root of its mean square; lpips: of `load_lpips`.

    None stands for what cannot be told: without a truth, from too few samples, without the backbone, of a picture that
    is too small (SSIM 11, LPIPS 32, blockiness 16, noise 5 pixels a side), or where there is no finite number (PSNR of
    equal pictures, blockiness of a flat one, z_square where all samples agree on a wrong value).

    InvdiffError where a sample is not finite: it failed, and must not drop out of a mean unseen. RequestError for an
    unknown name, shapes that do not fit, or a border that leaves nothing.
    """
    _known(names)
    wanted = [name for name in names if METRICS[name].scope == "picture"]
    scored = _Scored(
        samples=_wide(samples),
        truth=None if truth is None else _wide(truth),
        y=_wide(y),
        operator=operator,
        sigma_y=sigma_y,
        colour=colour,
        border=border,
        lpips=lpips or {},
    )
    return {name: scored.value(name) for name in wanted}


def nearest(samples: Tensor, truth: Tensor, colour: Colour = "rgb", border: int = 0) -> int:
    """The index of the sample that the `_best` names score: least squared error once clipped, after colour and border.

    samples: (S, C, H, W), truth: (C, H, W). The first of equal ones.
    """
    reference = _seen(_wide(truth).clamp(0, 1), colour, border)
    errors = [
        float((_seen(x.clamp(0, 1), colour, border) - reference).square().mean()) for x in _wide(samples)
    ]
    return min(range(len(errors)), key=errors.__getitem__)


def load_lpips(names: Iterable[str], *, device: str = "cpu") -> dict[str, Lpips]:
    """The backbones these metrics need, each loaded once. RequestError with the remedy where weights are missing."""
    from ..evaluation.lpips import Lpips

    found = find_lpips(names)
    return {net: Lpips(net, weights=file, device=device) for net, file in found.items()}


def find_lpips(names: Iterable[str]) -> dict[str, Path]:
    """The files of the backbones these metrics need. RequestError with the remedy where one is missing."""
    from ..evaluation.lpips import find_weights

    nets = dict.fromkeys(METRICS[name].lpips for name in _known(names))
    try:
        return {net: find_weights(net) for net in nets if net}
    except RequestError as error:
        raise RequestError(f"{error}; or leave LPIPS out: --no-lpips") from None


def without_lpips(names: Iterable[str]) -> list[str]:
    """The metrics that need no LPIPS."""
    return [name for name in _known(names) if not METRICS[name].lpips]


def _known(names: Iterable[str]) -> list[str]:
    names = list(names)
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return names


# ------------------------------------------------------------------------------------------------- one picture


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """A picture's restoration, float64, and what has been worked out of it."""

    samples: Tensor
    truth: Tensor | None
    y: Tensor
    operator: Operator
    sigma_y: float
    colour: Colour
    border: int
    lpips: Mapping[str, Lpips]
    found: dict[tuple[str, int | None], float | None] = field(default_factory=dict)
    best: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = tuple(self.samples.shape)
        if len(shape) != 4 or not self.samples.numel():
            raise RequestError(f"samples: expected (S, C, H, W), got {shape}")
        if self.truth is not None and tuple(self.truth.shape) != shape[1:]:
            raise RequestError(f"truth: expected {shape[1:]} as the samples, got {tuple(self.truth.shape)}")
        if tuple(self.operator.in_shape) != shape[1:]:
            raise RequestError(
                f"{self.operator}: expected pictures {tuple(self.operator.in_shape)}, got {shape[1:]}"
            )
        measured = tuple(self.operator.out_shape)
        if tuple(self.y.shape) not in {measured, (1, *measured)}:
            raise RequestError(f"y: expected {(1, *measured)} of {self.operator}, got {tuple(self.y.shape)}")
        finite = self.samples.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            bad = [str(k + 1) for k, good in enumerate(finite.tolist()) if not good]
            raise InvdiffError(
                f"sample {', '.join(bad)} of {len(finite)} is not finite: the method diverged; take more steps, or "
                "smaller ones"
            )

    def value(self, name: str) -> float | None:
        metric = METRICS[name]
        if (metric.reference and self.truth is None) or len(self.samples) < metric.samples:
            return None
        if metric.base not in _PICTURE:
            return _finite(_SAMPLES[metric.base](self))
        if name.endswith("_mean"):
            return self.single(metric.base, None)
        if name.endswith("_best"):
            return self.single(metric.base, self.nearest())
        values = [self.single(metric.base, k) for k in range(len(self.samples))]
        told = [value for value in values if value is not None]
        return math.fsum(told) / len(values) if len(told) == len(values) else None

    def single(self, base: str, index: int | None) -> float | None:
        """Of a sample, or (None) of their mean, which is clipped after it is taken, as its file is."""
        if (base, index) not in self.found:
            drawn = self.samples.mean(dim=0) if index is None else self.samples[index]
            self.found[base, index] = _finite(_PICTURE[base](self, drawn))
        return self.found[base, index]

    def nearest(self) -> int:
        if not self.best and self.truth is not None:
            self.best.append(nearest(self.samples, self.truth, self.colour, self.border))
        return self.best[0]

    def compared(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """The picture and the truth as PSNR and SSIM see them."""
        assert self.truth is not None  # for the type checker: `value` has seen to it
        return tuple(_seen(x.clamp(0, 1), self.colour, self.border) for x in (drawn, self.truth))  # type: ignore[return-value]

    def unknown(self) -> tuple[Tensor, Tensor]:
        """Samples (S, 1, n) and truth (1, n), less what all of them share: there calibration has nothing to say."""
        from ..evaluation import calibration

        assert self.truth is not None
        x, x0 = self.samples.flatten(1)[:, None], self.truth.flatten()[None]
        open_ = ~calibration.known(x, x0)[0]
        return x[..., open_], x0[..., open_]


def _psnr(scored: _Scored, drawn: Tensor) -> float:
    from ..evaluation import metrics

    return float(metrics.psnr(*scored.compared(drawn)))


def _ssim(scored: _Scored, drawn: Tensor) -> float | None:
    from ..evaluation import metrics

    image, reference = scored.compared(drawn)
    return float(metrics.ssim(image, reference)) if min(image.shape[-2:]) >= 11 else None


def _lpips(net: str) -> Callable[[_Scored, Tensor], float | None]:
    def distance(scored: _Scored, drawn: Tensor) -> float | None:
        if net not in scored.lpips or min(drawn.shape[-2:]) < 32:
            return None
        assert scored.truth is not None
        image, reference = (x.clamp(0, 1).expand(3, -1, -1) for x in (drawn, scored.truth))
        return float(scored.lpips[net](image, reference))

    return distance


def _consistency(scored: _Scored, drawn: Tensor) -> float:
    """Over the m numbers that were measured: what a mask loses is no measurement."""
    import torch

    op = scored.operator.pick([0])
    with torch.no_grad():
        clean = _wide(op.A(drawn[None]))
    seen = _measured(op, clean)
    residual = (clean - scored.y.reshape(clean.shape))[seen]
    return float(residual.square().mean().sqrt()) / (scored.sigma_y or 1)


def _measured(op: Operator, y: Tensor) -> Tensor:
    """Which numbers of y (1, ...) hold a measurement, as booleans of its shape."""
    import torch

    from ..operators import Diagonal, Mask
    from ..operators.compose import Composed, Scaled, Stacked

    if isinstance(op, Mask):
        return op.keep.to(y.device).expand(y.shape)
    if isinstance(op, Diagonal):
        return (op.weights != 0).to(y.device).expand(y.shape)
    if isinstance(op, Composed):
        return _measured(op.outer, y)
    if isinstance(op, Scaled):
        return _measured(op.part, y)
    if isinstance(op, Stacked):
        return op.join([_measured(part, piece) for part, piece in zip(op.parts, op.split(y), strict=True)])
    return torch.ones_like(y, dtype=torch.bool)


def _sharpness(scored: _Scored, drawn: Tensor) -> float | None:
    from ..evaluation import metrics

    return float(metrics.sharpness(drawn.clamp(0, 1))) if min(drawn.shape[-2:]) >= 3 else None


def _blockiness(scored: _Scored, drawn: Tensor) -> float | None:
    from ..evaluation import metrics

    return float(metrics.blockiness(drawn.clamp(0, 1))) if min(drawn.shape[-2:]) >= 16 else None


def _noise(scored: _Scored, drawn: Tensor) -> float | None:
    from ..operators import estimate_sigma

    return float(estimate_sigma(drawn.clamp(0, 1)[None])) if min(drawn.shape[-2:]) >= 5 else None


_PICTURE: dict[str, Callable[[_Scored, Tensor], float | None]] = {
    "psnr": _psnr,
    "ssim": _ssim,
    "lpips_alex": _lpips("alex"),
    "lpips_vgg": _lpips("vgg"),
    "lpips_squeeze": _lpips("squeeze"),
    "consistency": _consistency,
    "sharpness": _sharpness,
    "blockiness": _blockiness,
    "noise": _noise,
}


# ----------------------------------------------------------------------------------------------- several samples


def _diversity(scored: _Scored) -> float:
    from ..evaluation import metrics

    return metrics.diversity(scored.samples)


def _spread(scored: _Scored) -> float:
    return float(scored.samples.var(dim=0, correction=1).mean().sqrt())


def _coverage(level: float) -> Callable[[_Scored], float | None]:
    def share(scored: _Scored) -> float | None:
        from ..evaluation import calibration

        samples, truths = scored.unknown()
        return calibration.coverage(samples, truths, level)[0] if truths.numel() else None

    return share


def _spread_error(scored: _Scored) -> float | None:
    from ..evaluation import calibration

    samples, truths = scored.unknown()
    return calibration.spread_error(samples, truths) if truths.numel() else None


def _z_square(scored: _Scored) -> float | None:
    from ..evaluation import calibration

    samples, truths = scored.unknown()
    return calibration.z_square(samples, truths)[0] if truths.numel() else None


_SAMPLES: dict[str, Callable[[_Scored], float | None]] = {
    "diversity": _diversity,
    "spread": _spread,
    "coverage_50": _coverage(0.5),
    "coverage_80": _coverage(0.8),
    "coverage_95": _coverage(0.95),
    "spread_error": _spread_error,
    "z_square": _z_square,
}


def _seen(picture: Tensor, colour: Colour, border: int) -> Tensor:
    from ..evaluation import metrics

    return metrics.without_border(metrics.luma(picture) if colour == "luma" else picture, border)


def _wide(tensor: Tensor) -> Tensor:
    """In float64, real numbers, off a device that has none of either."""
    import torch

    tensor = tensor.detach()
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# --------------------------------------------------------------------------------------------------- a whole run


def whole_run(
    names: Sequence[str],
    truths: Iterable[Tensor],
    restored: Iterable[Tensor],
    *,
    extractor: Extractor | None = None,
) -> dict[str, float | None]:
    """FID and KID between the truths and the restored pictures, (1 or 3, H, W) each, of any sizes; both are streamed.

    By torchmetrics, on features of pictures as 8-bit files hold them. extractor: Inception v3 where None is given. KID
    is over 100 draws of 1000 pictures, or once over all of 1000 or fewer. Other names are passed over; None for fewer
    than 2 pictures. FID is biased upwards by few pictures, and comparable only between equal numbers of them; KID is
    not. RequestError where packages or weights are missing. Sources: Heusel et al. 2017, arXiv:1706.08500; Bińkowski
    et al. 2018, arXiv:1801.01401.
    """
    wanted = [name for name in _known(names) if METRICS[name].scope == "run"]
    if not wanted:
        return {}
    import torch

    extractor = extractor or inception()
    real, fake = (
        torch.cat(_features(pictures, extractor) or [torch.zeros(0, 1)]) for pictures in (truths, restored)
    )
    if min(len(real), len(fake)) < 2:
        return dict.fromkeys(wanted)
    distances = {"fid": _fid, "kid": _kid}
    return {name: _finite(distances[name](real, fake)) for name in wanted}


def inception_file(weights: Path | str | None = None) -> Path:
    """Where `inception` finds its weights, and its RequestErrors; nothing is read."""
    if not (find_spec("torch_fidelity") and find_spec("torchmetrics")):
        raise RequestError(
            "fid, kid: expected the packages torchmetrics and torch-fidelity: pip install 'invdiff[fid]', or leave "
            "them out of metrics"
        )
    import torch

    given = weights or os.environ.get(INCEPTION)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    places = [Path(given)] if given else [cache / name for name in _INCEPTION_FILES]
    for place in places:
        if place.is_file():
            return place
    raise RequestError(
        f"fid, kid: there is no {places[0]}, the weights of Inception v3, and invdiff does not download them: set "
        f"{INCEPTION} to torch-fidelity's file, or leave them out of metrics"
    )


def inception(weights: Path | str | None = None, *, device: str = "cpu") -> Extractor:
    """The 2048 features of FID's own Inception v3, resized as the original does; nothing is downloaded.

    weights: the checkpoint of torch-fidelity; None takes INVDIFF_FID_WEIGHTS, or torch's download cache. RequestError
    with the remedy where it, or the package, is missing.
    """
    import torch

    file = inception_file(weights)
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        safe: Any = BytesIO()  # the package would run code that a file holds; a copy of its tensors has none
        torch.save(torch.load(file, map_location="cpu", weights_only=True), safe)
        safe.seek(0)
        net = NoTrainInceptionV3("inception-v3-compat", ["2048"], safe, antialias=False)
    except Exception as error:  # whatever a foreign file makes the readers raise
        raise RequestError(
            f"{file}: expected torch-fidelity's weights of Inception v3, got {_line(error)}"
        ) from None
    net = net.to(device)
    return lambda picture: net(picture.to(device))


def _features(pictures: Iterable[Tensor], extractor: Extractor) -> list[Tensor]:
    import torch

    with torch.no_grad():
        return [
            extractor((picture.clamp(0, 1) * 255).round().byte().expand(3, -1, -1)[None]).double().cpu()
            for picture in pictures
        ]


def _fid(real: Tensor, fake: Tensor) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return _distance(
        FrechetInceptionDistance(feature=_passing(real.shape[1])).set_dtype(real.dtype), real, fake
    )


def _kid(real: Tensor, fake: Tensor) -> float:
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(1000, len(real), len(fake))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # it warns that it keeps the features
        torch.manual_seed(0)  # it draws from torch's own stream, which the fork puts back
        draws = 1 if size == max(len(real), len(fake)) else 100
        metric = KernelInceptionDistance(feature=_passing(real.shape[1]), subsets=draws, subset_size=size)
        return _distance(metric, real, fake)


def _distance(metric: Any, real: Tensor, fake: Tensor) -> float:
    metric.update(real, real=True)
    metric.update(fake, real=False)
    answer = metric.compute()
    return float(answer[0] if isinstance(answer, tuple) else answer)


def _passing(count: int) -> Any:
    """A network that gives its input: the features are worked out once, for both distances."""
    import torch

    module = torch.nn.Identity()
    module.num_features = count  # type: ignore[assignment]
    return module


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
