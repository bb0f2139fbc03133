"""Large holes are filled coarse to fine, and only those, and only where the choice was left to us."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.likelihood import Measurement
from invdiff.methods import MMPS, Ancestral, Problem, coarse, sample
from invdiff.priors.analytic import GaussianPrior

PRIOR = GaussianPrior.white(0.5, 0.25)


def hole(height: int, width: int, side: int) -> operators.Mask:
    keep = torch.ones(height, width)
    keep[8 : 8 + side, 8 : 8 + side] = 0
    return operators.Mask(keep)


def ramp(height: int, width: int, batch: int = 1) -> Tensor:
    across, down = (
        torch.linspace(0, 1, width).expand(height, -1),
        torch.linspace(0, 1, height)[:, None].expand(-1, width),
    )
    return torch.stack([across, down, (across + down) / 2]).expand(batch, -1, -1, -1).contiguous()


@pytest.mark.parametrize(("side", "sizes"), [(6, 1), (15, 1), (40, 2), (80, 3)])
def test_a_picture_is_halved_until_its_hole_is_narrow(side: int, sizes: int) -> None:
    op = hole(101, 98, side)
    found = coarse.stages(op.A(ramp(101, 98)), op, MMPS())
    assert [stage.operator.in_shape[1:] for stage in found] == [(26, 25), (51, 49), (101, 98)][-sizes:]
    assert found[0].method.sigma_max == MMPS().sigma_max
    assert all(stage.method.sigma_max == coarse.SIGMA for stage in found[1:])


def test_no_side_becomes_smaller_than_the_least_and_other_operators_keep_their_size() -> None:
    op = hole(60, 60, 45)
    assert coarse.stages(op.A(ramp(60, 60)), op, MMPS())[0].operator.in_shape == (3, 30, 30)
    blur = operators.Blur(operators.kernels.disk(2), (3, 60, 60))
    assert len(coarse.stages(blur.A(ramp(60, 60)), blur, MMPS())) == 1


def test_halving_takes_the_mean_of_what_is_observed() -> None:
    y = torch.tensor([[1.0, 0.0, 0.2], [0.5, 0.0, 0.4], [0.0, 0.0, 0.6]]).expand(1, 1, 3, 3)
    keep = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 0, 1]]).bool()[None]
    small, seen = coarse.halved(y, keep)
    torch.testing.assert_close(small, torch.tensor([[0.75, 0.3], [0.0, 0.6]]).expand(1, 1, 2, 2))
    assert seen.tolist() == [[[True, True], [False, True]]]


def test_the_enlarged_picture_is_noised_to_the_level_it_is_restored_from() -> None:
    seen: list[Tensor] = []

    def watching(x: Tensor, sigma: float) -> Tensor:
        seen.append(x.clone())
        return x

    op = operators.Identity((3, 64, 64))
    problem = Problem(invdiff.load_prior(watching), Measurement(ramp(64, 64), op, 0.5))
    generator = torch.Generator().manual_seed(0)
    sample(
        Ancestral(steps=2),
        problem,
        lambda: torch.randn(1, 3, 64, 64, generator=generator),
        start=ramp(64, 64),
    )
    assert (seen[0] - ramp(64, 64)).std().item() == pytest.approx(0.5, rel=0.05)


def test_auto_goes_coarse_to_fine_keeps_what_is_known_and_says_so() -> None:
    op = hole(80, 72, 40)
    y = op.A(ramp(80, 72, batch=2) + torch.tensor([0.0, 0.1]).view(2, 1, 1, 1))
    result = invdiff.restore(y, op, PRIOR, steps=4, samples=2)
    assert "coarse to fine" in result.reason
    assert result.config["sizes"][-1] == [80, 72]
    assert result.evaluations == 4 * len(result.config["sizes"]) > 4
    keep = op.keep.expand_as(y)
    assert all(torch.equal(x[keep], y[keep]) for x in result.samples)
    alone = invdiff.restore(y[1:], op, PRIOR, steps=4, samples=2, batch=1)
    torch.testing.assert_close(alone.samples[:, 0], result.samples[:, 1], rtol=0, atol=1e-4)
    assert len(invdiff.restore(y, op, PRIOR, method="mmps", steps=4).config["sizes"]) == 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_any_number_of_channels_go_coarse_to_fine(channels: int) -> None:
    keep = torch.ones(96, 96)
    keep[10:80, 10:80] = 0
    op = operators.Mask(keep, channels)
    x = torch.rand(1, channels, 96, 96, generator=torch.Generator().manual_seed(0))
    result = invdiff.restore(op.A(x), op, GaussianPrior.white(0.5, 0.25), steps=2)
    assert len(result.config["sizes"]) > 1
    assert torch.equal(op.A(result.samples[0]), op.A(x))
