"""What is made of several operators: which rung it stands on, what it measures, and what is refused."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from examples import random
from torch import Tensor

from invdiff import operators
from invdiff.operators import (
    CircularBlur,
    Diagonal,
    Identity,
    LinearOperator,
    Mask,
    Operator,
    ProximalOperator,
    Reweighted,
    SpectralOperator,
)

SHAPE = (3, 9, 8)


def blur(border: str = "circular") -> operators.Blur:
    return operators.Blur(operators.kernels.motion(4, 30), SHAPE, border)  # type: ignore[arg-type]


def gaussian(border: str = "circular") -> operators.Blur:
    return operators.Blur(operators.kernels.gaussian(0.5), SHAPE, border)  # type: ignore[arg-type]


def mask(seed: int = 0) -> Mask:
    return Mask(random(9, 8, seed=seed) > 0)


class Square(Operator):
    """Not linear, and without a prox."""

    in_shape = out_shape = SHAPE

    def A(self, x: Tensor) -> Tensor:
        return self._image(x).square()


class Root(ProximalOperator):
    """A prox that says what it was asked."""

    in_shape = out_shape = SHAPE

    def A(self, x: Tensor) -> Tensor:
        return self._image(x).abs().sqrt()

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        return z + 10 * y + 100 * torch.as_tensor(weight).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("outer", "inner", "kind"),
    [
        (blur(), gaussian(), CircularBlur),
        (mask(), mask(1), Mask),
        (mask(), Diagonal(1 + random(*SHAPE).abs()), Diagonal),
        (operators.Downsample(2, SHAPE), gaussian("reflect"), SpectralOperator),
        (operators.Downsample(2, SHAPE), blur("reflect"), LinearOperator),
        (2 * mask(), blur(), LinearOperator),
        (3 * blur(), -1 * gaussian(), SpectralOperator),
        (Identity(SHAPE), mask(), Mask),
        (mask(), Identity(SHAPE), Mask),
        (Square(), blur(), Operator),
        (blur(), Square(), Operator),
        (2 * Square(), blur(), Operator),
    ],
    ids=repr,
)
def test_a_composition_measures_what_its_parts_do_in_turn_and_keeps_its_rung(
    outer: Operator, inner: Operator, kind: type[Operator]
) -> None:
    both, x = outer @ inner, random(2, *SHAPE)
    assert isinstance(both, kind)
    assert both.in_shape == inner.in_shape
    assert both.out_shape == outer.out_shape
    assert torch.allclose(both.A(x), outer.A(inner.A(x)), rtol=1e-12, atol=1e-12)
    if kind is Operator:
        assert not isinstance(both, LinearOperator)


def test_two_masks_that_keep_nothing_in_common_still_compose() -> None:
    keep = torch.zeros(9, 8)
    keep[0] = 1
    both = Mask(keep) @ Mask(1 - keep)
    assert not both.A(random(1, *SHAPE)).any()


def test_a_composition_of_operators_of_different_shapes_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^Mask.* after Downsample.*: expected .*\(3, 9, 8\).*got \(3, 5, 4\)"
    ):
        mask() @ operators.Downsample(2, SHAPE)


@pytest.mark.parametrize("factor", [0, nan, inf])
def test_a_factor_that_leaves_nothing_or_is_no_number_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"^factor: expected a number other than 0, got"):
        factor * mask()


def test_factors_gather_and_one_is_no_factor() -> None:
    op = mask()
    assert 1 * op is op
    twice = 2 * (3 * op)
    assert isinstance(twice, operators.SpectralOperator)
    assert twice.describe() == f"6·{op.describe()}"
    assert isinstance(0.5 * (2 * op), Mask)


def test_the_prox_of_a_multiple_is_asked_of_the_part_in_its_own_units() -> None:
    z, y = random(2, *SHAPE), random(2, *SHAPE, seed=1)
    got = (2 * Root()).prox(z, y, 3.0)  # type: ignore[attr-defined]
    assert torch.allclose(got, z + 10 * y / 2 + 100 * 3.0 * 4)


def test_a_stack_holds_its_parts_measurements_one_after_the_other() -> None:
    parts = [mask(), operators.Downsample(2, SHAPE), blur("zero")]
    stack, x = operators.stacked(parts), random(2, *SHAPE)
    y = stack.A(x)
    assert isinstance(stack, LinearOperator)
    assert stack.out_shape == (3 * 72 + 3 * 20 + 3 * 72,)
    for part, piece in zip(parts, stack.split(y), strict=True):
        assert torch.equal(piece, part.A(x))
    assert torch.equal(stack.join(stack.split(y)), y)


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([blur(), gaussian(), 2 * blur()], SpectralOperator),
        ([mask(), Identity(SHAPE), Diagonal(random(*SHAPE))], SpectralOperator),
        ([mask(), blur()], LinearOperator),
        ([mask(), Square()], Operator),
    ],
)
def test_a_stack_is_spectral_where_its_parts_share_their_singular_vectors(
    parts: list[Operator], kind: type[Operator]
) -> None:
    stack = operators.stacked(parts)
    assert isinstance(stack, kind)
    assert isinstance(stack, SpectralOperator) == (kind is SpectralOperator)
    assert isinstance(stack, LinearOperator) == (kind is not Operator)


def test_a_stack_whose_parts_disagree_or_that_is_empty_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^stack: part 2, Identity.*expected images of shape \(3, 9, 8\).*\(3, 9, 9\)"
    ):
        operators.stacked([mask(), Identity((3, 9, 9))])
    with pytest.raises(ValueError, match=r"^stack: expected at least one operator"):
        operators.stacked([])


def test_each_image_meets_its_own_operator() -> None:
    parts = [blur(), gaussian("reflect"), mask()]
    own, x, y = operators.per_image(parts), random(3, *SHAPE), random(3, *SHAPE, seed=1)
    assert isinstance(own, LinearOperator)
    weights = torch.tensor([0.5, 2.0, inf])
    for i, part in enumerate(parts):
        one = slice(i, i + 1)
        assert torch.equal(own.A(x)[one], part.A(x[one]))
        assert torch.equal(own.A_adjoint(y)[one], part.A_adjoint(y[one]))
        assert torch.equal(own.A_dagger(y)[one], part.A_dagger(y[one]))
        assert torch.equal(own.prox(x, y, weights)[one], part.prox(x[one], y[one], float(weights[i])))
        assert torch.equal(own.precondition(y, 0.3)[one], part.precondition(y[one], 0.3))
    assert own.pick([1, 1]) is parts[1]
    assert torch.equal(own.pick([2, 0]).A(x[:2])[:1], parts[2].A(x[:1]))


def test_an_operator_for_each_image_refuses_another_batch_and_parts_of_other_shapes() -> None:
    own = operators.per_image([blur(), mask()])
    with pytest.raises(ValueError, match=r"expected a batch of 2, got 3; pick\(images\)"):
        own.A(random(3, *SHAPE))
    with pytest.raises(ValueError, match=r"^per_image: operator 2, .*3x9x8 to 3x9x8.*got 3x9x8 to 3x5x4"):
        operators.per_image([mask(), operators.Downsample(2, SHAPE)])
    with pytest.raises(ValueError, match=r"^per_image: expected at least one"):
        operators.per_image([])


def test_what_holds_operators_moves_them_along() -> None:
    for op in (
        operators.stacked([mask(), blur("zero")]),
        2 * blur(),
        blur("zero") @ mask(),
        operators.per_image([blur(), gaussian()]),
    ):
        single = op.to(dtype=torch.float32)
        held = [
            *getattr(single, "parts", ()),
            *(vars(single)[n] for n in ("part", "outer", "inner") if n in vars(single)),
        ]
        blurs = [part for part in held if isinstance(part, operators.Blur)]
        assert blurs
        assert all(part.kernel.dtype == torch.float32 for part in blurs)


def test_coefficients_can_be_weighted_one_by_one() -> None:
    part = blur()
    weights = random(3 * 72, seed=2).abs()
    op, x = Reweighted(part, weights), random(2, *SHAPE)
    wanted = part.U(weights * part.singular_values * part.V_adjoint(x))
    assert torch.allclose(op.A(x), wanted, rtol=1e-12, atol=1e-12)
    assert torch.allclose(op.measured(part.A(x)), wanted, rtol=1e-10, atol=1e-10)
    assert isinstance(op, SpectralOperator)


def test_what_goes_through_a_surrogate_says_so_wherever_it_stands() -> None:
    rounded, plain = operators.Quantize(SHAPE, 2), blur()
    for op in (
        rounded @ plain,
        plain @ rounded,
        2 * rounded,
        operators.stacked([plain, rounded]),
        operators.per_image([plain, rounded]),
    ):
        assert op.surrogate
    for op in (
        plain @ mask(),
        2 * plain,
        operators.stacked([plain, mask()]),
        operators.per_image([plain, mask()]),
    ):
        assert not op.surrogate


def test_picking_from_what_is_the_same_for_all_images_changes_nothing() -> None:
    for op in (blur("zero") @ mask(), 2 * blur(), operators.stacked([mask(), blur("zero")])):
        assert op.pick([0, 0, 1]) is op


@pytest.mark.parametrize("weights", [torch.tensor([-1.0, 1.0]), torch.ones(3), torch.tensor([nan, 1.0])])
def test_weights_that_are_no_weights_are_refused(weights: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^weights: expected 2 finite numbers from 0 up"):
        Reweighted(Identity((1, 1, 2)), weights)


def test_an_operator_for_each_image_says_what_is_wrong_with_a_weight() -> None:
    own = operators.per_image([blur(), mask()])
    with pytest.raises(ValueError, match=r"^weight: expected"):
        own.prox(random(2, *SHAPE), random(2, *SHAPE), torch.ones(3))  # type: ignore[attr-defined]
