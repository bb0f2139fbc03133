"""What runs a peer on measurements: one picture and one sample at a time, randomness put back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.likelihood import NOISE_FLOOR
from invdiff.methods.defaults import abilities
from invdiff.methods.streams import Streams, checksum
from invdiff.operators import OPERATORS, Operator, PerImage
from invdiff.priors import Prior, fitted
from invdiff.priors.conditional import condition_of
from invdiff.running import Counter, check_finite

if TYPE_CHECKING:
    from . import Peer


@torch.inference_mode(False)  # a caller may be in it, where nothing can be differentiated
def restored(
    peer: Peer,
    y: Tensor,
    op: Operator,
    prior: Prior | None,
    *,
    sigma_y: float,
    settings: Mapping[str, Any],
    steps: int | None,
    samples: int,
    seed: int,
) -> tuple[Tensor, float]:
    """`Peer.restore`."""
    lacking = peer.missing()
    if lacking is not None:
        raise RequestError(f"{peer.name}: {lacking}")
    peer.check_settings(settings, steps, samples)
    if tuple(y.shape[1:]) != tuple(op.out_shape):
        raise RequestError(f"{peer.name}: expected y of (B, *{tuple(op.out_shape)}), got {tuple(y.shape)}")
    parts = op.parts if isinstance(op, PerImage) else (op,) * len(y)
    for part in parts:
        peer._check_operator(_kinds(part), abilities(part), sigma_y)
    given = {**peer.defaults, **settings}
    y = y.clone()
    if not peer.uses_prior:
        answers = [_classical(peer, one, part, sigma_y, given) for one, part in zip(y, parts, strict=True)]
        return torch.stack(answers)[None].to(y), 0.0
    if prior is None:
        raise RequestError(f"{peer.name}: expected a prior, got none")
    name, condition = condition_of(prior)
    if condition is not None:
        raise RequestError(f"{peer.name}: prior {name} must be shown y; expected one that denoises alone")
    counter = Counter(fitted(prior, op.in_shape))
    sampler, steps = _sampler(peer), peer.steps if steps is None else steps
    out = y.new_empty((samples, len(y), *op.in_shape))
    for b, part in enumerate(parts):
        row, there = y[b : b + 1].double(), part.to(y.device, torch.float64)
        for k in range(samples):
            with drawing(number(seed, y[b], k), y.device):
                found = sampler(counter, there, row.clone(), max(sigma_y, NOISE_FLOOR), steps, **given)
            out[k, b] = found.detach().reshape(op.in_shape)
    check_finite(out, peer.name)
    return out, counter.evaluations / (samples * len(y))


def number(seed: int, y: Tensor, index: int) -> int:
    """What torch is seeded with for a sample, as for our own methods."""
    return Streams.make(seed, [(checksum(y), index)], (), y).generators[0].initial_seed()


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators seeded, and put back after it; what the packages warn of is not said."""
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield


def _classical(peer: Peer, y: Tensor, op: Operator, sigma_y: float, settings: dict[str, Any]) -> Tensor:
    from .classical import ADAPTERS

    return torch.from_numpy(ADAPTERS[peer.name](y.cpu().double().numpy(), op, sigma_y, **settings))


def _sampler(peer: Peer) -> Callable[..., Tensor]:
    if peer.package == "azula":
        from .of_azula import ADAPTERS
    else:
        from .of_deepinv import ADAPTERS
    return ADAPTERS[peer.name]


def _kinds(op: Operator) -> set[str]:
    return {name for name, kind in OPERATORS.items() if isinstance(op, kind)}
