"""The EDM objective, against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invdiff.priors import EDM
from invdiff.training.loss import draw_sigma, edm_loss
from invdiff.training.recipe import Noise


def network(x: Tensor, c_noise: Tensor) -> Tensor:
    return x.sin() + c_noise[:, None, None, None]


def test_it_is_the_papers_weighted_denoising_error_for_each_image() -> None:
    x0, epsilon = torch.rand(3, 3, 4, 4), torch.randn(3, 3, 4, 4)
    sigma = torch.tensor([0.02, 0.4, 5.0])
    got = edm_loss(network, EDM(), x0, sigma, epsilon)
    for row in range(3):  # eq. 2 and 8, with everything in the network's range
        s, y = 2 * float(sigma[row]), 2 * x0[row] - 1
        noisy = y + s * epsilon[row]
        root = math.sqrt(s**2 + 0.25)
        d = (
            0.25 / root**2 * noisy
            + s * 0.5 / root * network(noisy[None] / root, torch.tensor([math.log(s) / 4]))[0]
        )
        weight = (s**2 + 0.25) / (s * 0.5) ** 2
        assert float(got[row]) == pytest.approx(weight * float((d - y).square().mean()), rel=1e-4)


def test_a_network_that_hits_its_target_has_no_loss() -> None:
    x0, epsilon, sigma = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([0.1, 1.0])
    target = EDM().target(x0, x0 + sigma[:, None, None, None] * epsilon, sigma)
    assert edm_loss(lambda x, c: target, EDM(), x0, sigma, epsilon).abs().max() == 0


def test_noise_levels_are_log_normal_in_the_networks_range() -> None:
    noise = Noise(mean=-1.0, std=0.8, uniform=0.0)
    log = (2 * draw_sigma(noise, 100_000, torch.Generator().manual_seed(0))).log()
    assert float(log.mean()) == pytest.approx(-1.0, abs=0.02)
    assert float(log.std()) == pytest.approx(0.8, abs=0.02)


def test_a_share_of_the_noise_levels_is_log_uniform_and_none_is_outside() -> None:
    noise = Noise(mean=-1.0, std=0.01, uniform=0.3, sigma_min=0.01, sigma_max=100.0)
    log = (2 * draw_sigma(noise, 100_000, torch.Generator().manual_seed(0))).log()
    spread = log[(log + 1).abs() > 0.05]
    assert len(spread) / len(log) == pytest.approx(0.3, abs=0.01)
    assert spread.min() >= math.log(0.01) - 1e-5
    assert spread.max() <= math.log(100) + 1e-5
    assert float(spread.std()) == pytest.approx((math.log(100) - math.log(0.01)) / 12**0.5, rel=0.03)
    wide = 2 * draw_sigma(Noise(mean=0.0, std=50.0), 1000, torch.Generator().manual_seed(0))
    assert float(wide.min()) == pytest.approx(0.004, rel=1e-5)
    assert float(wide.max()) == pytest.approx(80.0, rel=1e-5)
