"""Any callable D(x, sigma) is a prior."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from invdiff import load_prior
from invdiff.errors import RequestError
from invdiff.priors import Card, FunctionPrior, GaussianPrior, Prior


def halve(x: Tensor, sigma: float | Tensor) -> Tensor:
    return x / 2


class LikeDeepinv(nn.Module):
    """The signature of deepinv's denoisers."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, sigma: float | Tensor, **options: object) -> Tensor:
        return self.gain * x / (1 + torch.as_tensor(sigma).reshape(-1, 1, 1, 1))


def test_a_plain_function_is_a_prior_named_after_it() -> None:
    prior = load_prior(halve)
    assert isinstance(prior, Prior)
    assert prior.card == Card(name="halve", format="a function D(x, sigma)")
    assert torch.equal(prior(torch.ones(1, 3, 2, 2), 0.1), torch.full((1, 3, 2, 2), 0.5))


def test_a_deepinv_style_denoiser_is_frozen_and_takes_a_number_or_one_sigma_for_each_image() -> None:
    denoiser = LikeDeepinv().train()
    prior = load_prior(denoiser)
    assert prior.card.name == "LikeDeepinv"
    assert not denoiser.training
    x = torch.ones(2, 1, 3, 3, requires_grad=True)
    assert torch.equal(prior(x, torch.tensor([1.0, 1.0])), prior(x, 1.0))
    prior(x, 1.0).sum().backward()
    assert x.grad is not None
    assert denoiser.gain.grad is None


def test_a_denoiser_of_deepinv_itself_is_a_prior() -> None:
    deepinv = pytest.importorskip("deepinv.models")
    prior = load_prior(deepinv.MedianFilter(kernel_size=3))
    x = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert prior(x, 0.1).shape == x.shape
    assert prior(x, 0.1).std() < x.std()


def test_a_prior_is_returned_as_it_is() -> None:
    prior = GaussianPrior.white()
    assert load_prior(prior) is prior


@pytest.mark.parametrize(
    ("wrong", "came"), [(lambda x, s: x[:, :1], r"\(1, 1, 4, 4\)"), (lambda x, s: 3, "int")]
)
def test_an_answer_of_another_shape_is_told_with_both_shapes(wrong: object, came: str) -> None:
    prior = FunctionPrior(wrong, Card(name="wrong"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"wrong: expected .* \(1, 3, 4, 4\), got {came}"):
        prior(torch.zeros(1, 3, 4, 4), 0.1)


def test_what_cannot_be_called_is_no_prior() -> None:
    with pytest.raises(RequestError, match=r"a file or a callable.*, got int"):
        load_prior(3)  # type: ignore[arg-type]
