"""The one function behind the command line and every script: posterior samples of a picture given a measurement."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from invdiff import allocator, catalog, config
from invdiff.effort import DEFAULT, Point, front, parse
from invdiff.errors import RequestError, unknown
from invdiff.likelihood import Measurement, gaussian
from invdiff.methods import METHODS, MMPS, SR3, Method, Problem, coarse, sample
from invdiff.methods.defaults import AUTO, abilities, defaults, holes
from invdiff.methods.streams import Streams, checksum
from invdiff.operators import (
    ColouredNoise,
    Identity,
    LinearOperator,
    Mask,
    Noise,
    Operator,
    PerImage,
    ProximalOperator,
    Quantize,
    estimate_sigma,
)
from invdiff.priors import Prior, fitted, load_prior
from invdiff.priors.cascade import cascade_of
from invdiff.priors.conditional import ConditionalPrior, check_task, condition_of, task_of
from invdiff.priors.fit import fit, whole
from invdiff.priors.guidance import check_label_of, with_label
from invdiff.priors.network import resolve_device
from invdiff.profiling import Clock, Peak, Profile, evaluation_seconds, watched
from invdiff.running import Counter, Progress, check_finite, in_batches


@dataclass(frozen=True, kw_only=True)
class Result:
    """What `restore` returns. Pictures are unclipped, in image units."""

    samples: Tensor
    """(S, B, C, H, W)."""
    method: str
    reason: str
    """Why this method."""
    config: dict[str, Any]
    """The method's resolved settings, noise, seed and steps, as JSON can hold them."""
    checksums: list[str] = field(repr=False)
    """SHA-256 of each measurement; with the seed it fixes the draws."""
    evaluations: int
    """Network evaluations for each sample."""
    seconds: float
    network_seconds: float | None = None
    """Seconds spent in the network, forward and backward; None unless profiled."""
    profile: Profile | None = field(default=None, repr=False)
    """Where the time went; None unless profiled, and of several calls in one (a cascade, operators by picture)."""

    @property
    def mean(self) -> Tensor:
        """(B, C, H, W): the mean of the samples."""
        return self.samples.mean(dim=0)

    @property
    def std(self) -> Tensor:
        """(B, C, H, W): the samples' standard deviation, unbiased; zero for a single one."""
        return self.samples.std(dim=0) if len(self.samples) > 1 else torch.zeros_like(self.samples[0])


@torch.inference_mode(False)  # a caller may be in it, where nothing can be differentiated
def restore(
    y: Tensor,
    op: Operator,
    prior: str | Prior | Callable[[Tensor, Any], Tensor] = "natural",
    *,
    method: str | Method = "auto",
    sigma_y: float | Literal["auto"] = 0.0,
    noise: Noise | None = None,
    steps: int | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: int | None = None,
    device: str | torch.device = "cpu",
    precision: str = "auto",
    options: Mapping[str, Any] | None = None,
    label: int | None = None,
    guidance: float = 1.0,
    effort: str | float = DEFAULT,
    callback: Callable[[Progress], None] | None = None,
    profile: bool = False,
) -> Result:
    """Sample x₀ given y = A(x₀) + sigma_y·n.

    y: (B, *op.out_shape), image units. sigma_y: the noise's standard deviation in image units, 0 for none, "auto" to
    estimate it from y (a picture); noise: another model in its stead, such as operators.PoissonNoise(peak), which
    methods that know Gaussian noise alone meet as the Gaussian nearest to it (`Measurement.white`). method: a
    name of METHODS, "auto", or a Method; options: its hyper-parameters by name. batch: samples that go through the
    network together (default: eight on a GPU, one on a CPU; halved when a GPU's memory does not hold it). The draws
    of a sample depend on seed, the image and the sample's index alone. A prior of other channels, or another size, is
    made to fit (`priors.fitted`; the result's config says how, under "fit"). label: of a prior with classes, what the
    picture shows; guidance: how far towards that (`priors.with_label`), or of a conditional prior towards y.

    effort: of method auto, which chooses steps by it: fast, default, best, or the seconds that a picture may take.

    A conditional prior is shown y, and auto is then the method sr3; sr3 with another prior takes the conditional model
    that stands for it in this task (`catalog.PRIORS`), or warns and falls back on auto where there is none.
    RequestError, before any weight is loaded, for a pairing of method and operator that cannot be, or values out of
    range. callback is told after every step.
    """
    arguments = {
        "method": method, "noise": noise, "steps": steps, "samples": samples, "seed": seed, "batch": batch,
        "device": device, "precision": precision, "options": options, "profile": profile,
        "label": label, "guidance": guidance,
    }  # fmt: skip
    afforded = ""
    if effort != DEFAULT:
        prior, point, afforded = _afforded(effort, prior, y, op, sigma_y, noise, arguments)
        options = {**point.settings, **(options or {})}
        arguments["steps"] = steps = point.steps
    cascade = cascade_of(prior)
    if cascade is not None:
        from invdiff.cascade import restored  # which asks this function for its first stage

        return restored(y, op, cascade, sigma_y, callback, arguments)
    prior, method, options, why = _model(
        prior, method, options or {}, lambda: _noise_of(y, op, sigma_y, noise), op
    )
    name, condition = condition_of(prior)
    conditional = condition is not None
    check_label_of(prior, label, guidance, condition.dropout if condition else None)
    arguments["method"], arguments["options"] = method, options
    if isinstance(op, PerImage):
        return _one_by_one(y, op, prior, sigma_y, callback, arguments, why, afforded)
    given = measured(y, op, sigma_y, noise)
    spread = _spread(given)
    check_task(name, condition, op, spread)
    known = as_known_to(method, given)
    if isinstance(known.operator, PerImage):
        return _one_by_one(y, op, prior, sigma_y, callback, arguments, why, afforded)
    chosen, reason = choose_method(
        known.operator, method, known.sigma_y, samples=samples, steps=steps, options=options or {}
    )
    if chosen.any_noise and given.noise is not None and given.noise.has_score:
        known = given
    chosen.check(known)
    if isinstance(op, Quantize) and isinstance(known.operator, Identity):
        reason += "; rounding is taken as noise of a step/√12"
    _check_numbers(samples=(samples, 1), batch=(1 if batch is None else batch, 1), seed=(seed, 0))
    place = resolve_device(device)
    loaded = with_label(
        load_prior(prior, device=place, precision=precision), label, 1.0 if conditional else guidance
    )
    check_prior(loaded, chosen)
    began = time.perf_counter()
    images = [checksum(image) for image in given.y]
    same = known is given
    given = _moved(given, place)
    if isinstance(loaded, ConditionalPrior):
        loaded = loaded.seeing(given.y, given.operator, spread, guidance=guidance)
    else:
        loaded = fitted(loaded, op.in_shape)
    network = getattr(loaded, "prior", loaded) if conditional else loaded
    allocator.suit(op.in_shape[-2] * op.in_shape[-1], whole=whole(network))
    known = given if same else _moved(known, place)
    y, op = known.y, known.operator
    refined = method == catalog.AUTO and not conditional
    stages = coarse.stages(y, op, chosen) if refined else [coarse.Stage(y, op, chosen)]
    reason = "; ".join(filter(None, (why or reason, afforded)))
    if len(stages) > 1:
        reason += f"; large holes, so coarse to fine in {len(stages)} sizes"
    clock = Clock(place) if profile else None
    if clock is not None:
        peak = Peak(place)
        stages = [replace(stage, operator=watched(stage.operator, clock)) for stage in stages]
    counter = Counter(loaded, clock)
    work = _Work(counter, stages, known, given, images, seed)
    rows = [(b, k) for k in range(samples) for b in range(len(y))]
    out = y.new_empty((samples, len(y), *op.in_shape))
    for now, found in in_batches(rows, batch, place, counter, work.steps, callback, work.solve):
        for (b, k), x in zip(now, found, strict=True):
            out[k, b] = x
    check_finite(out, chosen.info.name)
    seconds = time.perf_counter() - began
    sizes = [list(stage.operator.in_shape[1:]) for stage in stages]
    return Result(
        samples=out,
        method=chosen.info.name,
        reason=reason,
        config={
            **dataclasses.asdict(chosen),
            "sigma_y": given.sigma_y,
            **({"noise": given.noise.describe()} if given.noise is not None else {}),
            "samples": samples,
            "seed": seed,
            "sizes": sizes,
            "walk": work.steps,
            "walk_from": work.walks[0][0],
            "fit": fit(network),
            "label": label,
            "guidance": guidance,
        },
        checksums=work.images,
        evaluations=counter.evaluations // len(rows),
        seconds=seconds,
        network_seconds=counter.seconds if clock else None,
        profile=counter.profile(seconds, peak) if clock else None,
    )


def _afforded(
    effort: str | float,
    prior: str | Prior | Callable[[Tensor, Any], Tensor],
    y: Tensor,
    op: Operator,
    sigma_y: float | Literal["auto"],
    noise: Noise | None,
    arguments: Mapping[str, Any],
) -> tuple[str | Prior | Callable[[Tensor, Any], Tensor], Point, str]:
    """The prior (loaded, where an evaluation was timed), what auto takes for this effort, and that in words.

    RequestError where it is not auto's to choose.
    """

    wanted, options = parse(effort), arguments["options"] or {}
    if arguments["method"] != catalog.AUTO or arguments["steps"] is not None or "steps" in options:
        raise RequestError(
            "effort: with it auto chooses the steps; leave out method and steps, or the effort"
        )
    if cascade_of(prior) is not None or condition_of(prior)[1] is not None:
        raise RequestError("effort: expected a prior of any task; a conditional model takes steps alone")
    samples = arguments["samples"]
    _check_numbers(samples=(samples, 1))
    _noise_of(y, op, sigma_y, noise)  # says what is wrong with any of them
    one, first = (op.parts[0], y[:1]) if isinstance(op, PerImage) else (op, y)
    known = as_known_to(catalog.AUTO, measured(first, one, sigma_y, noise)).pick([0])
    able = affordable(known.operator, known.sigma_y, wanted, samples=samples, options=options)
    if isinstance(wanted, str):
        return prior, able[0][0], wanted
    gradient = able[0][1].info.gradient
    place = resolve_device(arguments["device"])
    loaded = load_prior(prior, device=place, precision=arguments["precision"])
    shape, began = one.in_shape, time.perf_counter()
    each = evaluation_seconds(fitted(loaded, shape), shape, gradient, place) * samples
    spent = (time.perf_counter() - began) / len(y)  # the picture waited for that too
    costs = [spent + each * _evaluations(method, known) for _, method in able]
    at = max((i for i, cost in enumerate(costs) if cost <= wanted), default=0)
    (point, _), took = able[at], costs[at]
    if took > wanted:
        warnings.warn(
            f"budget: {wanted:g} s are too few here, the fastest takes about {took:.1f} s", UserWarning, 3
        )
    return loaded, point, f"{point.steps} steps, about {took:.1f} of {wanted:g} s"


def affordable(
    op: Operator, sigma_y: float, effort: str | float, *, samples: int, options: Mapping[str, Any]
) -> list[tuple[Point, Method]]:
    """What auto may take for this effort: a name's one point, of seconds all; each with its method, cheapest first.

    op, sigma_y: as auto knows them (`as_known_to`). RequestError where the options suit none.
    """
    wanted = parse(effort)
    chosen, _ = choose_method(op, catalog.AUTO, sigma_y, samples=samples)
    points = front(chosen.info.name, chosen.steps)
    if isinstance(wanted, str):
        points = tuple(point for point in points if point.name == wanted)
    found: list[tuple[Point, Method]] = []
    for point in points:
        settings = {**point.settings, **options}
        try:
            method, _ = choose_method(
                op, catalog.AUTO, sigma_y, samples=samples, steps=point.steps, options=settings
            )
        except RequestError:
            if point is points[-1] and not found:  # as a jump of more levels than there are steps
                raise
        else:
            found.append((point, method))
    return found


def _evaluations(method: Method, given: Measurement) -> float:
    """That auto asks of the network for a sample, in such as `evaluation_seconds` times, of the whole picture."""
    count = 0.0
    for stage in coarse.stages(given.y, given.operator, method):
        walk = stage.method.travelled([*range(stage.method.steps, -1, -1)])
        down = sum(s < sigma for sigma, s in pairwise(walk))  # the way back up asks nothing of the network
        count += down * math.prod(stage.operator.in_shape) / math.prod(given.operator.in_shape)
    return count * ((1 + method.iterations) / 2 if isinstance(method, MMPS) else 1)


def _model(
    prior: str | Prior | Callable[[Tensor, Any], Tensor],
    method: str | Method,
    options: Mapping[str, Any],
    noise: Callable[[], float],
    op: Operator,
) -> tuple[str | Prior | Callable[[Tensor, Any], Tensor], str | Method, Mapping[str, Any], str]:
    """The prior, the method and its options to use, and why where they are not what was asked for.

    Of a conditional prior auto is sr3. sr3 with another prior takes the conditional model that knows the same pictures
    (`catalog.model_for`), or where there is none for such a measurement falls back on auto, with a warning.
    """
    name, condition = condition_of(prior)
    if condition is not None:
        why = "made for it: a conditional prior" if method == catalog.AUTO else ""
        return prior, "sr3" if method == catalog.AUTO else method, options, why
    if method != "sr3" and not isinstance(method, SR3):
        return prior, method, options, ""
    task, sigma_y = task_of(op), noise()
    known, card = catalog.PRIORS.get(name), getattr(prior, "card", None)
    of_that_name = known is not None and card is not None and card.checksum != known.sha256
    model = None if of_that_name else catalog.model_for(name, task, sigma_y)
    if model is not None:
        return model, method, options, f"asked for; {model} is the conditional model for {task}"
    why = catalog.no_model(name, task, sigma_y)
    warnings.warn(why, UserWarning, stacklevel=3)
    own = catalog.METHODS["sr3"].own
    return prior, catalog.AUTO, {key: value for key, value in options.items() if key not in own}, why


def _noise_of(y: Tensor, op: Operator, sigma_y: float | Literal["auto"], noise: Noise | None) -> float:
    """The largest standard deviation of the noise of any of these measurements; RequestError as `measured`."""
    each = (
        [(y[i : i + 1], part) for i, part in enumerate(op.parts[: len(y)])]
        if isinstance(op, PerImage)
        else [(y, op)]
    )
    return max(_spread(measured(one, part, sigma_y, noise)) for one, part in each)


def _spread(given: Measurement) -> float:
    return given.sigma_y if given.noise is None else float(given.spread.max())


def as_known_to(method: str | Method, given: Measurement) -> Measurement:
    """The measurement as nearly every method can treat it: under white Gaussian noise.

    A quantiser is one to methods that can do with its prox or its surrogate, to the others and to auto a noise.
    """
    kind = type(method) if isinstance(method, Method) else METHODS.get(method)
    white = given.white()
    return white if kind is not None and kind.info.needs in ("any", "proximal") else white.unrounded()


def _one_by_one(
    y: Tensor,
    op: Operator,
    prior: str | Prior | Callable[[Tensor, Any], Tensor],
    sigma_y: float | Literal["auto"],
    callback: Callable[[Progress], None] | None,
    arguments: dict[str, Any],
    why: str,
    afforded: str,
) -> Result:
    """`restore` for pictures that have, or whose noise makes, an operator each: none feels the others."""
    if isinstance(op, PerImage) and len(y) != len(op.parts):
        raise RequestError(f"y: expected {len(op.parts)} measurements for {op.describe()}, got {len(y)}")
    for i in range(len(y)):  # what cannot be, before anything slow
        one = measured(y[i : i + 1], op.pick([i]), sigma_y, arguments["noise"])
        check_task(*condition_of(prior), one.operator, _spread(one))
        known = as_known_to(arguments["method"], one)
        chosen, _ = choose_method(
            known.operator, arguments["method"], known.sigma_y, steps=arguments["steps"],
            options=arguments["options"],
        )  # fmt: skip
        chosen.check(known)
    loaded = load_prior(prior, device=resolve_device(arguments["device"]), precision=arguments["precision"])
    found: list[Result] = []
    for i in range(len(y)):

        def tell(progress: Progress, before: int = i) -> None:
            if callback is not None:
                done, total = before * progress.total + progress.done, len(y) * progress.total
                callback(replace(progress, done=done, total=total))

        found.append(restore(y[i : i + 1], op.pick([i]), loaded, sigma_y=sigma_y, callback=tell, **arguments))
    network = [result.network_seconds or 0.0 for result in found]
    return replace(
        found[0],
        samples=torch.cat([result.samples for result in found], dim=1),
        reason="; ".join(filter(None, (why or found[0].reason, afforded))),
        checksums=[checksum for result in found for checksum in result.checksums],
        seconds=sum(result.seconds for result in found),
        network_seconds=sum(network) if arguments["profile"] else None,
        profile=None,
    )


def _moved(measurement: Measurement, place: torch.device) -> Measurement:
    """A copy there, in the dtype of its y."""
    y = measurement.y.to(place, copy=True)
    noise = None if measurement.noise is None else measurement.noise.to(place, y.dtype)
    return replace(measurement, y=y, operator=measurement.operator.to(place, y.dtype), noise=noise)


def choose_method(
    op: Operator,
    method: str | Method = "auto",
    sigma_y: float = 0.0,
    *,
    samples: int = 1,
    steps: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Method, str]:
    """The method with its settings, and why it was chosen. RequestError for what cannot be."""
    options = dict(options or {})
    if steps is not None and "steps" in options:
        raise RequestError(f"steps: given twice, {steps} and {options['steps']} among the options")
    if steps is not None:
        options["steps"] = steps
    if "steps" in options and not isinstance(options.get("grid", ""), str):
        raise RequestError("steps: a grid of levels says how many; give one of them")
    if isinstance(method, Method):
        catalog.check_info(method.info, abilities(op), sigma_y)
        if not options:
            return method, "given"
        return config.build(
            type(method), {**dataclasses.asdict(method), **options}, method.info.name
        ), "given"
    name, reason = method, "asked for"
    if method == catalog.AUTO:
        if isinstance(op, Identity) and sigma_y > 0:
            name, reason = "ancestral", "denoising: the noisy picture is itself a state of the diffusion"
            options.setdefault("steps", 1 if samples == 1 else 20)
        elif isinstance(op, LinearOperator):
            name, reason = AUTO, "the best on every linear task we measured"
            if isinstance(op, Mask):
                options = {**holes(options.get("steps", MMPS.steps)), **options}
        elif isinstance(op, ProximalOperator):
            name, reason = "diffpir", "not linear, but with a proximal map"
        else:
            name, reason = "dps", "it asks for nothing but a gradient"
    elif method not in METHODS:
        raise unknown("method", method, (*METHODS, catalog.AUTO))
    catalog.check_method(name, abilities(op), sigma_y)
    return config.build(METHODS[name], {**defaults(name, op), **options}, name), reason


def measured(
    y: Tensor, op: Operator, sigma_y: float | Literal["auto"] = 0.0, noise: Noise | None = None
) -> Measurement:
    """y with its noise. RequestError unless y is a finite batch of op's measurements, and the noise a sensible one."""
    if not isinstance(op, Operator):
        raise RequestError(f"op: expected an operator of invdiff.operators, got {type(op).__name__}")
    if noise is not None and not isinstance(noise, Noise):
        raise RequestError(f"noise: expected a model such as operators.PoissonNoise(30), got {noise!r}")
    if tuple(y.shape[1:]) != tuple(op.out_shape) or not len(y):
        raise RequestError(
            f"y: expected shape (B, {', '.join(map(str, op.out_shape))}) for {op.describe()}, got {tuple(y.shape)}"
        )
    if not y.is_floating_point():
        raise RequestError(
            f"y: expected floating-point values in image units (0 black, 1 white), got {y.dtype}; "
            "divide 8-bit values by 255"
        )
    if not torch.isfinite(y).all():
        raise RequestError("y: expected finite values, got NaN or infinity")
    scale = _largest(op, y)
    if y.abs().max() > 20 * scale:
        raise RequestError(
            f"y: expected image units (0 black, 1 white), which {op.describe()} brings to {scale:.3g} at most, "
            f"got values up to {y.abs().max():g}; divide by 255?"
        )
    if noise is not None and sigma_y != 0:
        raise RequestError(f"sigma_y and noise: give one of them, got {sigma_y} and {noise.describe()}")
    if sigma_y == "auto":
        if len(op.out_shape) != 3:
            raise RequestError(f"sigma_y: auto is for measurements that are pictures, not {op.describe()}")
        keep = op.keep if isinstance(op, Mask) else None
        sigma_y = float(torch.as_tensor(estimate_sigma(y, keep)).mean())
    if not isinstance(sigma_y, (int, float)) or not 0 <= sigma_y <= scale:
        raise RequestError(
            f"sigma_y: expected a standard deviation in image units, 0 to {scale:.3g} (8-bit 25 is 0.098), or auto, "
            f"got {sigma_y!r}"
        )
    if isinstance(noise, ColouredNoise) and noise.operator is not op:
        raise RequestError(
            f"noise: expected one coloured in the basis of the operator itself, {op.describe()}, got that of "
            f"{noise.operator.describe()}; pass the same operator to both"
        )
    plain = gaussian(noise)
    return Measurement(y, op, sigma_y, noise) if plain is None else Measurement(y, op, plain)


@torch.no_grad()
def _largest(op: Operator, like: Tensor) -> float:
    """The largest number that a white image is measured as, at least 1."""
    white = torch.ones(1, *op.in_shape, dtype=like.dtype, device=like.device)
    return max(1.0, float(op.pick([0]).A(white).abs().max()))


def check_prior(prior: Prior, method: Method) -> None:
    """RequestError where the prior does not know the method's noise."""
    if method.sigma_max > prior.card.sigma_max:
        raise RequestError(
            f"sigma_max: prior {prior.card.name} knows noise up to {prior.card.sigma_max:g}, got {method.sigma_max:g}"
        )


def _check_numbers(**given: tuple[Any, int]) -> None:
    """RequestError for a value that is no whole number, or below its least. given: name → (value, least)."""
    for name, (value, least) in given.items():
        if not isinstance(value, Integral) or value < least:
            raise RequestError(f"{name}: expected a whole number, at least {least}, got {value!r}")


class _Work:
    """All that the samples of one call have in common."""

    def __init__(
        self,
        prior: Counter,
        stages: list[coarse.Stage],
        measurement: Measurement,
        given: Measurement,
        images: list[str],
        seed: int,
    ) -> None:
        self.prior, self.stages, self.measurement, self.given = prior, stages, measurement, given
        self.images, self.seed = images, seed
        self.walks = [stage.method.levels(self._problem(stage)) for stage in stages]
        self.steps = sum(len(walk) - 1 for walk in self.walks)

    def solve(self, rows: Sequence[tuple[int, int]], tell: Callable[[int], None]) -> Tensor:
        """Samples, (len(rows), C, H, W). rows: (image, sample index) of each; tell(step) after every step."""
        images = [b for b, _ in rows]
        x: Tensor | None = None
        before = 0
        for stage, walk in zip(self.stages, self.walks, strict=True):
            shape = stage.operator.in_shape
            name = "" if stage is self.stages[-1] else f"/{shape}"  # each size has draws of its own
            noise = Streams.make(self.seed, [(self.images[b] + name, k) for b, k in rows], shape, stage.y)
            start = None if x is None else coarse.enlarged(x, stage)

            def step_done(step: int, steps: int, before: int = before) -> None:
                tell(before + step)

            problem = self._problem(stage, images)
            x = sample(stage.method, problem, noise, levels=walk, start=start, callback=step_done)
            before += len(walk) - 1
        return self.given.pick(images).paste(x)  # type: ignore[arg-type]  # there is always a stage

    def _problem(self, stage: coarse.Stage, images: list[int] | None = None) -> Problem:
        measurement = replace(self.measurement, y=stage.y, operator=stage.operator)
        if images is None:
            return Problem(self.prior.seeing(range(len(stage.y))), measurement)
        return Problem(self.prior.seeing(images), measurement.pick(images))
