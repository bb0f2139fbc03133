"""Does a prior behave as the denoiser E[x₀ | x₀ + σ·ε = x], and if not, which convention was mistaken?

A checkpoint loads whatever range, time or prediction it is thought to have; what is wrong shows in D alone. So D is
measured on pictures with known noise, and every convention that could have been meant is tried beside the one that
was: one that denoises the same noisy pictures clearly better is named.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from invdiff import images
from invdiff.errors import InvdiffError, RequestError
from invdiff.priors import EDM, VE, VP, Card, Flow, NetworkPrior, Precondition, Prior
from invdiff.priors.conditional import needs_a_measurement
from invdiff.priors.precondition import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0)
"""Noise levels that are reported, image units, as far as the prior knows them."""
TRIED_AT = (0.2, 0.05, 1.0, 5.0)
"""Noise levels at which other conventions are tried; those that are worse at the first are not tried at the others."""
STEPS = (0, 1, 2, 4)
"""Steps of a network of discrete times at which a shift of its time is looked for: the lowest, where a step is long."""
BLURS = (0.0, 0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.3, 3.0, 4.0, 6.0, 9.0)
"""Standard deviations in pixels among which the baseline has the best."""
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
"""Of skimage.data, all of them in the package."""

CLEARLY = 0.15
"""dB by which another convention denoises better on average, and better in `MOSTLY` of pictures and levels. All of them
meet the same noise, so that a small gain is no accident; a wrong range costs 0.2 dB and more, a wrong prediction 4."""
MOSTLY = 0.75
GROSS = 5.0
"""dB by which another convention, whichever, must be better for pictures of another kind than the prior's to tell: the
denoiser of digits that is right denoises photographs 3.6 dB better at half its sigma_data; taken for an ε, 10 dB."""
SHIFTED = 0.6
"""The shift of time, in steps, at which D denoises best: from here on, it is one step off."""
WORSE = 0.1
"""dB that D may lose against its input."""
BASELINE = 1.0
"""dB that D may lose at σ ≤ 1 against a baseline that has seen the truth."""
SLOPE = (0.8, 1.25)
OFFSET = 0.03
"""x₀ over D: its slope, and its mean error in image units, where 0.02 ≤ σ ≤ 0.5."""
TWEEDIE = (0.33, 3.0)
"""E‖D − x₀‖² over σ²·div D: what pictures easier or harder than the prior's own may make of 1, 0.05 ≤ σ ≤ 0.5."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """What D does at one noise level σ, image units; over all pixels of all pictures.

    psnr_noisy, psnr, psnr_baseline: of x, of D and of the best Gaussian blur with the best gain and offset, dB.
    slope, offset_at_0: the line of x₀ over D; offset: the mean of x₀ − D: 1, 0 and 0 for E[x₀ | x]. removed:
    E|x − D|²/σ², where `expected` is 1 − E|D − x₀|²/σ² (D − x₀ and D − x are at right angles). tweedie: E‖D − x₀‖² over
    σ²·div D, which by Stein's identity is 1 for E[x₀ | x] of pictures that are the prior's.
    """

    sigma: float
    psnr_noisy: float
    psnr: float
    psnr_baseline: float
    slope: float
    offset: float
    offset_at_0: float
    removed: float
    expected: float
    tweedie: float


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Another convention: what it is, and how many dB better D denoises with it, over all levels."""

    convention: str
    gain: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `check_prior` found. findings: what is suspicious, in words; mistake: the convention that is better."""

    prior: str
    format: str
    pictures: int
    levels: tuple[Level, ...]
    tried: tuple[Tried, ...]
    """The best five of the conventions that were tried, best first."""
    mistake: str
    findings: tuple[str, ...]
    judged: bool = True
    """Whether the pictures were the prior's own kind; if not, only what is gross is found, and nothing certified."""

    @property
    def fine(self) -> bool:
        return not self.findings

    def verdict(self) -> str:
        """One line in plain words."""
        if self.fine and not self.judged:
            return (
                f"Nothing gross is wrong with {self.prior}, but it was not tried on pictures such as it was trained "
                "on, and on others its convention cannot be judged."
            )
        if self.fine:
            return f"{self.prior} behaves as a denoiser in image units."
        if self.mistake:
            return f"{self.prior} is suspicious: it denoises clearly better if {self.mistake}."
        if not self.judged or any(not math.isfinite(at.psnr) for at in self.levels):
            return f"{self.prior} is suspicious: {self.findings[0]}."
        return f"{self.prior} is suspicious, and no other convention that was tried explains it."

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "fine": self.fine, "verdict": self.verdict()}


Denoise = Callable[[Tensor, Tensor], Tensor]
"""D(x, σ): x (B, C, H, W), σ (B,)."""


@torch.no_grad()
def check_prior(
    prior: Prior,
    pictures: Tensor,
    *,
    own_kind: bool = True,
    seed: int = 0,
    batch: int = 4,
    callback: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure D on noisy `pictures` (N, C, H, W), image units, such as the prior was trained on; try conventions.

    own_kind: False for pictures of another one, on which a prior that is right may do badly, and better in a convention
    that is wrong: then only what no kind of pictures explains is found, and nothing is certified (`Report.judged`).
    Runs where the pictures are, `batch` of them together; callback(done, total) is told after every denoiser.
    RequestError for pictures that the prior does not take; InvdiffError where it cannot be evaluated.
    """
    card = prior.card
    if card.condition is not None and not card.condition.dropout:
        raise RequestError(needs_a_measurement(card))
    _check_pictures(pictures, card)
    test = _Test(pictures, seed, batch)
    _evaluate_once(prior, test)
    others = list(conventions(prior, pictures.shape[1]))
    low, high = max(card.sigma_min, 1e-3), card.sigma_max
    at = [s for s in SIGMAS if low <= s <= high] or [math.sqrt(low * high)]
    done, total = 0, len(at) + len(others) + 1

    def step() -> None:
        nonlocal done
        done += 1
        if callback is not None:
            callback(done, total)

    levels = []
    for sigma in at:
        levels.append(_level(prior, test, sigma))
        step()
    tried_at = [s for s in TRIED_AT if low <= s <= high] or at
    own = test.errors(prior, tried_at)
    gains: list[tuple[str, Tensor]] = []
    for words, denoise in others:
        gains.append((words, test.gains(own, denoise, tried_at)))
        step()
    mistake = (_mistake(gains) or _shift(prior, test)) if own_kind else ""
    step()
    best = sorted(gains, key=lambda one: -_mean(one[1]))[:5]
    tried = tuple(Tried(convention=words, gain=round(_mean(gain), 3)) for words, gain in best)
    findings = _not_finite(levels)
    findings += [f"it denoises clearly better if {mistake}"] if mistake else []
    findings += _suspicious(levels) if own_kind else _gross(levels, gains)
    return Report(
        prior=card.name,
        format=card.format,
        pictures=len(pictures),
        levels=tuple(levels),
        tried=tried,
        mistake=mistake,
        findings=tuple(findings),
        judged=own_kind,
    )


def _mistake(gains: Sequence[tuple[str, Tensor]], least: float = CLEARLY) -> str:
    """The convention that is better by `least` dB, of about equals the first; "" if there is none."""
    clear = {words: _mean(gain) for words, gain in gains if _mean(gain) >= least and _mostly(gain)}
    best = max(clear.values(), default=0.0)
    return next((words for words, gain in clear.items() if gain >= best - max(0.02, 0.02 * best)), "")


def _mostly(gain: Tensor) -> bool:
    return float((gain > 0).double().mean()) >= MOSTLY


def _shift(prior: Prior, test: _Test) -> str:
    """Whether time is one step off: with some predictions that costs hundredths of a dB, and at the lowest steps alone.

    A parabola through the gains of one step less, none and one more has its top where D denoises best.
    """
    if not isinstance(prior, NetworkPrior) or not isinstance(prior.precondition, VP):
        return ""
    steps, now = prior.precondition.levels, prior.precondition
    at = [steps[k] for k in STEPS if k < len(steps)]
    if not at:
        return ""
    own = test.errors(prior, at)
    less, more = (test.gains(own, _with(prior, _later(now, k)), at, hasty=False) for k in (-1, 1))
    curvature = _mean(less) + _mean(more)
    top = (_mean(less) - _mean(more)) / (2 * curvature) if curvature < 0 else math.inf
    if abs(top) < SHIFTED or not _mostly(more if _mean(more) > _mean(less) else less):
        return ""
    return f"its time is one step {'more' if _mean(more) > _mean(less) else 'less'} (off by one)"


def _later(vp: VP, steps: int) -> VP:
    return dataclasses.replace(vp, first=vp.first + steps * vp.scale)


def _not_finite(levels: Sequence[Level]) -> list[str]:
    bad = [f"{at.sigma:g}" for at in levels if not math.isfinite(at.psnr)]
    return [f"D is not finite at σ = {', '.join(bad)}"] if bad else []


def _gross(levels: Sequence[Level], gains: Sequence[tuple[str, Tensor]]) -> list[str]:
    """What no kind of pictures explains: of any two pictures in [0, 1] the mean squared difference is at most 1, and
    none makes another convention so much better, though only the prior's own say which."""
    found = []
    bad = [at for at in levels if at.sigma >= 1 and at.psnr < -BASELINE]
    if bad:
        worst = min(bad, key=lambda at: at.psnr)
        words = "D is farther from the truth than any picture can be"
        found.append(f"at σ = {worst.sigma:g} {words}: {worst.psnr:.1f} dB")
    if _mistake(gains, GROSS):
        best = max(_mean(gain) for _, gain in gains)
        found.append(
            f"in another convention it denoises {best:.0f} dB better, and pictures of its own kind would tell which"
        )
    return found


def _suspicious(levels: Sequence[Level]) -> list[str]:
    """What is wrong with D whatever the reason, in words, each named once, at the level where it is worst."""
    found: list[tuple[float, str, str]] = []
    for at in levels:
        if not math.isfinite(at.psnr):  # `_not_finite` says so
            continue
        sigma = f"at σ = {at.sigma:g}"
        if at.psnr < at.psnr_noisy - WORSE:
            words = (
                f"{sigma} D is farther from the truth than its input: {at.psnr:.1f} dB, {at.psnr_noisy:.1f}"
            )
            found.append((at.psnr_noisy - at.psnr, "noisy", words))
        elif at.sigma <= 1 and at.psnr < at.psnr_baseline - BASELINE:
            words = f"{sigma} a Gaussian blur does better: {at.psnr:.1f} dB, the blur {at.psnr_baseline:.1f}"
            found.append((at.psnr_baseline - at.psnr, "blur", words))
        if not 0.02 <= at.sigma <= 0.5:
            continue
        if not SLOPE[0] <= at.slope <= SLOPE[1]:
            words = f"{sigma} its contrast is off: the truth is {at.slope:.2f}·D + {at.offset_at_0:.2f}"
            found.append((abs(math.log(max(at.slope, 1e-9))), "slope", words))
        if abs(at.offset) > OFFSET:
            found.append((abs(at.offset), "offset", f"{sigma} D is {-at.offset:+.3f} off on average"))
        if at.sigma >= 0.05 and not TWEEDIE[0] <= at.tweedie <= TWEEDIE[1]:
            words = (
                f"{sigma} its error is {at.tweedie:.2f} times what its own derivative says (σ²·div D); "
                "E[x₀ | x] would have 1"
            )
            found.append((abs(math.log(max(at.tweedie, 1e-9))), "tweedie", words))
    worst: dict[str, tuple[float, str]] = {}
    for size, kind, words in found:
        worst[kind] = max(worst.get(kind, (-1.0, "")), (size, words))
    return [words for _, words in worst.values()]


class _Test:
    """Noisy pictures, the same for every denoiser that is tried on them."""

    def __init__(self, pictures: Tensor, seed: int, batch: int) -> None:
        self.pictures, self.batch = pictures, batch
        generator = torch.Generator().manual_seed(
            seed + 0x5EED_F00D
        )  # none that the pictures were drawn with
        self.noise = torch.randn(pictures.shape, generator=generator, dtype=torch.float64).to(pictures)

    def noisy(self, sigma: float) -> Tensor:
        return self.pictures + sigma * self.noise

    def denoised(self, denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
        return torch.cat([denoise(some, some.new_full((len(some),), sigma)) for some in x.split(self.batch)])

    def errors(self, denoise: Denoise, sigmas: Sequence[float]) -> Tensor:
        """Mean squared error of each picture, (levels, pictures), float64, 10²⁰ at most."""
        found = []
        for sigma in sigmas:
            error = (self.denoised(denoise, self.noisy(sigma), sigma).double() - self.pictures).square()
            found.append(error.mean(dim=(1, 2, 3)).nan_to_num(math.inf, math.inf).clamp(1e-20, 1e20))
        return torch.stack(found).cpu()

    def gains(self, own: Tensor, denoise: Denoise, sigmas: Sequence[float], *, hasty: bool = True) -> Tensor:
        """dB by which `denoise` is better than `own` errors, (levels, pictures), -20 to 20; -20 where it cannot be
        evaluated. hasty: of the first level alone where it is worse there."""
        found: list[Tensor] = []
        for k, sigma in enumerate(sigmas):
            try:
                errors = self.errors(denoise, [sigma])
            except (RuntimeError, IndexError, ValueError):  # a time it was never told, such as an index of -1
                return torch.full((1, own.shape[1]), -20.0)
            found.append((10 * (own[k : k + 1] / errors).log10()).clamp(-20, 20))
            if hasty and k == 0 and _mean(found[0]) < -1:
                break
        return torch.cat(found)


def _level(prior: Prior, test: _Test, sigma: float) -> Level:
    x, x0 = test.noisy(sigma).double(), test.pictures.double()
    d = test.denoised(prior, test.noisy(sigma), sigma).double()
    sign = (
        test.noise.sign()
    )  # Rademacher probes, and none that the noise knows of: its signs, moved by a pixel
    sign = sign.roll((1, 1), (-2, -1))
    small = sigma / 100
    moved = test.denoised(prior, (x + small * sign).to(test.pictures), sigma).double()
    divergence = float(((moved - d) * sign).mean()) / small
    error = float((d - x0).square().mean())
    spread = float((d - d.mean()).square().mean())
    slope = float(((d - d.mean()) * x0).mean()) / max(spread, 1e-20)
    return Level(
        sigma=sigma,
        psnr_noisy=_psnr(float((x - x0).square().mean())),
        psnr=_psnr(error),
        psnr_baseline=_psnr(_baseline(x, x0)),
        slope=slope,
        offset=float((x0 - d).mean()),
        offset_at_0=float(x0.mean() - slope * d.mean()),
        removed=float((x - d).square().mean()) / sigma**2,
        expected=1 - error / sigma**2,
        tweedie=error / (sigma**2 * divergence) if divergence > 0 else math.inf,
    )


def _baseline(x: Tensor, x0: Tensor) -> float:
    """Mean squared error of the Gaussian blur, gain and offset that are best for these very pictures."""
    from scipy.ndimage import gaussian_filter

    noisy, truth = x.cpu().numpy(), x0.cpu()
    found = []
    for width in BLURS:
        if width > max(noisy.shape[-2:]) / 3:
            break
        blurred = torch.from_numpy(gaussian_filter(noisy, (0, 0, width, width), mode="reflect"))
        away = blurred - blurred.mean()
        gain = (away * truth).mean() / away.square().mean().clamp(min=1e-20)
        found.append(float((truth.mean() + gain * away - truth).square().mean()))
    return min(found)


def _psnr(error: float) -> float:
    return -10 * math.log10(max(error, 1e-20))


def _mean(gains: Tensor) -> float:
    return float(gains.mean())


# ------------------------------------------------------------------------------------------- other conventions


def conventions(prior: Prior, channels: int | None = None) -> Iterator[tuple[str, Denoise]]:
    """What else could have been meant, simplest first: words that end "it denoises better if ...", and D then.

    channels: of the pictures, where the card does not say.
    """
    yield "it is told twice the σ", lambda x, s: prior(x, 2 * s)
    yield "it is told half the σ", lambda x, s: prior(x, s / 2)
    yield "its output is on [-1, 1], not [0, 1]", lambda x, s: (prior(x, s) + 1) / 2
    yield "its output, already in image units, is not scaled again", lambda x, s: 2 * prior(x, s) - 1
    yield "its output is on [0, 255], not [0, 1]", lambda x, s: prior(x, s) / 255
    if isinstance(prior, NetworkPrior):
        yield from _of_network(prior)
    else:
        yield "its pictures are on [-1, 1], σ too", lambda x, s: (prior(2 * x - 1, 2 * s) + 1) / 2
        yield "its pictures are on [-1, 1], σ in image units", lambda x, s: (prior(2 * x - 1, s) + 1) / 2
        yield "its input is on [-1, 1], its output on [0, 1]", lambda x, s: prior(2 * x - 1, 2 * s)
        yield "its pictures are on [0, 255], σ too", lambda x, s: prior(255 * x, 255 * s) / 255
        yield "its σ is on [0, 255]", lambda x, s: prior(x, 255 * s)
    yield "what it returns is the noise, x − D", lambda x, s: x - prior(x, s)
    yield (
        "what it returns is the noise over σ",
        lambda x, s: x - s[:, None, None, None] * prior(x, s),
    )
    if (prior.card.channels or channels) == 3:
        yield "its colours are blue, green, red", lambda x, s: prior(x.flip(1), s).flip(1)


def _of_network(prior: NetworkPrior) -> Iterator[tuple[str, Denoise]]:
    now = prior.precondition
    for words, other in _preconditions(now):
        yield words, _with(prior, other)
    yield "the sign of its output is turned", _with(prior, now, sign=-1.0)
    if isinstance(now, Flow):
        words = "its time runs from noise at 0 to pictures at 1"
        yield words, _with(prior, now, time=lambda t: now.scale - t)
        yield f"{words}, its velocity too", _with(prior, now, sign=-1.0, time=lambda t: now.scale - t)


def _preconditions(now: Precondition) -> Iterator[tuple[str, Precondition]]:
    def with_(**changes: Any) -> Precondition:
        return dataclasses.replace(now, **changes)

    ranges = [r for r in ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)) if r != (now.black, now.white)]
    predictions = [p for p in get_args(Prediction) if p != getattr(now, "prediction", p)]
    for black, white in ranges:
        words = f"its range is [{black:g}, {white:g}], not [{now.black:g}, {now.white:g}]"
        yield words, with_(black=black, white=white)
        if isinstance(now, EDM):
            scaled = now.sigma_data * (white - black) / (now.white - now.black)
            yield (
                f"{words}, and its sigma_data {scaled:g}",
                with_(black=black, white=white, sigma_data=scaled),
            )
    for prediction in predictions:
        yield f"it predicts {prediction}, not {now.prediction}", with_(prediction=prediction)  # type: ignore[attr-defined]
    if isinstance(now, EDM):
        for factor in (0.5, 2.0):
            yield f"its sigma_data is {now.sigma_data * factor:g}", with_(sigma_data=now.sigma_data * factor)
    if isinstance(now, VP | Flow | VE):
        for factor in (1000.0, 0.001):
            yield f"its time is {factor:g} times that", with_(scale=now.scale * factor)
    if isinstance(now, VP):
        yield from _schedules(now)
    if isinstance(now, VE):
        clock = "ln_sigma" if now.clock == "sigma" else "sigma"
        yield f"its clock is {clock}, not {now.clock}", with_(clock=clock)
    for black, white in ranges:
        for prediction in predictions:
            words = f"its range is [{black:g}, {white:g}] and it predicts {prediction}"
            yield words, with_(black=black, white=white, prediction=prediction)
    kinds: list[tuple[str, Precondition]] = [
        ("EDM's F", EDM(black=now.black, white=now.white)),
        ("VP's epsilon (DDPM)", VP(black=now.black, white=now.white)),
        ("VP's v (DDPM's steps)", VP(black=now.black, white=now.white, prediction="v")),
        ("a flow's velocity", Flow(black=now.black, white=now.white)),
        ("a flow's velocity, its time to 1000", Flow(black=now.black, white=now.white, scale=1000.0)),
        ("VE's score", VE(black=now.black, white=now.white)),
    ]
    for words, other in kinds:
        if type(other) is not type(now):
            yield f"it is {words}", other


def _schedules(now: VP) -> Iterator[tuple[str, VP]]:
    """The other schedules by name, of as many steps, each told the same time, discrete or from 0 to 1."""
    kept = "the table of ᾱ it came with" if now.alphas else now.schedule
    steps = len(now.alphas) or now.steps
    unit = now.scale / max(steps - 1, 1) if kept == "sde" else now.scale
    for schedule in ("linear", "scaled_linear", "cosine", "sde"):
        if schedule != kept:
            scale = unit * max(steps - 1, 1) if schedule == "sde" else unit
            other = dataclasses.replace(now, schedule=schedule, alphas=(), steps=steps, scale=scale)
            yield f"its schedule is {schedule}, not {kept}", other


def _with(
    prior: NetworkPrior,
    precondition: Precondition,
    *,
    sign: float = 1.0,
    time: Callable[[Tensor], Tensor] | None = None,
) -> NetworkPrior:
    """The prior with its network taken otherwise; the weights are shared."""
    other = copy.copy(prior)
    other.precondition = precondition
    if sign != 1 or time is not None:
        other.network = _Turned(prior.network, sign, time)
    return other


class _Turned(nn.Module):
    def __init__(self, network: nn.Module, sign: float, time: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.network, self.sign, self.time = network, sign, time

    def forward(self, x: Tensor, c_noise: Tensor, *labels: Tensor) -> Tensor:
        out: Tensor = self.network(x, c_noise if self.time is None else self.time(c_noise), *labels)
        return self.sign * out


# ------------------------------------------------------------------------------------------------- pictures


def is_of_photographs(card: Card) -> bool:
    """Whether photographs are pictures such as a prior was trained on, as far as its card can say: colour, of any size
    and of no classes. Digits, faces and ImageNet's crops are not."""
    return card.channels in (None, 3) and card.size is None and not card.classes


def pictures_for(card: Card, folder: Path | None = None, *, count: int = 4, side: int = 48) -> Tensor:
    """(N, C, s, s), float32, image units, of the prior's channels and size: squares of the pictures in `folder`, or of
    photographs that come with scikit-image.

    side: of the squares where the prior takes any. RequestError for a folder without pictures.
    """
    from PIL import Image

    side = card.size or side
    arrays = list(_read(folder, count))
    squares = []
    for k in range(count if folder is None else min(count, max(len(arrays), 1) * 4)):
        array = arrays[k % len(arrays)]
        squares.append(_square(array, side, k // len(arrays), card.channels or 3, Image))
    return torch.stack(squares)


def _read(folder: Path | None, count: int) -> Iterator[NDArray[Any]]:
    """Pictures (H, W, C), floating-point, image units."""
    if folder is None:
        from skimage import data

        for name in PHOTOGRAPHS:
            yield getattr(data, name)() / 255.0
        return
    paths = images.list_images(folder) if folder.is_dir() else [folder]
    for path in paths[:count]:
        yield images.read_image(path).array


def _square(array: NDArray[Any], side: int, which: int, channels: int, image: Any) -> Tensor:
    """A square of a picture, reduced to about its pixels where the picture is much larger."""
    x = torch.from_numpy(array.copy()).permute(2, 0, 1).double()
    if x.shape[0] != channels:
        x = x[:3].mean(0, keepdim=True).expand(channels, -1, -1)
    short = min(x.shape[1:])
    target = max(side, min(short, 4 * side) // 2)  # half as large: the camera's own noise goes
    factor = target / short
    size = [max(side, round(n * factor)) for n in x.shape[1:]]
    x = nn.functional.interpolate(x[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    rows, columns = (n - side for n in x.shape[1:])
    down, right = ((0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.25, 0.75))[which % 4]
    top, left = round(rows * down), round(columns * right)
    return x[:, top : top + side, left : left + side].float()


# --------------------------------------------------------------------------------------------------- checks


def _check_pictures(pictures: Tensor, card: Card) -> None:
    if pictures.ndim != 4 or not len(pictures) or not pictures.is_floating_point():
        raise RequestError(
            f"pictures: expected (N, C, H, W), floating-point, image units, got {tuple(pictures.shape)}"
        )
    if card.channels not in (None, pictures.shape[1]):
        raise RequestError(f"prior {card.name}: expected {card.channels} channels, got {pictures.shape[1]}")
    if not (pictures.min() >= -0.5 and pictures.max() <= 1.5):
        raise RequestError("pictures: expected image units, 0 black and 1 white; divide by 255?")


def _evaluate_once(prior: Prior, test: _Test) -> None:
    try:
        d = test.denoised(prior, test.pictures[:1], 0.1)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InvdiffError(
            f"prior {prior.card.name}: cannot be evaluated: {' '.join(str(error).split())}"
        ) from error
    if d.shape != test.pictures[:1].shape:
        raise InvdiffError(f"prior {prior.card.name}: D has the shape {tuple(d.shape)}, not x's")
