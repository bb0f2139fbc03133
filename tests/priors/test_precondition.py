"""The scalings of every convention, against the papers: EDM's against table 1 of Karras et al. 2022."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch

from invdiff.priors import EDM, VE, VP, Flow, Precondition
from invdiff.priors.precondition import Prediction


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


SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_discrete_levels_are_those_of_diffusers_schedulers(name: str) -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    kept = DDPMScheduler(beta_schedule=SCHEDULES[name]).alphas_cumprod.double()
    expected = ((1 - kept) / kept).sqrt() / 2
    levels = torch.tensor(VP(schedule=name).levels, dtype=torch.float64)  # type: ignore[arg-type]
    torch.testing.assert_close(
        levels, expected, rtol=5e-4, atol=0
    )  # theirs is float32, and 1 − ᾱ starts at 1e-4


@pytest.mark.parametrize(
    "network", [VP(), VP(schedule="cosine", white=3), VP(alphas=(0.9, 0.5, 0.1), scale=2, first=1)]
)
def test_at_a_level_it_was_trained_at_a_network_is_told_its_step_and_between_two_what_lies_between(
    network: VP,
) -> None:
    levels = torch.tensor(network.levels, dtype=torch.float64)
    steps = network.scale * torch.arange(len(levels), dtype=torch.float64) + network.first
    x = torch.zeros(len(levels), 1, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(network.inputs(x, levels)[1], steps, rtol=0, atol=1e-9)
    middle = (levels[:-1] * levels[1:]).sqrt()
    told = network.inputs(x[1:], middle)[1]
    torch.testing.assert_close(told, (steps[:-1] + steps[1:]) / 2, rtol=0, atol=1e-9)
    ends = torch.tensor([0.0, 1e9], dtype=torch.float64)
    assert network.inputs(x[:2], ends)[1].tolist() == [steps[0], steps[-1]]


def test_the_continuous_time_undoes_the_sdes_marginal() -> None:
    t = torch.tensor([1e-5, 0.01, 0.5, 1.0], dtype=torch.float64)
    kept = (-0.5 * t**2 * 19.9 - 0.1 * t).exp()
    sigma = ((1 - kept) / kept).sqrt() / 2
    told = VP(schedule="sde", scale=999).inputs(torch.zeros(4, 1, 1, 1, dtype=torch.float64), sigma)[1]
    torch.testing.assert_close(told, 999 * t, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", [VP, VE, Flow])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v", "velocity", "score"])
def test_a_target_of_any_kind_brings_the_picture_back(kind: type[VP], prediction: Prediction) -> None:
    """And ε, x₀ and v are what their papers say, of the z the network is given."""
    network = kind(prediction=prediction, black=-0.5, white=2.0)
    x0, epsilon = torch.rand(3, 2, 4, 4, dtype=torch.float64), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    sigma = torch.tensor([0.02, 0.4, 3.0], dtype=torch.float64)
    level = sigma[:, None, None, None]
    x = x0 + level * epsilon
    target = network.target(x0, x, sigma)
    assert torch.allclose(network.denoised(x, sigma, target), x0, rtol=0, atol=1e-12)
    both = torch.cat([target, torch.rand_like(target)], dim=1)  # a learned variance beside it is let go
    assert torch.equal(network.denoised(x, sigma, both), network.denoised(x, sigma, target))
    u, s = 2.5 * x0 - 0.5, 2.5 * level
    a = {VP: (1 + s**2) ** -0.5, VE: torch.ones_like(s), Flow: 1 / (1 + s)}[kind]
    assert torch.allclose(network.inputs(x, sigma)[0], a * (u + s * epsilon), rtol=1e-12)
    papers = {
        "epsilon": epsilon,
        "x0": u,
        "v": a * epsilon - a * s * u,
        "velocity": epsilon - u,
        "score": -epsilon / (a * s),
    }
    assert torch.allclose(target, papers[prediction], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: VP(prediction="noise"), "prediction: expected one of epsilon, x0, v, velocity, score, got 'noise'"),
        (lambda: VP(schedule="square"), "schedule: expected linear"),
        (lambda: VP(beta_start=0.1), "0 < beta_start ≤ beta_end < 1"),
        (lambda: VP(alphas=(0.5, 0.6)), "alphas: expected ᾱ_t falling"),
        (lambda: VE(clock="minutes"), "clock: expected sigma or ln_sigma, got 'minutes'"),
        (lambda: Flow(black=1), "expected black < white, got 1 and 1"),
    ],
)  # fmt: skip
def test_a_convention_that_is_none_is_refused(make: Callable[[], Precondition], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
