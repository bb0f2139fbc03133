"""Every objective against its paper's formula, written out; every weighting against its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.training.objective import VLB_SHARE, WEIGHTINGS, Task, log_normal
from invdiff.training.recipe import Noise, Objective

SIGMAS = torch.tensor([0.02, 0.4, 5.0])


def network(x: Tensor, c_noise: Tensor) -> Tensor:
    return x.sin() + 0.1 * c_noise[:, None, None, None]


def task(kind: str, **settings: Any) -> Task:
    return Task(Objective(kind=kind, **settings), Noise())  # type: ignore[arg-type]


def drawn(count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 4, 4, generator=generator), torch.randn(count, 3, 4, 4, generator=generator)


def mean(values: Tensor) -> float:
    return float(values.square().mean())


def test_edm_is_the_papers_weighted_denoising_error_for_each_image() -> None:
    x0, epsilon = drawn()
    got = task("edm").loss(network, x0, SIGMAS, epsilon)
    for row in range(3):  # Karras et al. 2022, eq. 2 and 8, with everything in the network's range
        s, y = 2 * float(SIGMAS[row]), 2 * x0[row] - 1
        noisy = y + s * epsilon[row]
        root = math.sqrt(s**2 + 0.25)
        told = torch.tensor([math.log(s) / 4])
        d = 0.25 / root**2 * noisy + s * 0.5 / root * network(noisy[None] / root, told)[0]
        assert float(got[row]) == pytest.approx((s**2 + 0.25) / (s * 0.5) ** 2 * mean(d - y), rel=1e-4)


def linear_alphas(steps: int = 1000) -> list[float]:
    kept, out = 1.0, []
    for t in range(steps):
        kept *= 1 - (1e-4 + (0.02 - 1e-4) * t / (steps - 1))
        out.append(kept)
    return out


def cosine_alphas(steps: int) -> list[float]:
    def f(t: float) -> float:
        return math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    kept, out = 1.0, []
    for t in range(1, steps + 1):
        kept *= 1 - min(0.999, 1 - f(t) / f(t - 1))
        out.append(kept)
    return out


PREDICTED: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {
    "epsilon": lambda x0, e, a, s: e,
    "x0": lambda x0, e, a, s: x0,
    "v": lambda x0, e, a, s: a * e - s * x0,
    "velocity": lambda x0, e, a, s: e - x0,
    "score": lambda x0, e, a, s: -e / s,
}


@pytest.mark.parametrize("prediction", PREDICTED)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ddpm_is_l_simple_on_the_papers_noisy_picture(prediction: str, schedule: str) -> None:
    x0, epsilon = drawn()
    alphas = linear_alphas() if schedule == "linear" else cosine_alphas(1000)
    ddpm = task("ddpm", prediction=prediction, schedule=schedule, weighting="unit", clock=999.0)
    for t in (3, 400, 990):  # Ho et al. 2020, algorithm 1, and Salimans & Ho 2022 for v
        kept = alphas[t]
        a, s, y = math.sqrt(kept), math.sqrt(1 - kept), 2 * x0 - 1
        output = network(a * y + s * epsilon, torch.full((3,), float(t)))
        expected = (output - PREDICTED[prediction](y, epsilon, a, s)).square().mean(dim=(1, 2, 3))
        sigma = torch.full((3,), s / a / 2)
        assert torch.allclose(ddpm.loss(network, x0, sigma, epsilon), expected, rtol=2e-3), t


def test_vp_is_the_sdes_denoising_score_matching() -> None:
    x0, epsilon = drawn()
    y = 2 * x0 - 1
    for t in (0.01, 0.3, 1.0):  # Song et al. 2021, eq. 7 and 33, λ(t) = the kernel's variance
        integral = 0.1 * t + (20 - 0.1) * t**2 / 2
        a, s = math.exp(-integral / 2), math.sqrt(1 - math.exp(-integral))
        score = network(a * y + s * epsilon, torch.full((3,), t))
        expected = s**2 * (score + epsilon / s).square().mean(dim=(1, 2, 3))
        sigma = torch.full((3,), s / a / 2)
        got = task("vp", prediction="score", clock=1.0).loss(network, x0, sigma, epsilon)
        assert torch.allclose(got, expected, rtol=1e-3), t


def test_ve_is_the_sdes_denoising_score_matching() -> None:
    x0, epsilon = drawn()
    y, s = 2 * x0 - 1, 2 * SIGMAS[:, None, None, None]
    score = network(y + s * epsilon, (2 * SIGMAS).log() / 4)
    expected = (s**2 * (score + epsilon / s) ** 2).mean(dim=(1, 2, 3))
    got = task("ve", prediction="score").loss(network, x0, SIGMAS, epsilon)
    assert torch.allclose(got, expected, rtol=1e-3)


def test_flow_is_the_linear_paths_velocity() -> None:
    x0, epsilon = drawn()
    y = 2 * x0 - 1
    for t in (0.05, 0.5, 0.97):  # Lipman et al. 2023, eq. 22 to 24 with σ_min = 0 and noise at t = 1
        velocity = network((1 - t) * y + t * epsilon, torch.full((3,), t))
        expected = (velocity - (epsilon - y)).square().mean(dim=(1, 2, 3))
        got = task("flow", clock=1.0).loss(network, x0, torch.full((3,), t / (1 - t) / 2), epsilon)
        assert torch.allclose(got, expected, rtol=1e-3), t


@pytest.mark.parametrize("kind", ["edm", "ddpm", "vp", "ve", "flow"])
def test_a_network_that_hits_its_target_has_no_loss(kind: str) -> None:
    x0, epsilon = drawn()
    some = task(kind)
    target = some.precondition.target(x0, x0 + SIGMAS[:, None, None, None] * epsilon, SIGMAS)
    assert some.loss(lambda x, c: target, x0, SIGMAS, epsilon).abs().max() == 0


def test_a_label_reaches_the_network() -> None:
    x0, epsilon = drawn()
    labels = torch.tensor([2, 0, 1])

    def told(x: Tensor, c_noise: Tensor, label: Tensor) -> Tensor:
        return network(x, c_noise) + label[:, None, None, None]

    got = task("flow").loss(told, x0, SIGMAS, epsilon, labels)
    for row in range(3):
        alone = task("flow").loss(lambda x, c: network(x, c) + float(labels[row]), x0, SIGMAS, epsilon)  # noqa: B023
        assert float(got[row]) == pytest.approx(float(alone[row]), rel=1e-5)


# On |D − x₀|² at SNR = ᾱ/(1−ᾱ), as the papers write them.
LAMBDAS: dict[str, Callable[[float], float]] = {
    "edm": lambda snr: (1 / snr + 0.5**2) / (1 / snr * 0.5**2),
    "snr": lambda snr: snr,
    "min_snr": lambda snr: min(snr, 5.0),
    "truncated_snr": lambda snr: max(snr, 1.0),
    "p2": lambda snr: snr / (1 + snr),
    "sigmoid": lambda snr: snr / (1 + math.exp(math.log(snr) - 2)),
}


@pytest.mark.parametrize("kind", ["edm", "ddpm", "vp", "ve", "flow"])
@pytest.mark.parametrize("name", LAMBDAS)
def test_a_weighting_counts_the_denoisers_error_as_its_paper_says(name: str, kind: str) -> None:
    x0, epsilon = drawn()
    some = task(kind, weighting=name)
    x = x0 + SIGMAS[:, None, None, None] * epsilon
    given, told = some.precondition.inputs(x, SIGMAS)
    denoised = some.precondition.denoised(x, SIGMAS, network(given, told))
    errors = 4 * (denoised - x0).square().mean(dim=(1, 2, 3))  # in the network's range
    got = some.loss(network, x0, SIGMAS, epsilon)
    for row in range(3):
        snr = 1 / (2 * float(SIGMAS[row])) ** 2
        assert float(got[row]) == pytest.approx(LAMBDAS[name](snr) * float(errors[row]), rel=2e-3)


def test_the_table_of_weightings_is_the_papers() -> None:
    assert LAMBDAS.keys() == WEIGHTINGS.keys()


def test_on_the_noise_min_snr_is_the_papers_clipped_weight() -> None:
    weight = task("ddpm", weighting="min_snr", gamma=3.0).weight(SIGMAS)
    assert weight is not None
    snr = 1 / (2 * SIGMAS) ** 2
    assert torch.allclose(weight, snr.clamp(max=3.0) / snr)  # Hang et al. 2023, section 3.4


def two_outputs(v: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, c: torch.cat([network(x, c), torch.full_like(x, v)], dim=1)


@pytest.mark.parametrize("v", [-1.0, 0.3, 1.0])
def test_a_learned_variance_adds_the_papers_share_of_its_bound(v: float) -> None:
    x0, epsilon = drawn()
    alphas, ddpm, y = linear_alphas(), task("ddpm"), 2 * x0 - 1
    for t in (
        1,
        30,
        700,
    ):  # Nichol & Dhariwal 2021: L_t = KL(q(x_{t−1} | x_t, x_0), p) of eq. 6, 10, 11 and 15
        kept, before = alphas[t], alphas[t - 1]
        beta = 1 - kept / before
        variance = (1 - before) / (1 - kept) * beta
        learned = math.exp((v + 1) / 2 * math.log(beta) + (1 - v) / 2 * math.log(variance))
        noisy = math.sqrt(kept) * y + math.sqrt(1 - kept) * epsilon
        told = torch.full((3,), 4.0 * t / 999)
        guess = (noisy - math.sqrt(1 - kept) * network(noisy, told)) / math.sqrt(kept)

        def average(clean: Tensor) -> Tensor:
            of_clean = math.sqrt(before) * beta / (1 - kept)  # noqa: B023
            return of_clean * clean + math.sqrt(kept / before) * (1 - before) / (1 - kept) * noisy  # noqa: B023

        posterior = torch.distributions.Normal(average(y), math.sqrt(variance))
        model = torch.distributions.Normal(average(guess), math.sqrt(learned))
        bits = torch.distributions.kl_divergence(posterior, model).mean(dim=(1, 2, 3)) / math.log(2)
        simple = (network(noisy, told) - epsilon).square().mean(dim=(1, 2, 3))
        sigma = torch.full((3,), math.sqrt((1 - kept) / kept) / 2)
        got = ddpm.loss(two_outputs(v), x0, sigma, epsilon)
        assert torch.allclose(got - simple, 0.001 * 1000 * bits, rtol=0.01, atol=2e-5), t
    assert VLB_SHARE == 0.001


def test_the_last_term_of_the_bound_is_the_likelihood_of_eight_bits() -> None:
    x0 = torch.tensor([0.0, 3 / 255, 100 / 255, 1.0]).view(1, 1, 2, 2)
    ddpm = task("ddpm")
    sigma = torch.tensor([ddpm.precondition.levels[0]])
    d, variance = x0 + 0.004, torch.zeros_like(x0)
    alphas = linear_alphas()
    beta, beta1 = 1 - alphas[0], 1 - alphas[1] / alphas[0]
    tilde = (1 - alphas[0]) / (1 - alphas[1]) * beta1
    scale = math.exp((math.log(beta) + math.log(tilde)) / 4)
    normal = torch.distributions.Normal((2 * d - 1).double(), scale)
    y = (2 * x0 - 1).double()
    upper, lower = normal.cdf(y + 1 / 255), normal.cdf(y - 1 / 255)
    upper[..., 1, 1], lower[..., 0, 0] = 1.0, 0.0
    expected = -1000 * (upper - lower).log2().mean()
    assert float(ddpm.bound(x0, d, variance, sigma)) == pytest.approx(float(expected), rel=1e-3)


def test_the_bound_teaches_the_variance_and_leaves_the_mean_alone() -> None:
    x0, epsilon = drawn()
    output = torch.randn(3, 6, 4, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    ddpm = task("ddpm")
    sigma = torch.tensor([ddpm.precondition.levels[t] for t in (0, 10, 900)])
    ddpm.loss(lambda x, c: output, x0, sigma, epsilon).sum().backward()
    assert output.grad is not None
    simple = 2 * (output.detach()[:, :3] - epsilon) / 48
    assert torch.allclose(output.grad[:, :3], simple, atol=1e-5)
    assert (output.grad[:, 3:] != 0).all()


def test_noise_levels_are_log_normal_in_the_networks_range() -> None:
    noise = Noise(mean=-1.0, std=0.8, uniform=0.0)
    log = (2 * log_normal(noise, 100_000, torch.Generator().manual_seed(0))).log()
    assert float(log.mean()) == pytest.approx(-1.0, abs=0.02)
    assert float(log.std()) == pytest.approx(0.8, abs=0.02)


def test_a_share_of_the_noise_levels_is_log_uniform_and_none_is_outside() -> None:
    noise = Noise(mean=-1.0, std=0.01, uniform=0.3, sigma_min=0.01, sigma_max=100.0)
    log = (2 * log_normal(noise, 100_000, torch.Generator().manual_seed(0))).log()
    spread = log[(log + 1).abs() > 0.05]
    assert len(spread) / len(log) == pytest.approx(0.3, abs=0.01)
    assert spread.min() >= math.log(0.01) - 1e-5
    assert spread.max() <= math.log(100) + 1e-5
    assert float(spread.std()) == pytest.approx((math.log(100) - math.log(0.01)) / 12**0.5, rel=0.03)
    wide = 2 * log_normal(Noise(mean=0.0, std=50.0), 1000, torch.Generator().manual_seed(0))
    assert float(wide.min()) == pytest.approx(0.004, rel=1e-5)
    assert float(wide.max()) == pytest.approx(80.0, rel=1e-5)


def times(some: Task) -> Tensor:
    """The t that the draws of σ stand for, in [0, 1]."""
    sigma = some.draw_sigma(50_000, torch.Generator().manual_seed(0))
    assert sigma.min() >= some.range[0] * (1 - 1e-5)
    assert sigma.max() <= some.range[1] * (1 + 1e-5)
    clock = some.precondition.scalings(2 * sigma)[3]
    if some.objective.kind in ("edm", "ve"):
        return (4 * clock - math.log(0.004)) / (math.log(80.0) - math.log(0.004))
    return clock / some.objective.clock


@pytest.mark.parametrize("kind", ["edm", "ddpm", "vp", "ve", "flow"])
@pytest.mark.parametrize("time", ["uniform", "logit_normal"])
def test_times_are_uniform_or_logit_normal_in_each_process(kind: str, time: str) -> None:
    t = times(task(kind, time=time, mean=-0.4, std=0.7)).double().sort().values
    ranks = (torch.arange(len(t)) + 0.5) / len(t)
    cdf = t if time == "uniform" else torch.special.ndtr((torch.logit(t.clamp(1e-6, 1 - 1e-6)) + 0.4) / 0.7)
    assert (cdf - ranks).abs().max() < 0.015  # flow's σ is cut at the ends of its range


def test_ddpm_draws_all_of_its_steps_and_nothing_between() -> None:
    ddpm = task("ddpm", steps=50)
    sigma = ddpm.draw_sigma(5000, torch.Generator().manual_seed(0))
    assert torch.equal(sigma.unique(), torch.tensor(ddpm.precondition.levels))


def test_a_classifier_is_taught_the_label_of_the_noisy_picture() -> None:
    x0, epsilon = drawn()
    labels = torch.tensor([1, 2, 0])
    seen: list[Tensor] = []

    def logits(x: Tensor, c_noise: Tensor) -> Tensor:
        seen.append(x)
        return x.mean(dim=(2, 3))

    got = task("edm").cross_entropy(logits, x0, SIGMAS, epsilon, labels)
    s = 2 * SIGMAS[:, None, None, None]
    noisy = (2 * x0 - 1 + s * epsilon) / (s**2 + 0.25).sqrt()
    assert torch.allclose(seen[0], noisy, rtol=1e-5, atol=1e-6)
    assert torch.allclose(
        got, -F.log_softmax(noisy.mean(dim=(2, 3)), dim=1)[torch.arange(3), labels], rtol=1e-4
    )


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises((ValueError, RequestError), match="edm has one of its own"):
        Objective(kind="edm", prediction="v")
