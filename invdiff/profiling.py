"""Where the time and memory of a restoration go."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.operators import Operator


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Of one call. Seconds; what is in none of the parts went to the sampler's own arithmetic."""

    seconds: float
    forward: float
    """In the network, on the way there;"""
    backward: float
    """and back."""
    operator: float
    """In A, its adjoint, pseudo-inverse, prox and factors; a gradient through A counts as the sampler's."""
    flops: float
    """In the network: floating-point operations, two for each multiplication with addition."""
    peak_flops: float
    """That this machine can do a second, by a product of large matrices in the network's precision."""
    peak_mib: float
    """Memory, the GPU's or the process's."""

    @property
    def network(self) -> float:
        return self.forward + self.backward

    @property
    def sampler(self) -> float:
        return self.seconds - self.network - self.operator

    @property
    def utilisation(self) -> float:
        """Share of the machine's peak that the network runs at."""
        return self.flops / max(self.network, 1e-9) / self.peak_flops

    def __str__(self) -> str:
        parts = {
            "network forward": self.forward,
            "backward": self.backward,
            "operator": self.operator,
            "sampler": self.sampler,
        }
        shares = ", ".join(f"{name} {part / self.seconds:.1%}" for name, part in parts.items() if part)
        speed = f"{self.utilisation:.0%} of this machine's {self.peak_flops / 1e12:.3g} TFLOP/s"
        work = f"{self.flops / 1e12:.3g} TFLOP at {speed}"
        return f"{shares} of {self.seconds:.3g} s; {work}; {self.peak_mib:,.0f} MiB at most"


@dataclass(eq=False)
class Clock:
    """Seconds by part. A part inside one of the same name counts once; a GPU is waited for at both ends."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    _depth: dict[str, int] = field(default_factory=dict)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def enter(self, part: str) -> None:
        self._depth[part] = self._depth.get(part, 0) + 1
        if self._depth[part] == 1:
            self.add(part, -self.now())

    def leave(self, part: str) -> None:
        self._depth[part] -= 1
        if self._depth[part] == 0:
            self.add(part, self.now())

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **more: Any) -> Any:
            self.enter(part)
            try:
                return call(*given, **more)
            finally:
                self.leave(part)

        return wrapped


CALLS = (
    "A", "A_adjoint", "A_dagger", "prox", "precondition", "U", "U_adjoint", "V", "V_adjoint",
)  # fmt: skip


def watched(operator: Operator, clock: Clock) -> Operator:
    """The operator, a copy, whose calls are counted as "operator"."""
    found = copy.copy(operator)
    for name in CALLS:
        if hasattr(operator, name):
            vars(found)[name] = clock.timed("operator", getattr(operator, name))
    return found


def network_flops(
    prior: Callable[[Tensor, float], Tensor], shape: Sequence[int], gradient: bool, device: torch.device
) -> tuple[float, float]:
    """Of one evaluation of a picture of this shape, (C, H, W): forward, and backward to x. It is run to be counted."""
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.full((1, *shape), 0.5, device=device, requires_grad=gradient)
    with FlopCounterMode(display=False) as there, torch.set_grad_enabled(gradient):
        denoised = prior(x, 1.0)
    if not (gradient and denoised.requires_grad):
        return float(there.get_total_flops()), 0.0
    with FlopCounterMode(display=False) as back:
        torch.autograd.grad(denoised.sum(), x)
    return float(there.get_total_flops()), float(back.get_total_flops())


def evaluation_seconds(
    prior: Callable[[Tensor, float], Tensor], shape: Sequence[int], gradient: bool, device: torch.device
) -> float:
    """Of one evaluation of one picture, with its gradient or without: the second, for the first is slower."""
    clock, x = Clock(device), torch.full((1, *shape), 0.5, device=device, requires_grad=gradient)
    seconds = 0.0
    with torch.set_grad_enabled(gradient):
        for _ in range(2):
            began = clock.now()
            value = prior(x, 0.5).sum()
            if gradient and value.requires_grad:
                torch.autograd.grad(value, x)
            seconds = clock.now() - began
    return seconds


def peak_flops(device: torch.device, precision: torch.dtype, *, size: int = 2048, tries: int = 5) -> float:
    """Of a product of square matrices, the fastest of a few tries."""
    clock = Clock(device)
    a = torch.randn(size, size, device=device).to(precision)
    least = float("inf")
    for _ in range(tries + 1):
        began = clock.now()
        _ = a @ a
        least = min(least, clock.now() - began)
    return 2 * size**3 / least


class Peak:
    """The most memory held since this was made, in MiB: the GPU's; else the process's, as far as the system tells."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.init()  # or it knows no cuda:1 yet, where a peer without a prior comes first
            torch.cuda.reset_peak_memory_stats(device)
        else:  # Linux: begins the high-water mark anew; elsewhere it is that of the whole process
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def mib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        try:
            status = Path("/proc/self/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
        except (OSError, ValueError, IndexError):
            return _high_water()


def _high_water() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
