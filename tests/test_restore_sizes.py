"""`invdiff.restore` and `invdiff.sample` with priors of other channels and other sizes than the picture's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.methods.streams import Streams
from invdiff.priors import Card, FunctionPrior, GaussianPrior, Prior

WHITE = GaussianPrior.white(0.5, 0.25)


def known_for(channels: int | None = None, size: int | None = None) -> Prior:
    """A prior that refuses all but its own channels and size."""

    def denoise(x: Tensor, sigma: Any) -> Tensor:
        assert channels in (None, x.shape[1])
        assert size is None or tuple(x.shape[2:]) == (size, size)
        return WHITE(x, sigma)

    return FunctionPrior(denoise, Card(name="known", channels=channels, size=size))


def mask(*shape: int) -> operators.Mask:
    keep = torch.rand(shape[1:], generator=torch.Generator().manual_seed(0)) < 0.6
    return operators.Mask(keep.float(), shape[0])


def picture(*shape: int) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["auto", "pigdm", "diffpir", "dps"])
@pytest.mark.parametrize("size", [(40, 21), (9, 30), (5, 5)])
def test_a_prior_of_one_size_restores_any_as_the_prior_of_all_does(
    method: str, size: tuple[int, int]
) -> None:
    op, y = mask(3, *size), picture(3, *size)
    found, expected = (
        invdiff.restore(op.A(y), op, prior, method=method, steps=3) for prior in (known_for(size=16), WHITE)
    )
    torch.testing.assert_close(found.samples, expected.samples, rtol=1e-4, atol=1e-5)
    assert found.config["fit"] == ["windows of 16×16, overlapping by 4, blended, shifted from step to step"]
    assert expected.config["fit"] == []


def test_a_colour_prior_restores_grey_pictures_and_a_grey_one_colour() -> None:
    for channels, knows in ((1, 3), (3, 1)):
        op, y = mask(channels, 8, 6), picture(channels, 8, 6)
        result = invdiff.restore(op.A(y), op, known_for(knows), steps=3)
        assert result.samples.shape == (1, 2, channels, 8, 6)
        assert torch.equal(result.samples[0] * op.keep, op.A(y))
        assert len(result.config["fit"]) == 1


def test_each_picture_of_a_batch_is_as_if_it_were_alone() -> None:
    op, y = mask(1, 40, 21), picture(1, 40, 21)
    prior = known_for(3, 16)
    together = invdiff.restore(op.A(y), op, prior, steps=3, batch=2).samples
    for row in range(2):
        alone = invdiff.restore(op.A(y[row : row + 1]), op, prior, steps=3).samples
        torch.testing.assert_close(together[:, row : row + 1], alone, rtol=1e-5, atol=1e-6)


def test_samples_of_a_prior_of_one_size_may_have_any() -> None:
    result = invdiff.sample(known_for(1, 16), (1, 40, 20), steps=3)
    torch.testing.assert_close(result.samples, invdiff.sample(WHITE, (1, 40, 20), steps=3).samples)
    assert result.config["fit"][0].startswith("windows of 16×16")


def test_draws_are_those_of_a_generator_of_each_sample() -> None:
    for shape in ((3, 8, 6), (1,), (17,), (3, 64, 64)):
        keys = [("a", 0), ("b", 1)]
        one, other = (Streams.make(0, keys, shape, torch.zeros(1)) for _ in range(2))
        for _ in range(2):
            expected = torch.stack([torch.randn(shape, generator=g) for g in other.generators])
            assert torch.equal(one(), expected)
