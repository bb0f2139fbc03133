"""What a profile tells: each part its own seconds, and the operations that the layers come to."""

from __future__ import annotations

import dataclasses
import sys
import time

import pytest
import torch
from torch import nn

import invdiff
from invdiff import operators
from invdiff.priors import Card, NetworkPrior
from invdiff.priors.precondition import EDM
from invdiff.profiling import Clock, Peak, Profile, evaluation_seconds, network_flops, peak_flops, watched

SHAPE = (3, 16, 16)
CPU = torch.device("cpu")


class OneConvolution(nn.Module):
    """3 to 3 channels by a kernel of 3²: 2·9·3·3 operations a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        time.sleep(0.002)
        return self.conv(x)


def prior() -> NetworkPrior:
    return NetworkPrior(OneConvolution(), EDM(), Card(name="one", channels=3))


@pytest.mark.parametrize(("method", "passes"), [("ddnm", 1), ("dps", 2)])
def test_operations_are_those_of_every_pass_forward_and_back(method: str, passes: int) -> None:
    op = operators.Mask((torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.5).float())
    y = op.A(torch.full((1, *SHAPE), 0.5))
    result = invdiff.restore(y, op, prior(), method=method, steps=4, samples=3, sigma_y=0.1, profile=True)
    told = result.profile
    assert told is not None
    assert told.flops == passes * 3 * result.evaluations * 2 * 9 * 3 * 3 * 256
    assert told.forward > 3 * result.evaluations * 0.002
    assert (told.backward > 0) == (method == "dps")
    assert told.operator > 0
    assert told.sampler > 0
    assert told.network == pytest.approx(result.network_seconds)
    assert told.peak_mib > 10


def test_flops_count_what_a_window_needs_and_nothing_is_left_behind() -> None:
    one = prior()
    assert network_flops(one, SHAPE, False, CPU) == (2 * 81 * 256, 0.0)
    assert network_flops(one, (3, 16, 32), True, CPU) == (2 * 2 * 81 * 256, 2 * 2 * 81 * 256)


def test_a_watched_operator_is_the_same_operator_and_the_given_one_is_left_alone() -> None:
    blur = operators.Blur(torch.full((3, 3), 1 / 9), (1, 8, 8))
    clock = Clock(CPU)
    seen = watched(blur, clock)
    x = torch.rand(1, 1, 8, 8)
    assert type(seen) is type(blur)
    assert torch.equal(seen.A(x), blur.A(x))
    first = clock.seconds["operator"]
    assert first > 0
    blur.A(x)
    assert clock.seconds["operator"] == first
    seen.A_dagger(x)
    assert clock.seconds["operator"] > first


@pytest.mark.parametrize(
    "name", ["A_adjoint", "A_dagger", "prox", "precondition", "U", "U_adjoint", "V", "V_adjoint"]
)
def test_each_of_an_operators_maps_is_counted(name: str) -> None:
    mask = operators.Mask((torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float())
    clock, x = Clock(CPU), torch.rand(1, 3, 8, 8)
    more = {"prox": (mask.A(x), 1.0), "precondition": (1.0,)}.get(name, ())
    of = mask.V_adjoint(x) if name in ("U", "V") else x
    getattr(watched(mask, clock), name)(of, *more)
    assert clock.seconds["operator"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the mark is the whole process's")
def test_a_peak_begins_anew() -> None:
    first = Peak(CPU)
    held = first.mib()
    large = torch.ones(100 * 2**18)  # 100 MiB
    most = first.mib()
    assert most > held + 90
    del large
    assert Peak(CPU).mib() < most - 50


def test_an_evaluation_is_timed_the_second_time_with_its_gradient_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, 7.0, 10.0, 12.0] * 2)
    passes: list[str] = []
    monkeypatch.setattr(Clock, "now", lambda self: next(times))

    def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
        passes.append("forward")
        found = 2 * x
        if x.requires_grad:
            found.register_hook(lambda gradient: passes.append("backward"))
        return found

    assert evaluation_seconds(denoiser, SHAPE, True, CPU) == 2.0
    assert passes == ["forward", "backward"] * 2
    passes.clear()
    assert evaluation_seconds(denoiser, SHAPE, False, CPU) == 2.0
    assert passes == ["forward"] * 2


def test_the_peak_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 9.0, 10.0, 14.0, 20.0, 25.0])
    monkeypatch.setattr(Clock, "now", lambda self: next(times))
    assert peak_flops(CPU, torch.float32, size=8, tries=2) == 2 * 8**3 / 4


def test_of_an_operator_for_each_picture_there_is_no_profile_of_the_whole() -> None:
    masks = [
        operators.Mask((torch.rand(16, 16, generator=torch.Generator().manual_seed(i)) < 0.5).float())
        for i in range(2)
    ]
    op = operators.per_image(masks)
    y = op.A(torch.full((2, *SHAPE), 0.5))
    result = invdiff.restore(y, op, prior(), method="ddnm", steps=2, profile=True)
    assert result.profile is None
    assert (result.network_seconds or 0) > 2 * 2 * 0.002


def test_a_part_within_itself_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ticks = Clock(CPU), iter(range(100))
    monkeypatch.setattr(Clock, "now", lambda self: float(next(ticks)))
    inner = clock.timed("operator", lambda: None)
    clock.timed("operator", lambda: (inner(), inner()))()
    assert clock.seconds == {"operator": 1.0}
    with pytest.raises(ZeroDivisionError):
        clock.timed("operator", lambda: 1 / 0)()
    assert clock.seconds == {"operator": 2.0}


def test_the_shares_are_of_the_whole() -> None:
    told = Profile(seconds=10, forward=4, backward=3, operator=1, flops=35e12, peak_flops=10e12, peak_mib=100)
    assert (told.network, told.sampler, told.utilisation) == (7, 2, 0.5)
    assert str(told) == (
        "network forward 40.0%, backward 30.0%, operator 10.0%, sampler 20.0% of 10 s; "
        "35 TFLOP at 50% of this machine's 10 TFLOP/s; 100 MiB at most"
    )
    assert "backward" not in str(dataclasses.replace(told, backward=0.0))
