"""Law 1: what every linear operator promises, held against its own matrix in float64, for all OPERATORS."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from math import inf, nan, prod
from typing import get_args

import pytest
import torch
from torch import Tensor

from invdiff import operators
from invdiff.operators import OPERATORS, LinearOperator, SpectralOperator
from invdiff.operators.blur import Border
from invdiff.operators.resample import Kernel

SHAPES = [(1, 7, 10), (3, 9, 8), (2, 5, 5)]
FACTORS = [2, 3, 5]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def masks(shape: tuple[int, int, int]) -> list[LinearOperator]:
    channels, height, width = shape
    return [operators.Mask(random(height, width) > 0, channels), operators.Mask(random(*shape, seed=1) > 0.5)]


def blurs(shape: tuple[int, int, int]) -> list[LinearOperator]:
    """For each border: a kernel with an even side, an outer product that loses much, one as large as x."""
    any_kernel = 0.1 * random(4, 3).abs()
    any_kernel[2, 1] = 1.0  # well conditioned, so that conjugate gradients are exact enough to be judged
    lossy = operators.kernels.gaussian(1.5)[4:-4, 5:-4]
    large = 0.02 * random(*shape[1:], seed=1)
    large[shape[1] // 2, shape[2] // 2] = 1.0
    return [
        operators.Blur(kernel, shape, border, rtol=1e-12, max_iter=500)
        for border in get_args(Border)
        for kernel in (any_kernel, lossy, large)
    ]


def downsamples(shape: tuple[int, int, int]) -> list[LinearOperator]:
    return [operators.Downsample(factor, shape, kernel) for factor in FACTORS for kernel in get_args(Kernel)]


EXAMPLES: dict[str, Callable[[tuple[int, int, int]], list[LinearOperator]]] = {
    "mask": masks,
    "blur": blurs,
    "downsample": downsamples,
    "identity": lambda shape: [operators.Identity(shape)],
}
ALL = [op for shape in SHAPES for examples in EXAMPLES.values() for op in examples(shape)]
SPECTRAL = [op for op in ALL if isinstance(op, SpectralOperator)]
every = pytest.mark.parametrize("op", ALL, ids=repr)
every_spectral = pytest.mark.parametrize("op", SPECTRAL, ids=repr)


def matrix(linear: Callable[[Tensor], Tensor], *shape: int) -> Tensor:
    """The matrix of a map of (B, *shape), column by column."""
    n = prod(shape)
    return linear(torch.eye(n, dtype=torch.float64).view(n, *shape)).flatten(1).mT


def error(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


def test_every_operator_has_examples_here() -> None:
    assert EXAMPLES.keys() == OPERATORS.keys()
    for name, examples in EXAMPLES.items():
        assert all(isinstance(op, OPERATORS[name]) for op in examples((3, 9, 8)))


@every
@pytest.mark.parametrize("batch", [1, 3])
def test_a_and_its_adjoint_are_transposed(op: LinearOperator, batch: int) -> None:
    x, v = random(batch, *op.in_shape), random(batch, *op.out_shape, seed=1)
    y, back = op.A(x), op.A_adjoint(v)
    assert y.shape == v.shape
    assert back.shape == x.shape
    assert abs((y * v).sum() - (x * back).sum()) <= 1e-10 * y.norm() * v.norm()


@every
def test_the_derivative_of_a_is_its_adjoint(op: LinearOperator) -> None:
    x, v = random(2, *op.in_shape).requires_grad_(), random(2, *op.out_shape, seed=1)
    (slope,) = torch.autograd.grad(op(x), x, v)
    assert error(slope, op.A_adjoint(v)) < 1e-12


@every
def test_the_pseudo_inverse_is_that_of_the_matrix(op: LinearOperator) -> None:
    A, dagger = matrix(op.A, *op.in_shape), matrix(op.A_dagger, *op.out_shape)
    assert error(dagger, torch.linalg.pinv(A, rtol=1e-12)) < 1e-8
    assert error(A @ dagger @ A, A) < 1e-8


@every
def test_the_prox_minimises_its_objective_with_a_weight_for_each_sample(op: LinearOperator) -> None:
    A, weights = matrix(op.A, *op.in_shape), torch.tensor([0.25, 64.0, inf], dtype=torch.float64)
    z, y = random(3, *op.in_shape), random(3, *op.out_shape, seed=1)
    x = op.prox(z, y, weights)
    for i, weight in enumerate(weights[:2]):
        slope = (x - z)[i].flatten() + weight * A.mT @ (A @ x[i].flatten() - y[i].flatten())
        assert slope.norm() < 1e-8 * weight * z[i].norm()
    nearest = z[2].flatten() + torch.linalg.pinv(A, rtol=1e-12) @ (y[2].flatten() - A @ z[2].flatten())
    assert error(x[2].flatten(), nearest) < 1e-8
    for i, weight in enumerate(weights.tolist()):
        assert error(op.prox(z[i : i + 1], y[i : i + 1], weight), x[i : i + 1]) < 1e-10


@every
def test_the_preconditioner_is_symmetric_and_positive(op: LinearOperator) -> None:
    M = matrix(lambda b: op.precondition(b, 0.3), *op.out_shape)
    assert error(M, M.mT) < 1e-10
    assert torch.linalg.eigvalsh(M + M.mT)[0] > 0


@every_spectral
def test_the_preconditioner_of_a_spectral_operator_inverts_its_damped_gram_matrix(
    op: SpectralOperator,
) -> None:
    y = op.A(random(2, *op.in_shape))
    back = op.precondition(op.A(op.A_adjoint(y)) + 0.3 * y, 0.3)
    factor = (back * y).sum() / (y * y).sum()
    assert error(back, factor * y) < 1e-9


@every_spectral
def test_the_spectral_parts_rebuild_a(op: SpectralOperator) -> None:
    A, s, n = matrix(op.A, *op.in_shape), op.singular_values.double(), prod(op.in_shape)
    U, V = matrix(op.U, n), matrix(op.V, n)
    assert s.shape == (n,)
    assert error((U * s) @ V.mT, A) < 1e-12
    assert error(matrix(op.U_adjoint, *op.out_shape), U.mT) < 1e-12
    assert error(matrix(op.V_adjoint, *op.in_shape), V.mT) < 1e-12
    assert error(s.sort(descending=True).values[: len(A)], torch.linalg.svdvals(A)) < 1e-12


@every_spectral
def test_what_spectral_operator_derives_is_what_the_subclass_does_faster(op: SpectralOperator) -> None:
    z, y, weight = random(2, *op.in_shape), random(2, *op.out_shape, seed=1), torch.tensor([0.5, inf])
    assert error(op.A(z), SpectralOperator.A(op, z)) < 1e-12
    assert error(op.A_adjoint(y), SpectralOperator.A_adjoint(op, y)) < 1e-12
    d = SpectralOperator._least_squares(op, y - op.A(z), (1 / weight.double()).view(-1, 1, 1, 1))
    assert error(op.prox(z, y, weight), z + d) < 1e-8


@every_spectral
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


@every
def test_a_batch_is_its_samples_one_by_one(op: LinearOperator) -> None:
    x, y = random(3, *op.in_shape), random(3, *op.out_shape, seed=1)
    x[1] *= 1e-3  # samples that converge at different times
    for f, given in ((op.A, x), (op.A_adjoint, y), (op.A_dagger, y)):
        together, alone = f(given), torch.cat([f(one[None]) for one in given])
        assert all(error(a, b) < 1e-10 for a, b in zip(together, alone, strict=True))


@every
def test_float32_is_float64_to_its_own_precision(op: LinearOperator) -> None:
    x, y, single = random(2, *op.in_shape), random(2, *op.out_shape, seed=1), op.to(dtype=torch.float32)
    assert type(single) is type(op)
    for name, given in (("A", x), ("A_adjoint", y)):
        exact = getattr(op, name)(given)
        for other in (op, single):
            got = getattr(other, name)(given.float())
            assert got.dtype == torch.float32
            assert error(got.double(), exact) < 1e-6
    exact = op.prox(x, y, 4.0)
    got = single.prox(x.float(), y.float(), 4.0)
    assert got.dtype == torch.float32
    assert error(got.double(), exact) < 1e-5


@every
def test_no_call_changes_the_operator_or_what_it_is_given(op: LinearOperator) -> None:
    x, y = random(2, *op.in_shape), random(2, *op.out_shape, seed=1)
    op.prox(x, y, 2.0)  # what is worked out once is there after this
    now = {**vars(op), "x": x, "y": y}
    before = copy.deepcopy(now)
    for f, given in ((op.A, (x,)), (op.A_adjoint, (y,)), (op.A_dagger, (y,)), (op.prox, (x, y, inf))):
        f(*given)
    for name, value in before.items():
        assert torch.equal(now[name], value) if isinstance(value, Tensor) else True, name
    with pytest.raises(FrozenInstanceError):
        op.in_shape = (1, 1, 1)


@every
def test_a_copy_through_pickle_does_the_same(op: LinearOperator) -> None:
    x = random(1, *op.in_shape)
    for twin in (pickle.loads(pickle.dumps(op)), copy.deepcopy(op)):
        assert type(twin) is type(op)
        assert torch.equal(twin.A(x), op.A(x))


@every
def test_another_shape_or_whole_numbers_are_refused_in_one_line(op: LinearOperator) -> None:
    c, h, w = op.in_shape
    for wrong in (random(2, c, h + 1, w), random(c, h, w), random(2, c + 1, h, w)):
        with pytest.raises(ValueError, match=r"^[^\n]*expected an image \(B, [^\n]*got \([^\n]*$"):
            op.A(wrong)
    for method in (op.A_adjoint, op.A_dagger, lambda y: op.prox(random(1, c, h, w), y, 1.0)):
        with pytest.raises(
            ValueError, match=r"^[^\n]*expected (an image|a measurement) \(B, [^\n]*got \([^\n]*$"
        ):
            method(random(1, *op.out_shape[:-1], op.out_shape[-1] + 1))
    with pytest.raises(TypeError, match=r"floats in image units, got torch\.uint8"):
        op.A(torch.zeros(1, c, h, w, dtype=torch.uint8))


@every
def test_a_weight_outside_its_range_is_refused(op: LinearOperator) -> None:
    for weight in (0.0, -1.0, nan, torch.tensor([1.0, 0.0]), torch.ones(3), torch.ones(2, 1)):
        with pytest.raises(ValueError, match=r"^weight: expected [^\n]*got"):
            op.prox(random(2, *op.in_shape), random(2, *op.out_shape), weight)
