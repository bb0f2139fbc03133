"""azula's denoisers: D(x, σ) is the mean of their own posterior at the time that σ is on their schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from invdiff import load_prior
from invdiff.errors import RequestError

azula = pytest.importorskip("azula")

from azula.denoise import GaussianDenoiser, KarrasDenoiser, SimpleDenoiser  # noqa: E402
from azula.linalg.covariance import IsotropicCovariance  # noqa: E402
from azula.noise import (  # noqa: E402
    CosineSchedule,
    DecaySchedule,
    RectifiedSchedule,
    VESchedule,
    VPSchedule,
)

SCHEDULES = [VESchedule(), VPSchedule(), CosineSchedule(), RectifiedSchedule(), DecaySchedule()]


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 3, padding=1, dtype=torch.float64)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layer(x) * (1 + t.reshape(-1, 1, 1, 1) / 10)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", [SimpleDenoiser, KarrasDenoiser])
def test_d_is_the_posterior_s_mean_in_every_schedule(kind: type[Any], schedule: Any) -> None:
    denoiser = kind(Backbone(), schedule)
    prior = load_prior(denoiser)
    generator = torch.Generator().manual_seed(1)
    clean = 2 * torch.rand(2, 3, 8, 8, generator=generator, dtype=torch.float64) - 1
    noise = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    for at in (0.1, 0.5, 0.95):
        t = torch.tensor(at, dtype=torch.float64)
        alpha, sigma = schedule(t)
        x_t = alpha * clean + sigma * noise
        x, level = (x_t / alpha + 1) / 2, float(sigma / alpha) / 2
        ours = 2 * prior(x, level) - 1
        torch.testing.assert_close(ours, denoiser(x_t, t).mean, rtol=1e-5, atol=1e-5 * (1 + level))
        assert prior.card.sigma_min < level < prior.card.sigma_max
    assert prior.card.format == f"azula {kind.__name__}, {type(schedule).__name__}"


def test_each_picture_has_its_own_sigma() -> None:
    prior = load_prior(KarrasDenoiser(Backbone(), VPSchedule()))
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    both = prior(x, torch.tensor([0.1, 1.0], dtype=torch.float64))
    alone = torch.cat([prior(x[:1], 0.1), prior(x[1:], 1.0)])
    torch.testing.assert_close(both, alone, rtol=1e-9, atol=1e-9)


def test_a_gaussian_denoiser_is_the_exact_one() -> None:
    mean, variance = 0.4, 0.09
    denoiser = GaussianDenoiser(
        torch.full((3, 8, 8), mean, dtype=torch.float64),
        IsotropicCovariance(torch.tensor(variance, dtype=torch.float64)),
        VESchedule(),
    )
    prior = load_prior(denoiser, options={"range": [0, 1]})
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    for sigma in (0.01, 0.3, 5.0):
        exact = mean + variance / (variance + sigma**2) * (x - mean)
        torch.testing.assert_close(prior(x, sigma), exact, rtol=1e-9, atol=1e-9)


def test_gradients_flow_to_x() -> None:
    prior = load_prior(KarrasDenoiser(Backbone(), VPSchedule()))
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    prior(x, 0.3).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_options_are_checked() -> None:
    denoiser = KarrasDenoiser(Backbone(), VPSchedule())
    with pytest.raises(RequestError, match=r"unknown option rnge\. Did you mean 'range'"):
        load_prior(denoiser, options={"rnge": [0, 1]})
    with pytest.raises(RequestError, match="range: expected two numbers"):
        load_prior(denoiser, options={"range": 3})
