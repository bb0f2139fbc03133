"""Our operators as deepinv's physics: the same maps by its names, in its own tests and algorithms. Slow to import."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from math import nan
from pathlib import Path
from typing import Any

import examples
import pytest
import torch
from examples import Draw, random
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from invdiff import operators
from invdiff.operators import OPERATORS, LinearOperator, Operator, SpectralOperator, from_deepinv, to_deepinv

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # deepinv's own
]

EXAMPLES: dict[str, Callable[[Draw], Operator]] = dict(examples.COMBINATIONS)
for file in sorted(Path(examples.__file__).parent.glob("examples*.py")):
    EXAMPLES |= import_module(file.stem).EXAMPLES

SHAPE = (1, 6, 5)
MASK = operators.Mask(random(6, 5) > -0.5, channels=1)
BLUR = operators.Blur(operators.kernels.motion(3, 20), SHAPE)
VALID = operators.Blur(operators.kernels.motion(3, 20), SHAPE, "valid", rtol=1e-12, max_iter=500)


class Square(Operator):
    """Neither linear nor proximal."""

    in_shape = out_shape = SHAPE

    def A(self, x: Tensor) -> Tensor:
        return self._image(x).square()


@pytest.fixture(scope="module")
def deepinv() -> Any:
    return pytest.importorskip("deepinv")


def error(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm().clamp(min=1e-300)).item()


def test_every_operator_has_examples_here() -> None:
    assert OPERATORS.keys() <= EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
@settings(
    max_examples=4, deadline=None, derandomize=True, database=None, print_blob=False,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(data=st.data())
def test_every_operator_is_the_physics_of_its_rung_with_the_same_maps(
    deepinv: Any, name: str, data: st.DataObject
) -> None:
    op = data.draw(st.composite(EXAMPLES[name])())
    physics, p = to_deepinv(op), deepinv.physics
    assert isinstance(physics, p.Physics)
    assert isinstance(physics, p.LinearPhysics) == isinstance(op, LinearOperator)
    assert isinstance(physics, p.DecomposablePhysics) == isinstance(op, SpectralOperator)
    x = 0.5 + 0.3 * random(2, *op.in_shape)
    y = op.A(x)
    assert torch.equal(physics.A(x), y)
    assert torch.equal(physics(x), y)  # with noise of sigma 0
    assert from_deepinv(physics, op.in_shape) is op
    if isinstance(op, LinearOperator):
        assert physics.adjointness_test(img_size=op.in_shape, dtype=torch.float64, num_samples=5) < 1e-10
        assert error(physics.A_adjoint(y), op.A_adjoint(y)) == 0
        assert error(physics.A_adjoint_A(x), op.A_adjoint(y)) == 0
        assert error(physics.A_A_adjoint(y), op.A(op.A_adjoint(y))) == 0
        assert error(physics.A_dagger(y), op.A_dagger(y)) == 0
    if isinstance(op, SpectralOperator):
        by_parts = p.DecomposablePhysics
        assert physics.mask.shape == (1, x[0].numel())
        assert error(by_parts.A(physics, x), y) < 1e-5  # mask is in float32, as torch's default dtype
        assert error(by_parts.A_adjoint(physics, y), op.A_adjoint(y)) < 1e-5
        assert error(by_parts.prox_l2(physics, x, y + 0.1, 0.7), op.prox(x, y + 0.1, 0.7)) < 1e-5


@pytest.mark.parametrize("op", [MASK, BLUR, VALID], ids=repr)
def test_prox_l2_takes_what_deepinv_gives_it(deepinv: Any, op: LinearOperator) -> None:
    physics = to_deepinv(op)
    z, y = random(2, *op.in_shape), op.A(random(2, *op.in_shape, seed=1))
    gamma = torch.tensor([0.5, 3.0], dtype=torch.float64)
    wanted = op.prox(z, y, gamma)
    for given_gamma in (gamma, gamma.view(2, 1, 1, 1)):
        assert torch.equal(physics.prox_l2(z, y, given_gamma, solver="CG"), wanted)
    assert torch.equal(physics.prox_l2(z, y, torch.tensor(0.5)), op.prox(z, y, 0.5))
    for zero in (None, 0, 0.0):
        assert torch.equal(physics.prox_l2(zero, y, 0.5), op.prox(torch.zeros_like(z), y, 0.5))
    if not isinstance(op, SpectralOperator):
        by_their_solver = deepinv.physics.LinearPhysics.prox_l2(physics, z, y, 0.5, max_iter=100, tol=1e-10)
        assert error(by_their_solver, op.prox(z, y, 0.5)) < 1e-6


@pytest.mark.parametrize("op", [MASK, BLUR, VALID], ids=repr)
def test_deepinvs_norm_is_the_largest_singular_value(deepinv: Any, op: LinearOperator) -> None:
    matrix = op.A(torch.eye(30, dtype=torch.float64).view(30, *SHAPE)).flatten(1)
    norm = to_deepinv(op).compute_norm(
        random(1, *SHAPE), tol=1e-9, max_iter=2000, squared=False, verbose=False
    )
    assert norm.item() == pytest.approx(torch.linalg.svdvals(matrix)[0].item(), rel=1e-3)


def test_an_operator_that_is_not_linear_is_differentiated_by_deepinv(deepinv: Any) -> None:
    physics, x, v = to_deepinv(Square()), random(2, *SHAPE), random(2, *SHAPE, seed=1)
    assert not isinstance(physics, deepinv.physics.LinearPhysics)
    assert torch.allclose(physics.A_vjp(x, v), 2 * x * v)


def test_its_noise_is_gaussian_of_sigma_y(deepinv: Any) -> None:
    """Within 5 standard errors, √(1/(2n)), of n = 40000 draws."""
    op = operators.Identity((1, 200, 200))
    y = to_deepinv(op, sigma_y=0.1)(torch.zeros(1, 1, 200, 200))
    assert y.std().item() == pytest.approx(0.1, rel=5 * (1 / 80000) ** 0.5)


def test_moving_the_physics_moves_the_operator(deepinv: Any) -> None:
    physics = to_deepinv(BLUR)
    assert physics.operator.kernel.dtype == torch.float64
    physics.to("cpu")
    assert physics.operator.kernel.dtype == torch.float64
    physics.to(torch.float32)
    assert physics.operator.kernel.dtype == torch.float32
    assert BLUR.kernel.dtype == torch.float64  # type: ignore[attr-defined]
    assert physics.double().mask.dtype == torch.float64


@pytest.mark.parametrize(
    "op", [BLUR, VALID, operators.Clip(SHAPE) if hasattr(operators, "Clip") else MASK], ids=repr
)
def test_a_copy_is_a_physics_of_its_own(deepinv: Any, op: Operator) -> None:
    physics, x = to_deepinv(op, 0.1), random(2, *SHAPE)
    physics.noise_model = deepinv.physics.GaussianNoise(0.0)
    for twin in (copy.deepcopy(physics), physics.clone()):
        assert type(twin) is type(physics)
        assert torch.equal(twin(x), op.A(x))
        assert twin.operator is not op


def test_deepinv_composes_and_stacks_them(deepinv: Any) -> None:
    x = random(2, *SHAPE)
    both = deepinv.physics.stack(to_deepinv(MASK), to_deepinv(BLUR))
    assert error(from_deepinv(both, SHAPE).A(x), operators.stacked([MASK, BLUR]).A(x)) < 1e-6
    after = to_deepinv(MASK) * to_deepinv(BLUR)
    assert error(from_deepinv(after, SHAPE).A(x), (MASK @ BLUR).A(x)) < 1e-6


def test_what_is_no_operator_is_refused(deepinv: Any) -> None:
    with pytest.raises(TypeError, match="operator: expected an invdiff operator, got Blur"):
        to_deepinv(deepinv.physics.Blur(filter=torch.ones(1, 1, 1, 1)))
    for sigma_y in (-0.1, nan):
        with pytest.raises(ValueError, match="sigma_y: expected a number from 0 up, in image units"):
            to_deepinv(BLUR, sigma_y)
    with pytest.raises(ValueError, match=r"does not take images of shape \(3, 6, 5\)"):
        from_deepinv(to_deepinv(BLUR), (3, 6, 5))


# ------------------------------------------------------------------------------------------ deepinv's own algorithms


def picture() -> Tensor:
    """(1, 1, 32, 32): a disk, a box and a slope."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    disk, box = (u + 0.3).square() + (v + 0.2).square() < 0.2, (u - 0.5).abs().maximum((v - 0.4).abs()) < 0.3
    return (0.3 + 0.2 * u + 0.4 * disk + 0.3 * box)[None, None]


def rms(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean().sqrt().item()


@pytest.mark.parametrize("algorithm", ["PGD", "ADMM"])
@pytest.mark.parametrize("task", ["blur", "inpainting"])
def test_total_variation_restores_what_ours_has_measured(deepinv: Any, algorithm: str, task: str) -> None:
    """With two thirds of the error left at most; PGD goes by A and A_adjoint, ADMM by prox_l2."""
    truth = picture()
    keep = random(32, 32) > -0.5
    op: LinearOperator = operators.Mask(keep, channels=1)
    if task == "blur":
        op = operators.Blur(operators.kernels.motion(9, 30), (1, 32, 32), "reflect")
    physics = to_deepinv(op, sigma_y=0.01)
    torch.manual_seed(0)
    y = physics(truth)
    model = getattr(deepinv.optim, algorithm)(
        data_fidelity=deepinv.optim.L2(),
        prior=deepinv.optim.TVPrior(n_it_max=20),
        lambda_reg=0.002 if task == "blur" else 0.02,
        stepsize=1.0 if algorithm == "PGD" else 10.0,
        max_iter=150 if algorithm == "PGD" else 50,
        custom_init=lambda y, physics: {"est": (physics.A_adjoint(y),) * 2},
    )
    with torch.no_grad():
        restored = model(y, physics)
    start = y if task == "blur" else torch.where(keep, y, y[..., keep].mean())
    assert rms(restored, truth) < 2 / 3 * rms(start, truth)


@pytest.mark.parametrize(
    "op",
    [
        operators.Mask(random(32, 32) > 0, channels=1),
        operators.Blur(operators.kernels.motion(5, 30), (1, 32, 32)),
    ],
    ids=repr,
)
def test_ddrm_runs_in_our_singular_basis(deepinv: Any, op: SpectralOperator) -> None:
    """With the denoiser of a Gaussian prior around the truth, it comes nearer than the pseudo-inverse."""

    class Around(torch.nn.Module):
        def forward(self, x: Tensor, sigma: float) -> Tensor:
            return picture() + (x - picture()) * 0.04 / (0.04 + sigma**2)

    physics = to_deepinv(op, sigma_y=0.05)
    torch.manual_seed(0)
    y = physics(picture().expand(2, 1, 32, 32))
    restored = deepinv.sampling.DDRM(Around(), sigmas=[1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.0])(y, physics)
    assert restored.shape == (2, 1, 32, 32)
    assert rms(restored, picture()) < 0.6 * rms(op.A_dagger(y), picture())
