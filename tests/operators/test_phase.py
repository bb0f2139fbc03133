"""Fourier magnitudes: against numpy; what they cannot tell, undone; the best of several by its measurement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples import random
from torch import Tensor

from invdiff import operators
from invdiff.operators import PhaseRetrieval
from invdiff.operators.phase import align, best_of

SHAPE = (2, 9, 8)


def framed(border: int, batch: int = 3, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Positive pictures with a black border."""
    x = torch.zeros(batch, *shape, dtype=torch.float64)
    inner = (slice(border, shape[1] - border), slice(border, shape[2] - border))
    x[..., inner[0], inner[1]] = random(*x[..., inner[0], inner[1]].shape).abs()
    return x


# ------------------------------------------------------------------------------------------------- measure


@pytest.mark.parametrize("oversampling, padded", [(1.0, (9, 8)), (1.5, (14, 12)), (2.0, (18, 16))])
def test_it_measures_numpys_magnitudes_of_each_padded_channel(
    oversampling: float, padded: tuple[int, int]
) -> None:
    x, op = random(3, *SHAPE), PhaseRetrieval(SHAPE, oversampling)
    assert op.out_shape == (2, *padded)
    wanted = np.abs(np.fft.fft2(x.numpy(), s=padded, axes=(-2, -1), norm="ortho"))
    assert np.allclose(op.A(x).numpy(), wanted, rtol=1e-12, atol=1e-12)
    assert torch.allclose(op.A(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-12)


def test_padding_is_not_rounded_up_by_the_last_bit_of_a_product() -> None:
    assert PhaseRetrieval((1, 10, 100), 1.1).out_shape == (1, 11, 110)


def test_it_is_the_measurement_of_dps_whose_oversampling_of_two_pads_by_a_quarter_on_each_side() -> None:
    x = random(1, 3, 16, 16)
    theirs = torch.fft.fft2(torch.nn.functional.pad(x, (4, 4, 4, 4)), norm="ortho").abs()
    assert torch.allclose(PhaseRetrieval((3, 16, 16), 1.5).A(x), theirs, atol=1e-12)


@pytest.mark.parametrize("oversampling", [1.0, 2.0])
def test_the_likelihood_has_the_gradient_of_finite_differences(oversampling: float) -> None:
    op, x, h = PhaseRetrieval((2, 4, 3), oversampling), random(1, 2, 4, 3), 1e-5
    y = op.A(random(1, 2, 4, 3, seed=1))

    def misfit(v: Tensor) -> Tensor:
        return (y - op.A(v)).square().flatten(1).sum(1) / 2

    (slope,) = torch.autograd.grad(misfit(x.requires_grad_()).sum(), x)
    steps = h * torch.eye(24, dtype=torch.float64).view(24, 2, 4, 3)
    assert torch.allclose(slope.flatten(), (misfit(x + steps) - misfit(x - steps)) / (2 * h), atol=1e-8)


def test_the_derivative_at_a_magnitude_of_zero_is_zero_and_no_nan() -> None:
    op, black = PhaseRetrieval((1, 4, 4)), torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(op.A(black).sum(), black)
    assert torch.equal(slope, torch.zeros_like(slope))


def test_a_turn_a_sign_and_a_translation_of_what_has_a_border_measure_the_same() -> None:
    x, op = framed(2), PhaseRetrieval(SHAPE)
    for other in (x.flip(-2, -1), -x, x.roll((2, -1), (-2, -1))):
        assert torch.allclose(op.A(other), op.A(x), atol=1e-12)
    assert not torch.allclose(op.A(x.flip(-1)), op.A(x), atol=1e-3)  # a mirror image is another picture


# --------------------------------------------------------------------------------------------------- align


def test_every_ambiguity_of_every_channel_is_undone() -> None:
    truth = framed(2)
    x = truth.clone()
    x[0, 0], x[0, 1] = -truth[0, 0].flip(-2, -1), truth[0, 1].roll((-2, 1), (-2, -1))
    x[1, 0], x[1, 1] = truth[1, 0].roll(2, -2).flip(-2, -1), -truth[1, 1]
    for operator in (None, PhaseRetrieval(SHAPE), PhaseRetrieval(SHAPE, 1.0), PhaseRetrieval(SHAPE, 1.4)):
        assert torch.allclose(align(x, truth, operator), truth, atol=1e-14)


def test_what_is_aligned_measures_as_before_and_is_no_further_from_the_reference() -> None:
    for border in (0, 1, 3):
        x, reference = framed(border), random(3, *SHAPE, seed=7)
        for oversampling in (1.0, 1.5, 2.0):
            op = PhaseRetrieval(SHAPE, oversampling)
            aligned = align(x, reference, op)
            assert torch.allclose(op.A(aligned), op.A(x), atol=1e-12)
            before, after = ((v - reference).norm(dim=(-2, -1)) for v in (x, aligned))
            assert (after <= before + 1e-12).all()


def test_nothing_is_pushed_out_of_a_picture_without_border_to_look_more_alike() -> None:
    truth = framed(0)
    x = truth.roll(1, -1)  # circular: another picture once there is padding
    assert any(torch.equal(align(x, truth)[0, 0], v) for v in (x[0, 0], x[0, 0].flip(-2, -1)))
    assert torch.allclose(align(x, truth, PhaseRetrieval(SHAPE, 1.0)), truth, atol=1e-14)


def test_the_reference_itself_and_black_pictures_stay_as_they_are() -> None:
    x = random(2, *SHAPE).float()
    assert torch.equal(align(x, x), x)
    assert torch.equal(align(0 * x, x), 0 * x)
    assert align(x.bfloat16(), x.bfloat16()).dtype == torch.bfloat16


def test_each_image_is_aligned_on_its_own_and_nothing_given_is_changed() -> None:
    x, reference = framed(2), framed(2).flip(0).roll(1, -1)
    before = x.clone(), reference.clone()
    together = align(x, reference)
    for i in range(3):
        assert torch.equal(align(x[i : i + 1], reference[i : i + 1]), together[i : i + 1])
    assert torch.equal(x, before[0])
    assert torch.equal(reference, before[1])


# ----------------------------------------------------------------------------------------------- best of n


def test_the_best_of_several_is_found_for_each_image_by_its_measurement() -> None:
    op, truth = PhaseRetrieval(SHAPE), random(3, *SHAPE)
    samples = torch.stack([truth + 0.1 * random(3, *SHAPE, seed=i) for i in range(1, 5)])
    samples[2, 0], samples[0, 1], samples[3, 2] = truth[0], -truth[1], truth[2].flip(-2, -1)
    assert best_of(samples, op.A(truth), op).tolist() == [2, 0, 3]


def test_a_sample_that_is_not_finite_is_never_the_best() -> None:
    op, truth = PhaseRetrieval(SHAPE), random(1, *SHAPE)
    samples = torch.stack([torch.full_like(truth, torch.nan), truth + 1])
    assert best_of(samples, op.A(truth), op).tolist() == [1]


def test_the_best_of_several_serves_any_operator() -> None:
    op, x = operators.Downsample(2, (1, 4, 4), "box"), random(1, 1, 4, 4)
    assert best_of(torch.stack([x + 1, x, x - 1]), op.A(x), op).tolist() == [1]


# -------------------------------------------------------------------------------------------------- errors


def test_bad_options_and_shapes_are_refused_in_one_line() -> None:
    for bad in (0.9, float("inf"), float("nan")):
        with pytest.raises(
            ValueError, match=rf"^oversampling: expected a number from 1 up, got {bad}; 2 is usual$"
        ):
            PhaseRetrieval(SHAPE, bad)
    x, op = random(2, *SHAPE), PhaseRetrieval(SHAPE)
    with pytest.raises(
        ValueError, match=r"^align: expected [^\n]*alike, got \(2, 2, 9, 8\) and \(1, 2, 9, 8\)$"
    ):
        align(x, x[:1])
    with pytest.raises(ValueError, match=r"expected an image \(B, 2, 8, 8\), got \(2, 2, 9, 8\)"):
        align(x, x, PhaseRetrieval((2, 8, 8)))
    for samples in (x, x[None, :1], x[None][:0]):
        with pytest.raises(ValueError, match=r"^best_of: expected samples \(S, B, C, H, W\)[^\n]*got \("):
            best_of(samples, op.A(x), op)


def test_it_describes_itself_in_one_line() -> None:
    assert repr(PhaseRetrieval(SHAPE, 1.5)) == "PhaseRetrieval(oversampling 1.5, 2x9x8)"


def test_best_of_refuses_samples_and_measurements_of_other_sizes() -> None:
    op = PhaseRetrieval((1, 6, 5))
    with pytest.raises(
        ValueError, match=r"^best_of: expected samples of 1x6x5 and y of 1x12x10, got 1x6x6 and"
    ):
        best_of(torch.rand(2, 1, 1, 6, 6), torch.rand(1, 1, 12, 10), op)
    with pytest.raises(ValueError, match=r"^best_of: .* and 1x12x11$"):
        best_of(torch.rand(2, 1, 1, 6, 5), torch.rand(1, 1, 12, 11), op)
