"""Priors in windows: exact where they are cropped, without seams where they are blended, and never too many at once."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import skimage.data
import torch
from torch import Tensor

from invdiff.errors import InvdiffError
from invdiff.likelihood import Measurement
from invdiff.methods.base import Linearised, Problem
from invdiff.operators import Identity
from invdiff.priors import (
    EDM,
    Card,
    Cropped,
    FunctionPrior,
    GaussianPrior,
    NetworkPrior,
    Prior,
    Tiled,
    load_prior,
)
from invdiff.priors.nets.unet import UNet
from invdiff.priors.tiled import reach, shifts

Make = Callable[..., Tensor]
SIZES = [(96, 130), (130, 53), (7, 200)]


@pytest.fixture(scope="module")
def experiment() -> ModuleType:
    """experiments/quality/seams.py."""
    file = Path(__file__).parents[2] / "experiments" / "quality" / "seams.py"
    spec = importlib.util.spec_from_file_location("quality_seams", file)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def convolutional(make_network: Callable[..., UNet]) -> NetworkPrior:
    return NetworkPrior(make_network(channels=2), EDM(), Card(name="tiny", channels=2))


class Watched:
    """A prior that remembers the shapes it was shown, and nothing else is changed."""

    def __init__(self, prior: Prior, card: Card | None = None) -> None:
        self.prior, self.card = prior, card or prior.card
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return self.prior(x, sigma)


def fixed(size: int = 16, channels: int = 1) -> Prior:
    """D of pictures of one size alone: its pixels are pulled to their own mean, so that windows disagree."""
    card = Card(name="fixed", channels=channels, size=size)

    def denoise(x: Tensor, sigma: Any) -> Tensor:
        assert x.shape[1:] == (channels, size, size)
        return 0.5 * x + 0.5 * x.mean(dim=(1, 2, 3), keepdim=True)

    return FunctionPrior(denoise, card)


def test_cropped_windows_reach_what_the_network_reaches(convolutional: NetworkPrior) -> None:
    assert convolutional.halo is not None
    assert convolutional.halo < 50  # so that the windows below are cropped on all sides


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
def test_cropped_windows_give_the_whole_pictures_d(
    convolutional: NetworkPrior, pictures: Make, size: tuple[int, int], batch: int
) -> None:
    x, sigma = pictures(2, 2, *size), torch.tensor([0.1, 3.0])
    cropped = Cropped(convolutional, 24, convolutional.halo or 0, batch=batch)
    torch.testing.assert_close(cropped(x, sigma), convolutional(x, sigma), rtol=1e-5, atol=1e-6)


def felt(weight: float, rows: int = 0, columns: int = 0) -> Prior:
    """D = x, and so much of the pixel that is so far down and to the right."""
    card = Card(name="far", channels=1, sigma_max=3.0, multiple=4)
    return FunctionPrior(lambda x, sigma: x + weight * torch.roll(x, (rows, columns), (-2, -1)), card)


@pytest.mark.parametrize("where", [{"columns": 21}, {"columns": -21}, {"rows": 21}, {"rows": -21}])
def test_what_is_worth_seeing_is_what_changes_d(where: dict[str, int]) -> None:
    """Another picture under other noise there changes D by weight·√(2(σ² + .3²)): at σ 3 by 4.26 of the weight."""
    assert reach(felt(2.4e-7, **where), 40) == 24
    assert reach(felt(2.3e-7, **where), 40) == 0
    assert reach(felt(0.1, **where), 20) == 20
    assert reach(felt(0.024, **where), 40, influence=0.1) == 24
    assert reach(felt(0.023, **where), 40, influence=0.1) == 0


def test_what_has_no_noise_changes_d_by_its_own_spread() -> None:
    """√2·√(.3² + .3²) = .6 of the weight and not 4.26; half of the square in the mean over both channels."""

    class Seeing:
        card = Card(name="seeing", channels=2, sigma_max=3.0, multiple=4)

        def __init__(self, weight: float, noiseless: int) -> None:
            self.weight, self.noiseless = weight, noiseless

        def __call__(self, x: Tensor, sigma: Any) -> Tensor:
            d, shown = x[:, :1], x[:, 1:]
            return torch.cat([d + self.weight * torch.roll(shown, 21, -1), shown], dim=1)

    assert [reach(Seeing(weight, 0), 40) for weight in (3e-7, 4e-7, 3e-6)] == [0, 24, 24]
    assert [reach(Seeing(weight, 1), 40) for weight in (3e-7, 2e-6, 3e-6)] == [0, 0, 24]


def test_the_built_in_prior_in_such_windows_is_as_good_as_whole() -> None:
    """And in narrower ones it is not: what the docstrings say, on a photograph."""
    prior = load_prior("natural", precision="float32")
    assert prior.halo is not None
    enough = reach(prior, prior.halo)
    assert enough <= prior.halo // 2
    astronaut = torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1)[None, :, 100:196, :320] / 255
    draws = torch.Generator().manual_seed(0)
    for sigma in (0.1, 1.0, 10.0):
        x = astronaut + sigma * torch.randn(astronaut.shape, generator=draws)
        whole = prior(x, sigma)
        assert float((Cropped(prior, 96, enough)(x, sigma) - whole).abs().max()) < 3e-5
        assert float((Cropped(prior, 96, enough // 3)(x, sigma) - whole).abs().max()) > 1e-4


def test_half_the_halo_is_not_enough(convolutional: NetworkPrior, pictures: Make) -> None:
    x = pictures(1, 2, 96, 96)
    cropped = Cropped(convolutional, 24, (convolutional.halo or 0) // 4)
    assert float((cropped(x, 0.3) - convolutional(x, 0.3)).abs().max()) > 1e-4


@pytest.mark.parametrize("ahead", [None, 56])
def test_the_derivative_of_cropped_windows_is_the_whole_pictures_however_often_it_is_asked_for(
    convolutional: NetworkPrior, pictures: Make, ahead: int | None
) -> None:
    x, v = pictures(2, 2, 90, 61), pictures(2, 2, 90, 61) - 0.5
    measurement = Measurement(x, Identity((2, 90, 61)), 0.1)
    cropped = Cropped(convolutional, 24, convolutional.halo or 0, ahead)
    one, other = (Linearised(Problem(prior, measurement), x, 0.5) for prior in (cropped, convolutional))
    for _ in range(3):
        torch.testing.assert_close(one.pull(v), other.pull(v), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.pull(x, last=True), other.pull(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("size", [(40, 33), (16, 50), (9, 9), (11, 40)])
def test_the_derivative_of_blended_windows_is_that_of_the_sum_they_are(
    pictures: Make, size: tuple[int, int], shift: bool
) -> None:
    tiled = Tiled(fixed(), 16, 6, batch=4, shift=shift)
    x, v = (pictures(2, 1, *size, dtype=torch.float64) for _ in range(2))
    leaf = x.clone().requires_grad_()
    sigma = torch.tensor([0.2, 1.0])
    (gradient,) = torch.autograd.grad((tiled(leaf, sigma) * v).sum(), leaf)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    change = tiled(x + direction, sigma) - tiled(x, sigma)  # D is affine: a finite difference is exact
    assert float((gradient * direction).sum()) == pytest.approx(float((change * v).sum()), rel=1e-10)


def test_weights_of_a_blend_sum_to_one_for_every_size_and_shift() -> None:
    for n in (16, 17, 30, 31, 32, 47, 100):
        for shift in range(10):
            total = torch.zeros(n, dtype=torch.float64)
            for span in Tiled(fixed(), 16, 6)._spans(n, shift):
                assert span.weight is not None
                assert (span.start >= 0, span.stop <= n, span.stop - span.start) == (True, True, 16)
                total[span.start : span.stop] += span.weight
            torch.testing.assert_close(total, torch.ones_like(total))


def test_a_prior_that_works_pixel_by_pixel_is_the_same_in_windows(pictures: Make) -> None:
    prior = GaussianPrior.white(0.5, 0.2)
    x, sigma = pictures(2, 3, 41, 70, dtype=torch.float64), torch.tensor([0.1, 2.0], dtype=torch.float64)
    torch.testing.assert_close(
        Tiled(prior, 16, 8, batch=5)(x, sigma), prior(x, sigma), rtol=1e-12, atol=1e-12
    )


def test_windows_at_once_are_bounded_whatever_the_batch_and_the_size(
    convolutional: NetworkPrior, pictures: Make
) -> None:
    x, halo = pictures(3, 2, 120, 100).requires_grad_(), convolutional.halo or 0
    for batch in (1, 4):
        blended, cropped = Watched(convolutional), Watched(convolutional)
        Tiled(blended, 32, 8, batch)(x, 0.3).sum().backward()
        Cropped(cropped, 24, halo, batch=batch)(x, 0.3).sum().backward()
        for watched, largest in ((blended, 32), (cropped, 24 + 2 * halo + 2 * 4)):
            assert max(shape[0] for shape in watched.shapes) <= batch
            assert max(max(shape[2:]) for shape in watched.shapes) <= largest
        assert max(shape[0] for shape in blended.shapes) == batch


def test_each_image_of_a_batch_is_as_if_it_were_alone(pictures: Make) -> None:
    tiled = Tiled(fixed(), 16, 6, batch=5)
    x, sigma = pictures(3, 1, 37, 50, dtype=torch.float64), torch.tensor([0.1, 1.0, 0.1], dtype=torch.float64)
    together = tiled(x, sigma)
    for row in range(3):
        alone = tiled(x[row : row + 1], float(sigma[row]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)


def test_the_same_question_has_the_same_answer_in_every_precision(pictures: Make) -> None:
    tiled = Tiled(fixed(), 16, 6)
    x = pictures(1, 1, 37, 50)
    assert torch.equal(tiled(x, 0.3), tiled(x, 0.3))
    torch.testing.assert_close(tiled(x, 0.3).double(), tiled(x.double(), 0.3), rtol=1e-5, atol=1e-6)


def test_windows_are_elsewhere_at_every_step_and_by_sigma_alone() -> None:
    places = [shifts(sigma, 48) for sigma in torch.linspace(0.01, 10, 50).tolist()]
    assert len(set(places)) > 40
    assert shifts(0.1, 48) == shifts(float(torch.tensor(0.1)), 48)
    assert all(0 <= a < 48 and 0 <= b < 48 for a, b in places)
    assert all(a != b for a, b in pairwise(places))


def test_the_windows_of_a_tiled_prior_move_with_sigma_unless_they_are_told_to_stay() -> None:
    moving, still = Tiled(fixed(), 16, 6), Tiled(fixed(), 16, 6, shift=False)

    def starts(tiled: Tiled, sigma: float) -> list[int]:
        return [span.start for span in tiled.spans((64, 64), sigma)[0]]

    assert len({tuple(starts(moving, sigma)) for sigma in (0.1, 0.2, 0.3, 0.4, 0.5)}) > 2
    assert starts(still, 0.1) == starts(still, 0.2) == [0, 10, 20, 30, 40, 48]


def test_a_picture_smaller_than_the_one_size_is_padded_by_reflection(pictures: Make) -> None:
    x = pictures(1, 1, 9, 5)
    padded = torch.nn.functional.pad(
        torch.nn.functional.pad(x, (0, 4, 0, 7), mode="reflect"), (0, 4, 0, 0), mode="reflect"
    )
    shown: list[Tensor] = []

    def denoise(seen: Tensor, sigma: Any) -> Tensor:
        shown.append(seen)
        return seen

    found = Tiled(FunctionPrior(denoise, Card(name="one size", size=16)), 16, 4)(x, 0.1)
    assert torch.equal(found, x)
    assert shown[0].shape == (1, 1, 16, 16)
    assert torch.equal(shown[0][..., :9], padded[..., :9])


def test_a_picture_that_one_window_holds_is_one_evaluation_with_all_its_derivatives(pictures: Make) -> None:
    watched = Watched(fixed())
    x = pictures(1, 1, 16, 16).requires_grad_()
    (first,) = torch.autograd.grad(Tiled(watched, 16, 4)(x, 0.1).square().sum(), x, create_graph=True)
    torch.autograd.grad(first.sum(), x)
    assert watched.shapes == [(1, 1, 16, 16)]


def test_what_cannot_be_is_said(pictures: Make) -> None:
    x = pictures(1, 1, 40, 40).requires_grad_()
    with pytest.raises(InvdiffError, match="second derivative"):
        torch.autograd.grad(Tiled(fixed(), 16, 4)(x, 0.1).square().sum(), x, create_graph=True)
    hard = FunctionPrior(lambda x, sigma: x.detach(), Card(name="hard"))
    with pytest.raises(InvdiffError, match="hard cannot be differentiated"):
        Tiled(hard, 16, 4)(x, 0.1).sum().backward()
    for window, overlap, said in (
        (8, 2, "expected 16, got 8"),
        (16, 9, "half the window, 8"),
        (16, -1, "overlap"),
    ):
        with pytest.raises(ValueError, match=said):
            Tiled(fixed(), window, overlap)
    with pytest.raises(ValueError, match="batch"):
        Tiled(fixed(), 16, 4, batch=0)
    with pytest.raises(ValueError, match="core"):
        Cropped(fixed(), 0, 4)


@pytest.mark.parametrize(
    ("overlap", "shift", "seamless"),
    [(8, True, True), (0, False, False)],
    ids=["blended and shifted", "neither"],
)
def test_samples_have_no_seams_unless_blending_is_removed(
    experiment: ModuleType, overlap: int, shift: bool, seamless: bool
) -> None:
    """The picture's steps across the borders of windows against steps inside: a ratio of 1 without a seam."""
    tiled = Tiled(experiment.smooth(32), 32, overlap, shift=shift)
    found = experiment.seams(tiled, 96, steps=15, seeds=range(3))
    assert found.ratio < 1.05 if seamless else found.ratio > 1.5, found


def test_a_seam_is_seen_where_it_is(experiment: ModuleType) -> None:
    picture = torch.zeros(1, 1, 8, 8)
    picture[..., 4:] = 1
    assert experiment.steps_at(picture, [], [4]).inside == 0
    assert experiment.steps_at(picture, [], [4]).across == 1
    assert experiment.steps_at(picture, [4], [3]).across == 0
