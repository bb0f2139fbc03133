"""EDM's scalings, against table 1 of Karras et al. 2022 (arXiv:2206.00364)."""

from __future__ import annotations

import math

import pytest
import torch

from invdiff.priors import EDM


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 80.0])
@pytest.mark.parametrize("data", [0.5, 0.2])
def test_the_scalings_are_the_papers(sigma: float, data: float) -> None:
    expected = (
        data**2 / (sigma**2 + data**2),
        sigma * data / math.sqrt(data**2 + sigma**2),
        1 / math.sqrt(sigma**2 + data**2),
        math.log(sigma) / 4,
    )
    got = EDM(sigma_data=data).scalings(torch.tensor([sigma], dtype=torch.float64))
    assert [float(c) for c in got] == pytest.approx(expected, rel=1e-12)


def test_the_scalings_at_sigma_data_are_these_numbers() -> None:
    got = EDM().scalings(torch.tensor([0.5], dtype=torch.float64))
    assert [float(c) for c in got] == pytest.approx(
        [0.5, 0.3535533906, 1.4142135624, -0.1732867951], rel=1e-9
    )


def test_a_network_that_hits_its_target_recovers_the_picture_exactly() -> None:
    x0 = torch.rand(4, 3, 5, 5, dtype=torch.float64)
    sigma = torch.tensor([0.001, 0.1, 2.0, 40.0], dtype=torch.float64)
    x = x0 + sigma[:, None, None, None] * torch.randn_like(x0)
    target = EDM().target(x0, x, sigma)
    assert torch.allclose(EDM().denoised(x, sigma, target), x0, rtol=0, atol=1e-12)


def test_what_the_network_is_given_and_asked_for_has_unit_variance_at_every_noise_level() -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = 0.5 + 0.25 * torch.randn(5, 1, 200, 200, generator=generator)  # std ½ on [-1, 1]
    sigma = torch.tensor([0.005, 0.1, 0.25, 1.0, 40.0])
    x = x0 + sigma[:, None, None, None] * torch.randn(x0.shape, generator=generator)
    for values in (EDM().inputs(x, sigma)[0], EDM().target(x0, x, sigma)):
        assert torch.allclose(values.std(dim=(1, 2, 3)), torch.ones(5), atol=0.02)


def test_image_units_become_the_networks_range_and_twice_the_sigma() -> None:
    white = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    given, c_noise = EDM().inputs(white, torch.tensor([0.6], dtype=torch.float64))
    assert float(given) == pytest.approx(1 / math.sqrt(1.2**2 + 0.5**2))
    assert float(c_noise) == pytest.approx(math.log(1.2) / 4)


def test_without_noise_d_is_the_picture_whatever_the_network_says() -> None:
    x, sigma = torch.rand(1, 3, 4, 4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert EDM().inputs(x, sigma)[1].isfinite().all()
    assert torch.allclose(EDM().denoised(x, sigma, torch.full_like(x, 7.0)), x, rtol=0, atol=1e-15)


@pytest.mark.parametrize("value", [0.0, -0.5, math.nan])
def test_data_without_spread_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="sigma_data: expected a positive number"):
        EDM(sigma_data=value)
