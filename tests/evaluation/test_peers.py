"""experiments/exactness/peers.py: deepinv's and azula's samplers get our priors and operators unaltered, and run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from invdiff import operators
from invdiff.operators import Operator
from invdiff.priors.analytic import GaussianPrior

N = 5
SHAPE = (1, N, N)
SIGMA_Y = 0.05
FILE = Path(__file__).parents[2] / "experiments" / "exactness" / "peers.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("exactness_peers", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


peers = load()
KEEP = torch.rand(N, N, generator=torch.Generator().manual_seed(1)) < 0.4
OPERATORS: dict[str, Operator] = {
    "mask": operators.Mask(KEEP.float(), channels=1),
    "box": operators.Downsample(2, SHAPE, kernel="box"),
    "blur": operators.Blur(operators.kernels.gaussian(0.8, 3), SHAPE, border="reflect"),
}
PAIRS = [
    (name, kind)
    for name, peer in peers.PEERS.items()
    for kind, op in OPERATORS.items()
    if isinstance(op, peer.needs)
]


def correlated() -> GaussianPrior:
    at = torch.cartesian_prod(torch.arange(N), torch.arange(N)).double()
    return GaussianPrior.correlated(0.4, 0.0625 * torch.exp(-torch.cdist(at, at) / 2))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measured(prior: GaussianPrior, op: Operator) -> Tensor:
    clean = op.A(prior.sample((1, *SHAPE), torch.Generator().manual_seed(3)))
    return clean + SIGMA_Y * random(*clean.shape)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_peer_returns_finite_samples_that_differ_and_leaves_y_and_the_generator_alone(
    name: str, kind: str
) -> None:
    prior, op = correlated(), OPERATORS[kind]
    y = measured(prior, op)
    given, state = y.clone(), torch.get_rng_state()
    found = peers.PEERS[name].run(prior, op, y, SIGMA_Y, steps=6, samples=16, seed=0)
    assert found.shape == (16, *SHAPE)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    assert found.isfinite().all()
    assert len(found.flatten(1).unique(dim=0)) > 8  # TDS repeats its best particles, the others none
    assert torch.equal(y, given)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_seed_decides_the_samples_zero_like_any_other(name: str) -> None:
    prior, op = correlated(), OPERATORS["mask"]
    y = measured(prior, op)

    def at(seed: int) -> Tensor:
        found: Tensor = peers.PEERS[name].run(prior, op, y, SIGMA_Y, steps=3, samples=2, seed=seed)
        return found

    first = at(0)
    torch.randn(3)  # whatever was drawn in between
    assert torch.equal(first, at(0))
    assert not torch.equal(first, at(1))


@pytest.mark.parametrize("sigma", [0.003, 0.1, 2.0, 40.0])
def test_the_denoiser_deepinv_sees_is_the_posterior_mean_in_both_of_its_ranges(sigma: float) -> None:
    from deepinv.models.wrapper import MinusOneOneDenoiserWrapper

    prior, x = correlated(), 0.5 + sigma * random(3, *SHAPE)
    exact, theirs = prior(x, sigma), peers.DeepinvDenoiser(prior)
    for given in (sigma, torch.tensor(sigma), torch.full((3,), sigma), torch.full((3, 1, 1, 1), sigma)):
        torch.testing.assert_close(theirs(x, given), exact, rtol=0, atol=1e-5)
    signed = MinusOneOneDenoiserWrapper(theirs)(2 * x - 1, torch.tensor(2 * sigma))
    torch.testing.assert_close(signed, 2 * exact - 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["VPSchedule", "VESchedule", "RectifiedSchedule"])
@pytest.mark.parametrize("t", [0.01, 0.5, 1.0])
def test_the_denoiser_azula_sees_is_the_posterior_mean_under_every_schedule(name: str, t: float) -> None:
    """By the textbook formula for x' ~ N(2μ − 1, 4C) and x_t = α x' + σ ε, which knows nothing of image units."""
    from azula import noise

    schedule = getattr(noise, name)()
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = schedule(time)
    prior, x_t = correlated(), random(3, N * N)
    mean = 2 * prior.mean - 1
    covariance = 4 * prior.covariance_times(torch.eye(N * N, dtype=torch.float64))
    total = alpha**2 * covariance + sigma**2 * torch.eye(N * N, dtype=torch.float64)
    exact = mean + torch.linalg.solve(total, (x_t - alpha * mean).T).T @ (alpha * covariance)
    found = peers.AzulaDenoiser(prior, SHAPE, schedule)(x_t, time).mean
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_residual_is_twice_ours_in_azulas_units_and_so_is_its_noise(kind: str) -> None:
    prior, op = correlated(), OPERATORS[kind]
    x, y = random(1, *SHAPE), measured(prior, op)
    flat = peers.Flat.of(prior, op, y, SIGMA_Y)
    torch.testing.assert_close(flat.y - flat.A((2 * x - 1).flatten(1)), 2 * (y - op.A(x)).flatten(1))
    assert flat.sigma_y == 2 * SIGMA_Y


@pytest.mark.parametrize("name", [n for n in peers.PEERS if n != "azula/tds"])
def test_a_sample_does_not_depend_on_the_others_of_its_batch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, op = correlated(), OPERATORS["mask"]
    y, noise = measured(prior, op), random(3, *SHAPE)
    rows = noise

    def like(given: Tensor, **_: object) -> Tensor:
        return rows.reshape(given.shape).to(given.dtype)

    monkeypatch.setattr(torch, "randn_like", like)
    monkeypatch.setattr(torch, "randn", lambda shape, **_: rows.reshape(shape))
    monkeypatch.setattr("deepinv.sampling.BaseSDESolver.randn_like", lambda self, given: like(given))
    together = peers.PEERS[name].run(prior, op, y, SIGMA_Y, steps=5, samples=3, seed=0)
    for i in range(3):
        rows = noise[i : i + 1]
        alone = peers.PEERS[name].run(prior, op, y, SIGMA_Y, steps=5, samples=1, seed=0)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-4)


# Mean's error in posterior standard deviations and trace of the covariance over the exact one, at 40 steps: wide
# bounds, which a measurement in another unit, or a σ_y twice too large, leaves. deepinv's DPS is unconditional, and
# its DDRM draws half the variance, or less; both are theirs.
BOUNDS = {
    "deepinv/dps": (0.4, 0.8, 0.7, 2.0),
    "deepinv/ddrm": (0.0, 0.2, 0.2, 0.5),
    "azula/tds": (0.0, 0.45, 0.5, 1.2),
}


@pytest.mark.parametrize("name", peers.PEERS)
def test_on_a_masked_white_gaussian_every_peer_is_as_near_the_posterior_as_it_is_known_to_be(
    name: str,
) -> None:
    prior, op = GaussianPrior.white(0.5, 0.25), OPERATORS["mask"]
    y = measured(prior, op)
    rows = peers.PEERS[name].run(prior, op, y, SIGMA_Y, steps=40, samples=400, seed=0).flatten(1)
    seen = KEEP.flatten().double()
    gain = seen * 0.25**2 / (0.25**2 + SIGMA_Y**2)
    mean, variance = 0.5 + gain * (y.flatten() - 0.5), 0.25**2 * (1 - gain)
    error = float((rows.mean(0) - mean).norm() / variance.sum().sqrt())
    low, high, least, most = BOUNDS.get(name, (0.0, 0.25, 0.6, 1.15))
    assert low <= error < high
    assert least < float(rows.var(0).sum() / variance.sum()) < most
    off = (rows.mean(0) - mean)[KEEP.flatten()].square().mean().sqrt() / variance.min().sqrt()
    assert (off < 1) == (name != "deepinv/dps")  # in deviations of the pixels seen, a fifth of the others'


def test_a_peer_refuses_an_operator_it_cannot_use_and_a_y_of_another_shape() -> None:
    prior, mask, blur = correlated(), OPERATORS["mask"], OPERATORS["blur"]
    y = measured(prior, mask)
    with pytest.raises(TypeError, match="azula/repaint: expected a Mask"):
        peers.PEERS["azula/repaint"].run(prior, blur, y, SIGMA_Y, 4, 1, 0)
    with pytest.raises(ValueError, match="expected one measurement"):
        peers.PEERS["azula/mmps"].run(prior, mask, y.repeat(2, 1, 1, 1), SIGMA_Y, 4, 1, 0)
    with pytest.raises(ValueError, match="expected at least 2"):
        peers.PEERS["azula/mmps"].run(prior, mask, y, SIGMA_Y, 1, 1, 0)


def test_names_begin_with_the_package_and_every_peer_tells_its_settings() -> None:
    for name, peer in peers.PEERS.items():
        assert name == peer.name
        assert name.split("/")[0] == peer.package
        assert peer.settings
