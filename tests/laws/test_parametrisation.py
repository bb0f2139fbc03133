"""Law 4: a restoration is the same from an ε-, v-, x₀-, F-, velocity or score network (support/dressed.py)."""

from __future__ import annotations

from typing import Any

import dressed
import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.methods import METHODS
from invdiff.operators import Operator
from invdiff.priors import Prior
from invdiff.priors.analytic import GaussianPrior, MixturePrior
from invdiff.priors.exact import ExactConditional

SHAPE = (2, 4, 3)
CURVED = ("mmps", "daps", "smc", "mala", "sr3")
"""Methods tried on a prior whose denoiser is not affine too."""


def gaussian() -> GaussianPrior:
    at = torch.cartesian_prod(*(torch.arange(size) for size in SHAPE)).double()
    mean = torch.linspace(0.3, 0.6, len(at), dtype=torch.float64).view(SHAPE)
    return GaussianPrior.correlated(mean, 0.05 * torch.exp(-torch.cdist(at, at) / 2))


def mixture() -> MixturePrior:
    means = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return MixturePrior.make(means, 0.1)


def operator_for(name: str) -> Operator:
    if name == "ancestral":
        return operators.Identity(SHAPE)
    if name == "repaint":
        return operators.Mask(torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(0)) < 0.5, 2)
    return operators.Blur(operators.kernels.gaussian(0.7, 3), SHAPE, border="reflect")


def restored(name: str, prior: Prior, dress: str = "") -> Tensor:
    """With the denoiser as it is, or in one of DRESSES; of a conditional method the one that is shown y."""
    op, sigma_y = operator_for(name), 0.0 if name == "repaint" else 0.1
    y = op.A(torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    own: dict[str, dict[str, Any]] = {"repaint": {"jump": 2, "repeats": 2}, "daps": {"langevin": 5}}
    method = METHODS[name](**{"steps": 8, **own.get(name, {})})
    if METHODS[name].info.conditional:
        assert isinstance(prior, GaussianPrior | MixturePrior)
        exact = ExactConditional(prior)
        prior = dressed.DressedConditional(exact, dressed.DRESSES[dress]) if dress else exact  # type: ignore[assignment]
    elif dress:
        prior = dressed.DRESSES[dress](prior)
    return invdiff.restore(y, op, prior, method=method, sigma_y=sigma_y, batch=2).samples


@pytest.fixture(scope="module")
def plain() -> dict[tuple[str, str], Tensor]:
    affine = {("gaussian", name): restored(name, gaussian()) for name in METHODS}
    return affine | {("mixture", name): restored(name, mixture()) for name in CURVED}


@pytest.mark.parametrize("dress", dressed.DRESSES)
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_the_denoiser_comes_back_from_its_network(kind: str, dress: str) -> None:
    prior: Prior = gaussian() if kind == "gaussian" else mixture()
    x = torch.rand(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for sigma in (0.005, 0.3, 10.0, torch.tensor([0.01, 0.5, 3.0], dtype=torch.float64)):
        found = dressed.DRESSES[dress](prior)(x, sigma)
        torch.testing.assert_close(found, prior(x, sigma), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dress", dressed.DRESSES)
@pytest.mark.parametrize("name", METHODS)
def test_a_restoration_does_not_depend_on_what_its_network_predicts(
    name: str, dress: str, plain: dict[tuple[str, str], Tensor]
) -> None:
    found = restored(name, gaussian(), dress)
    torch.testing.assert_close(found, plain["gaussian", name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dress", dressed.DRESSES)
@pytest.mark.parametrize("name", CURVED)
def test_nor_where_the_denoiser_is_not_affine(
    name: str, dress: str, plain: dict[tuple[str, str], Tensor]
) -> None:
    found = restored(name, mixture(), dress)
    torch.testing.assert_close(found, plain["mixture", name], rtol=0, atol=1e-5)


def test_a_network_told_another_convention_gives_another_restoration() -> None:
    """The law can fail: v with its sign turned, as some have it."""
    prior = gaussian()
    given = dressed.v(prior)
    turned = dressed.Dressed(prior.card, lambda u, t: -given.network(u, t), given.precondition)
    assert (restored("mmps", turned) - restored("mmps", prior)).abs().max() > 1e-2
