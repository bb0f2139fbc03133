"""Samples of a prior itself, given nothing: what it has learned, and what an integrator makes of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from invdiff import allocator, catalog, config, methods
from invdiff.errors import RequestError
from invdiff.likelihood import Measurement
from invdiff.methods import Problem, Unconditional
from invdiff.methods.streams import Streams
from invdiff.operators import Operator
from invdiff.priors import Card, Prior, fitted, load_prior
from invdiff.priors.cascade import cascade_of
from invdiff.priors.conditional import condition_of
from invdiff.priors.fit import fit, whole
from invdiff.priors.guidance import check_label_of, with_label
from invdiff.priors.network import resolve_device
from invdiff.running import Counter, Progress, check_finite, in_batches


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What `sample` returns. Pictures are unclipped, in image units."""

    samples: Tensor
    """(S, C, H, W)."""
    config: dict[str, Any]
    """All resolved settings, the seed and the length of the walk, as JSON can hold them."""
    evaluations: int
    """Network evaluations for each sample."""
    seconds: float


@torch.inference_mode(False)  # a caller may be in it, where nothing can be differentiated
def sample(
    prior: str | Prior | Callable[[Tensor, Any], Tensor] = "natural",
    shape: Sequence[int] = (3, 64, 64),
    *,
    integrator: str = "ancestral",
    grid: str | Sequence[float] = "karras",
    steps: int = 50,
    sigma_max: float = Unconditional.sigma_max,
    sigma_min: float = Unconditional.sigma_min,
    jump: int = 1,
    repeats: int = 1,
    label: int | None = None,
    guidance: float = 1.0,
    samples: int = 1,
    first: int = 0,
    seed: int = 0,
    batch: int | None = None,
    device: str | torch.device = "cpu",
    precision: str = "auto",
    callback: Callable[[Progress], None] | None = None,
) -> Samples:
    """Sample x₀ of shape (C, H, W) from the prior: from noise at sigma_max down a grid of noise levels to 0.

    integrator: a name of methods.INTEGRATORS with its settings, as heun, ddim:0.5, predictor_corrector:form=vp; grid:
    karras, karras:RHO, log_uniform, ddpm, or the levels themselves, descending, which then are the steps; σ's are in
    image units. jump, repeats: travel back up in noise, as RePaint's. batch: samples that go through the network
    together (default: eight on a GPU, one on a CPU; halved when a GPU's memory does not hold it). A sample's draws
    depend on (seed, its index) alone; `samples` are those from the index `first` on. A prior of another size is made to
    fit (`priors.fitted`; the config says how, under "fit"). label: of a prior with classes, the pictures
    wanted; guidance: how far towards them, 1 for the prior's own pictures of that class (`priors.with_label`).

    RequestError, before any weight is loaded, for an unknown integrator or values out of range; for channels, a label
    or a sigma_max that the prior does not know before it is evaluated. callback is told after every step.
    """
    method = unconditional(
        integrator=integrator, grid=grid, steps=steps, sigma_max=sigma_max, sigma_min=sigma_min, jump=jump,
        repeats=repeats,
    )  # fmt: skip
    at_least = {"samples": (samples, 1), "first": (first, 0), "seed": (seed, 0)}
    if batch is not None:
        at_least["batch"] = (batch, 1)
    for name, (value, least) in at_least.items():
        if not isinstance(value, Integral) or value < least:
            raise RequestError(f"{name}: expected a whole number, at least {least}, got {value!r}")
    if len(shape) != 3 or not all(isinstance(n, Integral) and n >= 1 for n in shape):
        raise RequestError(f"shape: expected (channels, height, width), each at least 1, got {tuple(shape)}")
    cascade = cascade_of(prior)
    if cascade is not None:
        from invdiff.cascade import sampled  # which asks this function for its base

        arguments = {
            **{name: getattr(method, name) for name in ("integrator", "grid", "steps", "jump", "repeats")},
            "sigma_max": sigma_max, "sigma_min": sigma_min, "label": label, "guidance": guidance, "samples": samples,
            "first": first, "seed": seed, "batch": batch, "device": device, "precision": precision,
        }  # fmt: skip
        return sampled((shape[0], shape[1], shape[2]), cascade, method, callback, arguments)
    name, condition = condition_of(prior)
    if condition is not None and not condition.dropout:
        raise RequestError(catalog.needs_a_measurement(name, condition.tasks, condition.noise))
    check_label_of(prior, label, guidance)
    place = resolve_device(device)
    loaded = with_label(load_prior(prior, device=place, precision=precision), label, guidance)
    check_prior(loaded.card, shape[0], method)
    loaded = fitted(loaded, shape)
    allocator.suit(shape[-2] * shape[-1], whole=whole(loaded))
    began = time.perf_counter()
    counter = Counter(loaded)
    nothing = _Nothing((shape[0], shape[1], shape[2]))
    out = torch.empty(samples, *shape, device=place)
    walk = method.levels(_given_nothing(counter, nothing, out[:0]))

    def solve(rows: Sequence[int], tell: Callable[[int], None]) -> Tensor:
        like = out[rows[0] : rows[-1] + 1]
        noise = Streams.make(seed, [("prior", first + k) for k in rows], nothing.in_shape, like)
        problem = _given_nothing(counter, nothing, like)
        return methods.sample(method, problem, noise, levels=walk, callback=lambda step, steps: tell(step))

    for rows, found in in_batches(range(samples), batch, place, counter, len(walk) - 1, callback, solve):
        out[rows[0] : rows[-1] + 1] = found
    check_finite(out, integrator)
    settings = {**dataclasses.asdict(method), "shape": list(shape), "samples": samples, "first": first}
    return Samples(
        samples=out,
        config={
            **settings,
            "label": label,
            "guidance": guidance,
            "seed": seed,
            "walk": len(walk) - 1,
            "fit": fit(loaded),
        },
        evaluations=counter.evaluations // samples,
        seconds=time.perf_counter() - began,
    )


def unconditional(**settings: Any) -> Unconditional:
    """The method with these settings by name. RequestError for an unknown integrator, or a value out of range."""
    method = config.build(Unconditional, settings, "sample")
    if not method.integrator:
        raise RequestError(
            "integrator: expected a name such as ancestral, heun or ddim:0.5, got nothing; see invdiff methods"
        )
    return method


def check_prior(card: Card, channels: int, method: Unconditional) -> None:
    """RequestError where the prior does not know pictures of so many channels, or the method's noise."""
    if method.sigma_max > card.sigma_max:
        raise RequestError(
            f"sigma_max: prior {card.name} knows noise up to {card.sigma_max:g}, got {method.sigma_max:g}"
        )
    if card.channels not in (None, channels):
        raise RequestError(f"prior {card.name}: its pictures have {card.channels} channels, got {channels}")


class _Nothing(Operator):
    """No measurement: y has no numbers."""

    out_shape = (0,)

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.in_shape = shape

    def A(self, x: Tensor) -> Tensor:
        return x.new_empty(len(x), 0)


def _given_nothing(prior: Prior, nothing: _Nothing, x: Tensor) -> Problem:
    return Problem(prior, Measurement(nothing.A(x), nothing, 0.0))
