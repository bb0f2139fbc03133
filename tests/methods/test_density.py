"""log p(x) by the probability-flow ODE against densities that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invdiff.errors import InvdiffError
from invdiff.methods.density import bits_per_dim, log_density, rademacher
from invdiff.methods.grid import karras
from invdiff.methods.streams import Streams
from invdiff.priors import Card, FunctionPrior, GaussianPrior
from invdiff.priors.analytic import MixturePrior

SHAPE = (3, 1, 2)
N = math.prod(SHAPE)
SIGMA_MIN, SIGMA_MAX = 0.005, 100.0


def gaussian(name: str) -> GaussianPrior:
    if name == "white":
        return GaussianPrior.white(0.45, 0.25)
    root = torch.randn(N, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return GaussianPrior.correlated(0.4, 0.0625 / N * root @ root.T)


def mixture() -> MixturePrior:
    means = torch.tensor([0.2, 0.7], dtype=torch.float64).view(2, 1, 1, 1).expand(2, *SHAPE)
    return MixturePrior.make(means, torch.tensor([0.1, 0.3]), torch.tensor([0.4, 0.6]))


def draws(prior: GaussianPrior | MixturePrior, count: int = 4) -> Tensor:
    return prior.sample((count, *SHAPE), torch.Generator().manual_seed(2))


def normal(rows: int, seed: int = 0) -> Streams:
    """Gaussian probes, one stream for each row."""
    return Streams.make(
        seed, [(str(row), 0) for row in range(rows)], SHAPE, torch.zeros(1, dtype=torch.float64)
    )


def error(prior: GaussianPrior | MixturePrior, steps: int) -> float:
    """The largest error over some pictures, in nats for each number."""
    x = draws(prior)
    found = log_density(prior, x, steps=steps, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, probes=None)
    return float((found - prior.log_density(x, SIGMA_MIN)).abs().max()) / N


PRIORS = {"white": gaussian("white"), "correlated": gaussian("correlated"), "mixture": mixture()}


@pytest.mark.parametrize("name", PRIORS)
def test_the_exact_trace_gives_the_density_to_second_order_in_the_steps(name: str) -> None:
    coarse, fine = error(PRIORS[name], 60), error(PRIORS[name], 120)
    assert coarse < 7e-3
    assert 3.8 < coarse / fine < 4.2


@pytest.mark.parametrize("name", ["white", "correlated"])
def test_600_steps_have_the_density_of_a_gaussian_to_a_ten_thousandth_of_a_nat_per_number(name: str) -> None:
    assert error(PRIORS[name], 600) < 1e-4


def test_it_is_the_density_of_pictures_with_the_noise_sigma_min() -> None:
    prior, x = gaussian("white"), draws(gaussian("white"))
    for sigma_min in (0.05, 0.5):
        found = log_density(prior, x, steps=200, sigma_min=sigma_min, probes=None)
        assert torch.allclose(found / N, prior.log_density(x, sigma_min) / N, rtol=0, atol=5e-4)


def test_the_cards_noise_levels_mean_and_spread_are_the_default() -> None:
    prior, x = gaussian("correlated"), draws(gaussian("correlated"))
    card = prior.card
    said = {
        "sigma_min": card.sigma_min,
        "sigma_max": card.sigma_max,
        "mean": card.data_mean,
        "std": card.data_std,
    }
    given = log_density(prior, x, steps=10, probes=None, **said)  # type: ignore[arg-type]
    assert torch.equal(log_density(prior, x, steps=10, probes=None), given)
    for name, other in (("sigma_min", 0.1), ("sigma_max", 50.0), ("mean", 5.0), ("std", 20.0)):
        changed = log_density(prior, x, steps=10, probes=None, **{**said, name: other})  # type: ignore[arg-type]
        assert (changed - given).abs().min() > 1e-3


def test_a_step_is_two_evaluations_from_level_to_level_upwards() -> None:
    prior, seen = gaussian("white"), []

    def listening(x: Tensor, sigma: float | Tensor) -> Tensor:
        seen.append(sigma)
        return prior(x, sigma)

    log_density(FunctionPrior(listening, prior.card), draws(prior), steps=3, probes=None)
    up = karras(4, 100.0, 0.001)[:-1][::-1]
    assert seen == [up[0], up[1], up[1], up[2], up[2], up[3]]


def test_the_end_is_exact_for_white_pictures_at_any_sigma_max_and_any_mean() -> None:
    mean = torch.linspace(0, 1, N, dtype=torch.float64).view(SHAPE)
    prior = GaussianPrior.white(mean, 0.2)
    x = draws(prior)
    found = log_density(prior, x, steps=400, sigma_min=0.01, sigma_max=0.5, probes=None, mean=mean)
    assert torch.allclose(found / N, prior.log_density(x, 0.01) / N, rtol=0, atol=1e-4)


def test_signs_give_the_trace_of_independent_pixels_without_an_error() -> None:
    prior, x = gaussian("white"), draws(gaussian("white"))
    exact = log_density(prior, x, steps=10, probes=None)
    assert torch.allclose(
        log_density(prior, x, steps=10, noise=rademacher(normal(4))), exact, rtol=1e-12, atol=0
    )
    assert set(rademacher(normal(4))().flatten().tolist()) == {-1.0, 1.0}
    assert (log_density(prior, x, steps=10, noise=normal(4)) - exact).abs().min() > 1e-3


@pytest.mark.parametrize("signs", [False, True], ids=["gaussian", "signs"])
@pytest.mark.parametrize("probes", [1, 4])
def test_probes_are_unbiased_with_the_variance_of_probes_kept_along_the_way(signs: bool, probes: int) -> None:
    """On a Gaussian the estimate is the probes' mean of −vᵀMv, and a constant, with M = ∫ J/σ dσ: variance 2‖M‖² (of
    what is off the diagonal for signs). Probes drawn anew at every step would have far less, and those of a wrong size
    a bias."""
    count, steps = 1500, 12
    prior = gaussian("correlated")
    x = draws(prior, 1)
    exact = float(log_density(prior, x, steps=steps, sigma_min=0.05, probes=None))
    noise = rademacher(normal(count)) if signs else normal(count)
    found = log_density(
        prior, x.expand(count, *SHAPE), steps=steps, sigma_min=0.05, probes=probes, noise=noise
    )
    gain = 0.5 * ((prior.variances + 100.0**2) / (prior.variances + 0.05**2)).log()
    assert prior.basis is not None
    m = (prior.basis * (math.log(100.0 / 0.05) - gain)) @ prior.basis.T
    off = m - torch.diag(m.diagonal()) if signs else m
    std = float((2 * off.square().sum() / probes).sqrt())
    assert abs(float(found.mean()) - exact) < 3.5 * std / count**0.5
    assert float(found.std()) == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize("probes", [1, 2, None])
def test_each_picture_of_a_batch_has_the_density_it_has_alone(probes: int | None) -> None:
    prior, x = mixture(), draws(mixture(), 3)

    def of(rows: list[int]) -> Tensor:
        noise = Streams.make(0, [(str(row), 0) for row in rows], SHAPE, x)
        return log_density(prior, x[rows], steps=15, probes=probes, noise=noise)

    together = of([0, 1, 2])
    assert torch.allclose(together, torch.cat([of([row]) for row in range(3)]), rtol=1e-11, atol=1e-11)
    assert torch.allclose(together.flip(0), of([2, 1, 0]), rtol=1e-11, atol=1e-11)


def test_pictures_are_left_alone_and_the_answer_has_no_graph_in_whatever_mode() -> None:
    prior, x = gaussian("correlated"), draws(gaussian("correlated"))
    wanted = log_density(prior, x, steps=5, probes=None)
    leaf = x.clone().requires_grad_()
    found = log_density(prior, leaf, steps=5, probes=None)
    assert torch.equal(found, wanted)
    assert not found.requires_grad
    assert torch.equal(leaf, x)
    with torch.no_grad():
        assert torch.equal(log_density(prior, x, steps=5, probes=None), wanted)
    with torch.inference_mode():
        assert torch.equal(log_density(prior, x.clone(), steps=5, probes=None), wanted)
    single = log_density(prior, x.float(), steps=5, probes=None)
    assert single.dtype is torch.float32
    assert torch.allclose(single.double(), wanted, rtol=1e-4, atol=1e-3)


def test_the_uniform_density_on_an_8_bit_picture_costs_8_bits() -> None:
    n = 12
    assert bits_per_dim(torch.zeros(3), n).tolist() == [8.0] * 3
    sharper = torch.tensor(
        n * math.log(16.0), dtype=torch.float64
    )  # each number known to a sixteenth of the range
    assert float(bits_per_dim(sharper, n)) == pytest.approx(4.0)
    assert float(bits_per_dim(sharper, n, levels=65536)) == pytest.approx(12.0)


def test_bits_of_gaussian_pictures_bound_their_entropy_once_dequantised() -> None:
    """8-bit values of a Gaussian: −Σ P log₂ P from P itself, and the bound from the density of (v + u)/256."""
    std = 0.05
    at = torch.arange(256, dtype=torch.float64)
    cdf = lambda t: 0.5 * (1 + torch.erf((t - 0.5) / (std * 2**0.5)))  # noqa: E731
    p = cdf((at + 1) / 256) - cdf(at / 256)
    entropy = float(-torch.special.xlogy(p, p).sum() / math.log(2))
    generator = torch.Generator().manual_seed(0)
    v = torch.multinomial(p, 20_000, replacement=True, generator=generator).double()
    x = (v + torch.rand(v.shape, generator=generator, dtype=torch.float64)) / 256
    density = GaussianPrior.white(0.5, std).log_density(x.view(-1, 1, 1, 1), 0.0)
    bits = bits_per_dim(density, 1)
    assert float(bits.mean()) == pytest.approx(entropy, abs=4 * float(bits.std()) / 20_000**0.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"sigma_min": 0.0}, "expected 0 < sigma_min < sigma_max ≤ 100, .* got 0 and 100"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "got 2 and 1"),
        ({"sigma_max": 200.0}, "what prior gaussian knows, got 0.001 and 200"),
        ({"probes": 0}, "probes: expected at least 1, or None for the exact trace, got 0"),
        ({"probes": 1}, "noise: expected a callable"),
        ({"probes": 1, "noise": lambda: torch.zeros(1)}, r"noise: .* \(4, 3, 1, 2\), got \(1,\)"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], said: str) -> None:
    prior = gaussian("white")
    with pytest.raises(ValueError, match=said):
        log_density(prior, draws(prior), **{"probes": None, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "x", [torch.zeros(1, 3, 3), torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.zeros(0, 1, 3, 3)]
)
def test_what_is_no_batch_of_pictures_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"x: expected pictures \(B, C, H, W\), floating-point"):
        log_density(gaussian("white"), x, probes=None)


@pytest.mark.parametrize(("n", "levels"), [(0, 256), (3, 1)])
def test_bits_of_nothing_are_refused(n: int, levels: int) -> None:
    with pytest.raises(ValueError, match=f"got {n} and {levels}"):
        bits_per_dim(torch.zeros(1), n, levels=levels)


def test_a_prior_that_cannot_be_differentiated_is_refused() -> None:
    constant = FunctionPrior(lambda x, sigma: x.detach() / 2, Card(name="blind"))
    with pytest.raises(InvdiffError, match="prior blind cannot be differentiated"):
        log_density(constant, draws(gaussian("white")), probes=None)


def test_a_way_that_diverges_is_an_error_and_not_a_number() -> None:
    wild = FunctionPrior(lambda x, sigma: -1e200 * x**3, Card(name="wild"))
    with pytest.raises(InvdiffError, match=r"prior wild: .* diverged; use more steps"):
        log_density(wild, draws(gaussian("white")), steps=5, probes=None)
