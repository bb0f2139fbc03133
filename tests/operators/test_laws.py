"""Law 1: what every operator promises, held against its own matrix in float64, for all of OPERATORS.

Each test draws operators at random (tests/support/examples*.py): shapes, factors, kernels, borders. A name in OPERATORS
without a way to draw it fails the first test, so that nothing escapes.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from math import inf, nan, prod
from typing import Any

import examples
import examples_blur
import examples_nonlinear
import examples_sampling
import pytest
import torch
from examples import random
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from invdiff import operators
from invdiff.operators import OPERATORS, LinearOperator, Operator, ProximalOperator, SpectralOperator

EXAMPLES = {
    **examples.EXAMPLES,
    **examples_blur.EXAMPLES,
    **examples_nonlinear.EXAMPLES,
    **examples_sampling.EXAMPLES,
}
ALL = {**EXAMPLES, **examples.COMBINATIONS}

Law = Callable[[Any], None]


def law(rung: type[Operator], many: int = 12) -> Callable[[Law], Any]:
    """A test of `many` random operators of every name, those that stand on this rung."""

    def decorated(check: Law) -> Any:
        @pytest.mark.parametrize("name", ALL)
        @settings(
            max_examples=many, deadline=None, derandomize=True, database=None, print_blob=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )  # fmt: skip
        @given(data=st.data())
        def test(name: str, data: st.DataObject) -> None:
            if name in OPERATORS and not issubclass(OPERATORS[name], rung) and not _may_rise(name, rung):
                return
            op = data.draw(st.composite(ALL[name])())
            assume(isinstance(op, rung))
            check(op)

        test.__name__ = test.__qualname__ = check.__name__
        test.__doc__ = check.__doc__
        return test

    return decorated


def _may_rise(name: str, rung: type[Operator]) -> bool:
    """Whether some operators of this class are made as a subclass higher on the ladder, as blurs are."""
    below = OPERATORS[name].__subclasses__()
    return any(issubclass(cls, rung) for cls in below)


def matrix(linear: Callable[[Tensor], Tensor], *shape: int) -> Tensor:
    """The matrix of a map of (B, *shape), column by column."""
    n = prod(shape)
    return linear(torch.eye(n, dtype=torch.float64).view(n, *shape)).flatten(1).mT


def error(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm().clamp(min=1e-300)).item()


def picture(op: Operator, batch: int, seed: int = 0) -> Tensor:
    """Something an operator may meet: mostly inside [0, 1], a little outside."""
    return 0.5 + 0.3 * random(batch, *op.in_shape, seed=seed)


def test_every_operator_has_examples_here() -> None:
    assert EXAMPLES.keys() == OPERATORS.keys()


@law(Operator)
def test_an_example_is_of_its_kind_and_says_its_shapes_in_one_line(op: Operator) -> None:
    y = op.A(picture(op, 2))
    assert y.shape == (2, *op.out_shape)
    assert y.dtype == torch.float64
    assert "\n" not in op.describe()
    assert repr(op) == op.describe()
    assert torch.equal(op(picture(op, 2)), y)


@law(Operator, many=4)
def test_the_check_that_authors_run_finds_nothing(op: Operator) -> None:
    operators.check(op, rtol=1e-4)


# -------------------------------------------------------------------------------------------------- linear


@law(LinearOperator)
def test_a_and_its_adjoint_are_transposed(op: LinearOperator) -> None:
    for batch in (1, 3):
        x, v = random(batch, *op.in_shape), random(batch, *op.out_shape, seed=1)
        y, back = op.A(x), op.A_adjoint(v)
        assert y.shape == v.shape
        assert back.shape == x.shape
        assert abs((y * v).sum() - (x * back).sum()) <= 1e-10 * y.norm() * v.norm()


@law(LinearOperator)
def test_a_is_linear_and_its_derivative_is_its_adjoint(op: LinearOperator) -> None:
    x, v = random(2, *op.in_shape).requires_grad_(), random(2, *op.out_shape, seed=1)
    (slope,) = torch.autograd.grad(op(x), x, v)
    assert error(slope, op.A_adjoint(v)) < 1e-12
    other = random(2, *op.in_shape, seed=2)
    assert error(op(2 * x + other), 2 * op(x) + op(other)) < 1e-12


@law(LinearOperator)
def test_the_pseudo_inverse_is_that_of_the_matrix(op: LinearOperator) -> None:
    A, dagger = matrix(op.A, *op.in_shape), matrix(op.A_dagger, *op.out_shape)
    assume(
        condition(A) < 1e4 or isinstance(op, SpectralOperator)
    )  # beyond, conjugate gradients are not exact
    assert error(dagger, torch.linalg.pinv(A, rtol=1e-12)) < 1e-8 * max(1.0, condition(A) / 1e4)
    assert error(A @ dagger @ A, A) < 1e-8


@law(LinearOperator)
def test_the_prox_minimises_its_objective_with_a_weight_for_each_sample(op: LinearOperator) -> None:
    A, weights = matrix(op.A, *op.in_shape), torch.tensor([0.25, 64.0, inf], dtype=torch.float64)
    z, y = random(3, *op.in_shape), random(3, *op.out_shape, seed=1)
    x = op.prox(z, y, weights)
    for i, weight in enumerate(weights[:2]):
        slope = (x - z)[i].flatten() + weight * A.mT @ (A @ x[i].flatten() - y[i].flatten())
        assert slope.norm() < 1e-8 * weight * (1 + z[i].norm())
    for i, weight in enumerate(weights.tolist()[:2]):
        assert error(op.prox(z[i : i + 1], y[i : i + 1], weight), x[i : i + 1]) < 1e-10
    assume(condition(A) < 1e4)
    nearest = z[2].flatten() + torch.linalg.pinv(A, rtol=1e-12) @ (y[2].flatten() - A @ z[2].flatten())
    assert error(x[2].flatten(), nearest) < 1e-8
    assert error(op.prox(z[2:], y[2:], inf), x[2:]) < 1e-10


@law(LinearOperator)
def test_the_preconditioner_is_symmetric_and_positive(op: LinearOperator) -> None:
    M = matrix(lambda b: op.precondition(b, 0.3), *op.out_shape)
    assert (M - M.mT).norm() <= 1e-10 * M.norm()
    assert torch.linalg.eigvalsh(M + M.mT)[0] > 0


def condition(A: Tensor) -> float:
    """The largest singular value over the least that is not zero."""
    s = torch.linalg.svdvals(A)
    return float(s[0] / s[s > 1e-12 * s[0]][-1])


# ------------------------------------------------------------------------------------------------ spectral


@law(SpectralOperator)
def test_the_preconditioner_of_a_spectral_operator_inverts_its_damped_gram_matrix(
    op: SpectralOperator,
) -> None:
    y = op.A(random(2, *op.in_shape))
    back = op.precondition(op.A(op.A_adjoint(y)) + 0.3 * y, 0.3)
    factor = (back * y).sum() / (y * y).sum()
    assert error(back, factor * y) < 1e-9


@law(SpectralOperator)
def test_the_spectral_parts_rebuild_a(op: SpectralOperator) -> None:
    A, s, n = matrix(op.A, *op.in_shape), op.singular_values.double(), prod(op.in_shape)
    U, V = matrix(op.U, n), matrix(op.V, n)
    assert s.shape == (n,)
    assert (s >= 0).all()
    assert error((U * s) @ V.mT, A) < 1e-12
    assert (matrix(op.U_adjoint, *op.out_shape) - U.mT).norm() < 1e-12 * U.norm()
    assert error(matrix(op.V_adjoint, *op.in_shape), V.mT) < 1e-12
    ours, theirs = s.sort(descending=True).values, torch.linalg.svdvals(A)
    least = min(len(ours), len(theirs))
    assert error(ours[:least], theirs[:least]) < 1e-12
    assert not ours[least:].any()


@law(SpectralOperator)
def test_what_spectral_operator_derives_is_what_the_subclass_does_faster(op: SpectralOperator) -> None:
    z, y, weight = random(2, *op.in_shape), random(2, *op.out_shape, seed=1), torch.tensor([0.5, inf])
    assert error(op.A(z), SpectralOperator.A(op, z)) < 1e-12
    assert error(op.A_adjoint(y), SpectralOperator.A_adjoint(op, y)) < 1e-12
    assume(condition(matrix(op.A, *op.in_shape)) < 1e4)
    d = SpectralOperator._least_squares(op, y - op.A(z), (1 / weight.double()).view(-1, 1, 1, 1))
    assert error(op.prox(z, y, weight), z + d) < 1e-8


@law(SpectralOperator)
def test_white_real_noise_stays_white(op: SpectralOperator) -> None:
    """The covariance of Mᵀn is MᵀM for white n: UᵀU = I on the range, VᵀV = V Vᵀ = I."""
    n, kept = prod(op.in_shape), (op.singular_values > 0).double()
    U, V = matrix(op.U, n), matrix(op.V, n)
    assert not U.is_complex()
    assert not V.is_complex()
    one = torch.eye(n, dtype=torch.float64)
    assert (U.mT @ U - kept.diag()).abs().max() < 1e-12
    assert (V.mT @ V - one).abs().max() < 1e-12
    assert (V @ V.mT - one).abs().max() < 1e-12


# ------------------------------------------------------------------------------------------- any operator


@law(Operator)
def test_the_likelihoods_gradient_is_its_finite_difference(op: Operator) -> None:
    """∇½‖y − A(x)‖² along a direction, where A is not quantised; in [-1, 1] units' middle, off the kinks."""
    if op.surrogate:
        return
    x, towards = picture(op, 1), random(1, *op.in_shape, seed=2)
    y = op.A(picture(op, 1, seed=3))

    def misfit(at: Tensor) -> Tensor:
        return 0.5 * (y - op.A(at)).square().sum()

    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(misfit(leaf), leaf)
    h = 1e-6
    difference = (misfit(x + h * towards) - misfit(x - h * towards)) / (2 * h)
    assert abs((slope * towards).sum() - difference) < 1e-6 * (1 + slope.norm() * towards.norm())


@law(Operator)
def test_a_batch_is_its_samples_one_by_one(op: Operator) -> None:
    x = picture(op, 3)
    x[1] *= 1e-3  # samples that converge at different times
    y = op.A(x.flip(0))
    calls: list[tuple[Any, tuple[Tensor, ...]]] = [(op.A, (x,))]
    if isinstance(op, LinearOperator):
        calls += [(op.A_adjoint, (y,)), (op.A_dagger, (y,))]
    if isinstance(op, ProximalOperator):
        calls += [(lambda z, given: op.prox(z, given, 8.0), (x, y))]
    for f, given_ in calls:
        together = f(*given_)
        alone = torch.cat([f(*(t[i : i + 1] for t in given_)) for i in range(3)])
        assert all(
            error(a, b) < 1e-10 or (a - b).norm() < 1e-13 for a, b in zip(together, alone, strict=True)
        )


@law(LinearOperator)
def test_float32_is_float64_to_its_own_precision(op: LinearOperator) -> None:
    x, y, single = random(2, *op.in_shape), random(2, *op.out_shape, seed=1), op.to(dtype=torch.float32)
    assert type(single) is type(op)
    for name, given_ in (("A", x), ("A_adjoint", y)):
        exact = getattr(op, name)(given_)
        for other in (op, single):
            got = getattr(other, name)(given_.float())
            assert got.dtype == torch.float32
            assert error(got.double(), exact) < 1e-6
    exact = op.prox(x, y, 4.0)
    got = single.prox(x.float(), y.float(), 4.0)
    assert got.dtype == torch.float32
    assert error(got.double(), exact) < 1e-5


@law(ProximalOperator)
def test_the_prox_answers_in_the_dtype_of_the_picture_whatever_the_measurements_is(
    op: ProximalOperator,
) -> None:
    z, y = picture(op, 2), op.A(picture(op, 2, seed=1))
    assert op.prox(z.float(), y, 2.0).dtype == torch.float32
    assert op.prox(z, y.float(), 2.0).dtype == torch.float64


@law(Operator, many=4)
def test_what_is_worked_out_in_inference_mode_serves_autograd_later(op: Operator) -> None:
    x = picture(op, 1)
    with torch.inference_mode():
        y = op.A(x)
        if isinstance(op, ProximalOperator):
            op.prox(x, y, 2.0)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(op.A(leaf).square().sum(), leaf)
    assert slope.isfinite().all()


@law(Operator)
def test_bfloat16_comes_back_as_bfloat16_within_its_error(op: Operator) -> None:
    x = picture(op, 2).bfloat16()
    got = op.A(x)
    assert got.dtype == torch.bfloat16
    if not op.surrogate:  # a quantiser may round the other way
        assert error(got.double(), op.A(x.double())) < 0.03
    if isinstance(op, LinearOperator):
        back = op.A_adjoint(got)
        assert back.dtype == torch.bfloat16
        assert error(back.double(), op.A_adjoint(got.double())) < 0.03
    if isinstance(op, ProximalOperator):
        assert op.prox(x, got, 1.0).dtype == torch.bfloat16


@law(Operator)
def test_no_call_changes_the_operator_or_what_it_is_given(op: Operator) -> None:
    x = picture(op, 2)
    y = op.A(x).clone()
    calls: list[tuple[Any, tuple[Any, ...]]] = [(op.A, (x,))]
    if isinstance(op, ProximalOperator):
        calls += [(op.prox, (x, y, inf))]
    if isinstance(op, LinearOperator):
        calls += [(op.A_adjoint, (y,)), (op.A_dagger, (y,))]
    for f, given_ in calls:
        f(*given_)  # what is worked out once is there after this
    now = {**vars(op), "x": x, "y": y}
    before = {name: copy.deepcopy(value) for name, value in now.items()}
    for f, given_ in calls:
        f(*given_)
    for name, value in before.items():
        if isinstance(value, Tensor):
            assert torch.equal(now[name], value), name
    with pytest.raises(FrozenInstanceError):
        op.in_shape = (1, 1, 1)


@law(Operator, many=4)
def test_a_copy_through_pickle_does_the_same(op: Operator) -> None:
    x = picture(op, 1)
    for twin in (pickle.loads(pickle.dumps(op)), copy.deepcopy(op)):
        assert type(twin) is type(op)
        assert torch.equal(twin.A(x), op.A(x))


@law(Operator, many=4)
def test_another_shape_or_whole_numbers_are_refused_in_one_line(op: Operator) -> None:
    c, h, w = op.in_shape
    for wrong in (random(2, c, h + 1, w), random(c, h, w), random(2, c + 1, h, w)):
        with pytest.raises(ValueError, match=r"^[^\n]*expected an image \(B, [^\n]*got \([^\n]*$"):
            op.A(wrong)
    calls: list[Callable[[Tensor], Tensor]] = []
    if isinstance(op, LinearOperator):
        calls += [op.A_adjoint, op.A_dagger]
    if isinstance(op, ProximalOperator):
        calls += [lambda y: op.prox(random(1, c, h, w), y, 1.0)]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"^[^\n]*expected (an image|a measurement) \(B, [^\n]*got \([^\n]*$"
        ):
            call(random(1, *op.out_shape[:-1], op.out_shape[-1] + 1))
    with pytest.raises(TypeError, match=r"floats in image units, got torch\.uint8"):
        op.A(torch.zeros(1, c, h, w, dtype=torch.uint8))


@law(ProximalOperator, many=4)
def test_a_weight_outside_its_range_is_refused(op: ProximalOperator) -> None:
    for weight in (0.0, -1.0, nan, torch.tensor([1.0, 0.0]), torch.ones(3), torch.ones(2, 1)):
        with pytest.raises(ValueError, match=r"^weight: expected [^\n]*got"):
            op.prox(random(2, *op.in_shape), random(2, *op.out_shape), weight)
