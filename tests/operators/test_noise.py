"""Gaussian noise: its draws and its density."""

from __future__ import annotations

import pytest
import torch

from invdiff.operators import GaussianNoise


def test_a_draw_has_its_sigma_and_is_fixed_by_its_generator_alone() -> None:
    y, noise = torch.full((1, 1, 100, 100), 0.5), GaussianNoise(0.1)
    first = noise.sample(y, torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    again = noise.sample(y, torch.Generator().manual_seed(0))
    assert torch.equal(first, again)
    assert not torch.equal(first, noise.sample(y, torch.Generator().manual_seed(1)))
    assert (first - y).std().item() == pytest.approx(0.1, rel=0.02)
    assert (first - y).mean().abs() < 4e-3


def test_without_noise_nothing_is_added() -> None:
    y = torch.rand(2, 3, 4, 4)
    assert torch.equal(GaussianNoise(0.0).sample(y, torch.Generator()), y)


def test_the_log_likelihood_is_that_of_a_normal_for_each_sample() -> None:
    r = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    wanted = torch.distributions.Normal(0.0, torch.tensor(0.2, dtype=r.dtype)).log_prob(r).sum((1, 2, 3))
    assert torch.allclose(GaussianNoise(0.2).log_likelihood(r), wanted, rtol=1e-12)


def test_noise_that_cannot_be_is_refused() -> None:
    for sigma in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sigma: expected a number from 0 up"):
            GaussianNoise(sigma)
    with pytest.raises(ValueError, match="no density"):
        GaussianNoise(0.0).log_likelihood(torch.zeros(1, 1))
