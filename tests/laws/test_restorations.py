"""Laws 5, 6 and 8: DPS equals its paper's algorithm, no image feels its batch, known pixels come back bit for bit."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.likelihood import Measurement
from invdiff.methods import DPS, METHODS, Method, Problem, RePaint, grid, sample
from invdiff.methods.defaults import defaults
from invdiff.operators import Operator
from invdiff.priors import EDM, Card, NetworkPrior
from invdiff.priors.analytic import GaussianPrior
from invdiff.priors.nets.unet import UNet

SHAPE = (3, 9, 7)


def correlated_prior() -> GaussianPrior:
    channels, height, width = SHAPE
    at = torch.cartesian_prod(torch.arange(channels), torch.arange(height), torch.arange(width)).double()
    return GaussianPrior.correlated(0.5, 0.05 * torch.exp(-torch.cdist(at, at) / 3))


def operator_for(name: str) -> Operator:
    if name == "ancestral":
        return operators.Identity(SHAPE)
    return operators.Mask((torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(0)) < 0.5).float())


def noise_for(name: str) -> float:
    return 0.0 if name == "repaint" else 0.1


def short(name: str) -> Method:
    return METHODS[name](steps=6) if name != "repaint" else RePaint(steps=6, jump=2, repeats=2)


def network_prior() -> NetworkPrior:
    torch.manual_seed(0)
    network = UNet(widths=(8, 16), blocks=(1, 1), embedding=16)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return NetworkPrior(network, EDM(), Card(name="random", channels=3))


@pytest.mark.parametrize("name", METHODS)
def test_each_image_and_sample_of_a_batch_equals_its_solo_run(name: str) -> None:
    op, sigma_y = operator_for(name), noise_for(name)
    y = op.A(torch.rand(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    common = {"method": short(name), "sigma_y": sigma_y}
    together = invdiff.restore(y, op, correlated_prior(), samples=2, batch=6, **common).samples
    alone = torch.cat(
        [
            invdiff.restore(y[b : b + 1], op, correlated_prior(), samples=2, batch=1, **common).samples
            for b in range(3)
        ],
        1,
    )
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
    assert (together[0] - together[1]).abs().max() > 1e-3 or name == "ancestral"


@pytest.mark.parametrize("name", METHODS)
def test_a_network_in_float32_does_not_feel_its_batch_beyond_rounding(name: str) -> None:
    op, sigma_y = operator_for(name), noise_for(name)
    y = op.A(torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1)))
    common = {"method": short(name), "sigma_y": sigma_y, "precision": "float32"}
    together = invdiff.restore(y, op, network_prior(), batch=3, **common).samples
    alone = torch.cat(
        [invdiff.restore(y[b : b + 1], op, network_prior(), **common).samples for b in range(3)], 1
    )
    scale = alone.abs().max().item()
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-4 * scale)


def test_seed_zero_is_a_seed_like_any_other_and_order_in_the_batch_does_not_matter() -> None:
    op = operator_for("mmps")
    y = op.A(torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))

    def run(y: Tensor, seed: int) -> Tensor:
        return invdiff.restore(
            y, op, correlated_prior(), method=short("mmps"), sigma_y=0.1, seed=seed, batch=2
        ).samples[0]

    assert torch.equal(run(y, 0), run(y, 0))
    assert (run(y, 0) - run(y, 1)).abs().max() > 1e-2
    torch.testing.assert_close(run(y.flip(0), 0).flip(0), run(y, 0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ancestral"])
def test_noiseless_inpainting_returns_the_kept_pixels_bit_for_bit(name: str) -> None:
    op = operator_for(name)
    y = op.A(torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1)))
    x = invdiff.restore(y, op, network_prior(), method=short(name)).samples[0]
    keep = op.keep.expand_as(x)  # type: ignore[attr-defined]
    assert torch.equal(x[keep], y[keep])
    assert (x[~keep] != 0).all()


def test_dps_equals_algorithm_1_of_its_paper_written_out_in_variance_preserving_coordinates() -> None:
    """On [-1, 1], x ~ N(√ᾱ x₀, (1−ᾱ) I), ζ_i = ζ/‖y − A x̂₀‖ on the gradient of the squared norm, halved: ζ·∇‖r‖."""
    count, zeta = 40, 0.7
    prior, op = (
        correlated_prior(),
        operators.Blur(operators.kernels.gaussian(1.0, 5), SHAPE, border="reflect"),
    )
    generator = torch.Generator().manual_seed(5)
    y = op.A(torch.rand(2, *SHAPE, dtype=torch.float64, generator=generator))
    beta = torch.linspace(1e-3, 0.3, count, dtype=torch.float64)
    alpha, alpha_bar = 1 - beta, (1 - beta).cumprod(0)
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt() / 2
    draws = torch.randn(count + 1, 2, *SHAPE, dtype=torch.float64, generator=generator)

    x = draws[0].clone()
    for i in reversed(range(count)):
        x = x.detach().requires_grad_()
        before = alpha_bar[i - 1] if i > 0 else torch.tensor(1.0, dtype=torch.float64)
        score_x0 = 2 * prior((x / alpha_bar[i].sqrt() + 1) / 2, float(sigmas[i])) - 1
        mean = (alpha[i].sqrt() * (1 - before) * x + before.sqrt() * beta[i] * score_x0) / (1 - alpha_bar[i])
        step = mean + ((1 - before) / (1 - alpha_bar[i]) * beta[i]).sqrt() * draws[count - i]
        distance = (y - op.A((score_x0 + 1) / 2)).flatten(1).norm(
            dim=1
        ) * 2  # on [-1, 1] the residual is twice ours
        (gradient,) = torch.autograd.grad(distance.sum(), x)
        x = (step - zeta * gradient).detach()
    literal = (x + 1) / 2

    class Start(DPS):
        def start(self, problem: Problem, sigma: float, noise: Tensor) -> Tensor:
            return (noise / alpha_bar[-1].sqrt() + 1) / 2

    supply = iter(draws)
    method = Start(steps=1000, zeta=zeta)  # ζ at 1000 steps is ζ
    problem = Problem(prior, Measurement(y, op, 0.0))
    ours = sample(method, problem, lambda: next(supply), levels=[*sigmas.flip(0).tolist(), 0.0])
    torch.testing.assert_close(ours, literal, rtol=1e-9, atol=1e-9)


def test_repaint_walks_its_published_schedule() -> None:
    levels = [*torch.linspace(10, 0.01, 250).tolist(), 0.0]
    walk = grid.resample(levels, jump=10, repeats=10)
    down = sum(b < a for a, b in pairwise(walk))
    assert (down, len(walk) - 1 - down) == (2410, 2160)
    shorter = grid.resample(levels[:100] + [0.0], jump=10, repeats=10)
    assert sum(b < a for a, b in pairwise(shorter)) == 910


def test_the_table_of_defaults_holds_options_its_methods_have() -> None:
    from invdiff.methods.defaults import DEFAULTS

    for name, tasks in DEFAULTS.items():
        for settings in tasks.values():
            METHODS[name](**settings)
    assert defaults("mmps", operators.Identity(SHAPE)) == DEFAULTS["mmps"].get("identity", {})
