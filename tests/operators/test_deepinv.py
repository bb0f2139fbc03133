"""Parity with deepinv where the conventions agree, and its physics as operators. Its import takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, sin
from typing import Any

import pytest
import torch
from examples import uniform as random
from torch import Tensor

from invdiff import operators
from invdiff.operators import LinearOperator, Operator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # deepinv's own
]


def close(a: Tensor, b: Tensor, tolerance: float = 2e-6) -> bool:
    return ((a - b).norm() / b.norm()).item() < tolerance


def test_mask_is_deepinvs_inpainting(physics: Any) -> None:
    keep, x = (random(9, 8) > 0.5).float(), random(2, 3, 9, 8, seed=1)
    theirs, ours = physics.Inpainting(mask=keep[None], img_size=(3, 9, 8)), operators.Mask(keep)
    assert torch.equal(ours.A(x), theirs.A(x))
    assert torch.equal(ours.A_adjoint(x), theirs.A_adjoint(x))
    assert torch.equal(ours.A_dagger(x), theirs.A_dagger(x))
    assert close(ours.prox(x, x.flip(0), 0.7), theirs.prox_l2(x, x.flip(0), 0.7))


@pytest.mark.parametrize("size", [(3, 5), (4, 6)])
@pytest.mark.parametrize("border", ["circular", "reflect", "replicate", "zero", "valid"])
def test_blur_is_deepinvs_with_each_border(physics: Any, border: Any, size: tuple[int, int]) -> None:
    kernel, x = random(*size), random(2, 3, 12, 11, seed=1)
    theirs = physics.Blur(filter=kernel[None, None], padding="constant" if border == "zero" else border)
    ours = operators.Blur(kernel, (3, 12, 11), border)
    y = theirs.A(x)
    assert close(ours.A(x), y)
    assert close(ours.A_adjoint(y), theirs.A_adjoint(y))


def test_circular_blur_solves_as_deepinvs_blur_fft(physics: Any) -> None:
    kernel, x, y = operators.kernels.gaussian(0.8).float(), random(2, 3, 12, 11), random(2, 3, 12, 11, seed=1)
    theirs = physics.BlurFFT(img_size=(3, 12, 11), filter=kernel[None, None])
    ours = operators.Blur(kernel, (3, 12, 11))
    assert close(ours.A(x), theirs.A(x))
    assert close(ours.prox(x, y, 3.0), theirs.prox_l2(x, y, 3.0), 1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_is_deepinvs_matlab_resize_away_from_the_border(physics: Any, factor: int) -> None:
    """Inside only: at the border MATLAB mirrors the image, and Pillow and we weigh the pixels that exist."""
    x = random(1, 3, 64, 56)
    theirs = physics.DownsamplingMatlab(factor=factor, img_size=(3, 64, 56)).A(x)
    ours = operators.Downsample(factor, (3, 64, 56), "bicubic").A(x)
    assert theirs.shape == ours.shape
    assert close(ours[..., 3:-3, 3:-3], theirs[..., 3:-3, 3:-3], 1e-5)


def test_box_is_deepinvs_downsampling_by_the_mean_filter(physics: Any) -> None:
    x, mean = random(2, 3, 12, 16), torch.full((1, 1, 4, 4), 1 / 16)
    filtered = physics.Blur(filter=mean, padding="valid").A(x)[..., ::4, ::4]
    assert close(operators.Downsample(4, (3, 12, 16), "box").A(x), filtered)


def test_a_linear_physics_becomes_a_linear_operator(physics: Any) -> None:
    kernel = 0.1 * random(3, 3)
    kernel[1, 1] = 1.0
    theirs = physics.Blur(filter=kernel[None, None], padding="reflect")
    op = operators.from_deepinv(theirs, (3, 12, 11))
    ours = operators.Blur(kernel, (3, 12, 11), "reflect")
    assert isinstance(op, LinearOperator)
    assert (op.in_shape, op.out_shape, repr(op)) == ((3, 12, 11),) * 2 + ("deepinv.Blur(3x12x11 to 3x12x11)",)
    x, y = random(2, 3, 12, 11), random(2, 3, 12, 11, seed=1)
    assert close(op.A(x), ours.A(x))
    assert close(op.A_adjoint(y), ours.A_adjoint(y))
    assert close(op.A_dagger(y), ours.A_dagger(y), 1e-4)
    assert close(op.prox(x, y, torch.tensor([0.5, 20.0])), ours.prox(x, y, torch.tensor([0.5, 20.0])), 1e-4)
    double = op.to(dtype=torch.float64)
    assert double.A(x.double()).dtype == torch.float64
    assert op.A(x).dtype == torch.float32


def test_a_measurement_of_another_kind_of_shape_solves_too(physics: Any) -> None:
    op = operators.from_deepinv(physics.CompressedSensing(m=30, img_size=(1, 6, 5)), (1, 6, 5))
    assert isinstance(op, LinearOperator)
    assert op.out_shape == (30,)
    x = random(2, 1, 6, 5)
    assert close(op.A(op.A_dagger(op.A(x))), op.A(x), 1e-2)
    weights = torch.tensor([1.0, 2.0])
    slope = op.prox(x, op.A(2 * x), weights) - x
    slope = slope + weights.view(2, 1, 1, 1) * op.A_adjoint(op.A(slope - x))
    assert slope.norm() < 1e-4 * x.norm()


def test_a_physics_that_is_not_linear_becomes_an_operator(physics: Any) -> None:
    class Square(physics.Physics):  # type: ignore[misc]
        def A(self, x: Tensor, **_: Any) -> Tensor:
            return x.square()

    op = operators.from_deepinv(Square(), (1, 4, 4))
    assert isinstance(op, Operator)
    assert not isinstance(op, LinearOperator)
    assert torch.equal(op(torch.full((1, 1, 4, 4), 3.0)), torch.full((1, 1, 4, 4), 9.0))


def test_what_is_no_physics_or_does_not_fit_is_refused(physics: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a deepinv\.physics\.Physics, got int"):
        operators.from_deepinv(3, (1, 4, 4))
    inpainting = physics.Inpainting(mask=torch.ones(3, 5, 5), img_size=(3, 5, 5))
    with pytest.raises(ValueError, match="Inpainting does not take images of shape"):
        operators.from_deepinv(inpainting, (3, 4, 4))

    class NotItsAdjoint(physics.LinearPhysics):  # type: ignore[misc]
        def A(self, x: Tensor, **_: Any) -> Tensor:
            return 2 * x

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
            return y

    with pytest.raises(ValueError, match="A_adjoint is not the adjoint of A"):
        operators.from_deepinv(NotItsAdjoint(), (1, 4, 4))


# ------------------------------------------------------------------------------------------- every physics that fits


def points(count: int) -> Tensor:
    """(2, count) on a circle."""
    return torch.tensor([[cos(i), sin(i)] for i in range(count)]).mT


def pair(p: Any) -> list[Any]:
    blur = p.BlurFFT(img_size=(3, 12, 8), filter=random(1, 1, 3, 3))
    return [blur, p.Downsampling(img_size=(3, 12, 8), filter="gaussian", factor=2)]


Build = tuple[Callable[[Any], Any], tuple[int, int, int]]

CLOSED: dict[str, Build] = {
    "BlurFFT": (lambda p: p.BlurFFT(img_size=(3, 9, 8), filter=random(1, 1, 3, 3)), (3, 9, 8)),
    "Decolorize": (lambda p: p.Decolorize(), (3, 8, 7)),
    "Demosaicing": (lambda p: p.Demosaicing((3, 8, 6)), (3, 8, 6)),
    "Denoising": (lambda p: p.Denoising(p.GaussianNoise(0.5)), (3, 8, 6)),
    "Inpainting": (lambda p: p.Inpainting((3, 8, 7), mask=random(1, 8, 7).round()), (3, 8, 7)),
    "MRI": (lambda p: p.MRI(mask=random(8, 10).round(), img_size=(8, 10)), (2, 8, 10)),
    "SinglePixelCamera": (lambda p: p.SinglePixelCamera(m=20, img_size=(1, 8, 8)), (1, 8, 8)),
    "SinglePixelCamera, a matrix": (
        lambda p: p.SinglePixelCamera(m=20, img_size=(1, 8, 8), fast=False),
        (1, 8, 8),
    ),
}
LINEAR: dict[str, Build] = {
    "Blur": (lambda p: p.Blur(filter=random(1, 1, 3, 3), padding="valid"), (3, 9, 8)),
    "CompressedSensing": (lambda p: p.CompressedSensing(m=20, img_size=(1, 6, 5)), (1, 6, 5)),
    "CompressedSensing, each channel": (
        lambda p: p.CompressedSensing(m=20, img_size=(2, 6, 5), channelwise=True),
        (2, 6, 5),
    ),
    "CompressedSensing, complex": (
        lambda p: p.CompressedSensing(m=20, img_size=(1, 6, 5), dtype=torch.cfloat),
        (1, 6, 5),
    ),
    "ComposedLinearPhysics": (lambda p: p.compose(*pair(p)), (3, 12, 8)),
    "Downsampling": (
        lambda p: p.Downsampling(img_size=(3, 12, 8), filter="gaussian", factor=2),
        (3, 12, 8),
    ),
    "DownsamplingMatlab": (lambda p: p.DownsamplingMatlab(factor=2), (3, 12, 8)),
    "HyperSpectralUnmixing": (lambda p: p.HyperSpectralUnmixing(M=random(3, 7)), (3, 5, 4)),
    "LinearPhysicsMultiScaler": (
        lambda p: p.LinearPhysicsMultiScaler(pair(p)[0], (3, 12, 8), factors=(2,)),
        (3, 12, 8),
    ),
    "MultiCoilMRI": (
        lambda p: p.MultiCoilMRI(
            mask=random(8, 10).round(),
            coil_maps=torch.complex(random(3, 8, 10, seed=1), random(3, 8, 10, seed=2)),
            img_size=(8, 10),
        ),
        (2, 8, 10),
    ),
    "Pansharpen": (lambda p: p.Pansharpen((3, 12, 8), factor=2), (3, 12, 8)),
    "SpaceVaryingBlur": (
        lambda p: p.SpaceVaryingBlur(
            filters=random(1, 1, 2, 3, 3), multipliers=random(1, 1, 2, 9, 8), padding="reflect"
        ),
        (3, 9, 8),
    ),
    "StackedLinearPhysics": (lambda p: p.stack(*pair(p)), (3, 12, 8)),
    "StructuredRandom": (
        lambda p: p.StructuredRandom(img_size=(1, 6, 6), output_size=(1, 4, 4)),
        (1, 6, 6),
    ),
    "TiledSpaceVaryingBlur": (
        lambda p: p.TiledSpaceVaryingBlur(filters=random(1, 1, 9, 3, 3), patch_size=6, stride=4),
        (1, 12, 12),
    ),
    "Tomography": (lambda p: p.Tomography(angles=8, img_width=12, normalize=False), (1, 12, 12)),
    "Tomography, a fan": (
        lambda p: p.Tomography(angles=8, img_width=12, fan_beam=True, normalize=False),
        (1, 12, 12),
    ),
    "UltrasoundPlaneWave": (
        lambda p: p.UltrasoundPlaneWave(
            (8, 8), [-0.2, 0.2], torch.tensor([[-1e-3, 0.0], [0.0, 0.0], [1e-3, 0.0]]), 64, 40e6
        ),
        (1, 8, 8),
    ),
    "Upsampling": (
        lambda p: p.Upsampling(img_size=(3, 24, 16), filter="bilinear", factor=2),
        (3, 12, 8),
    ),
}
OTHER: dict[str, Build] = {
    "PhaseRetrieval": (
        lambda p: p.PhaseRetrieval(p.BlurFFT(img_size=(1, 8, 8), filter=random(1, 1, 3, 3))),
        (1, 8, 8),
    ),
    "Ptychography": (lambda p: p.Ptychography(img_size=(1, 32, 32)), (1, 32, 32)),
    "RandomPhaseRetrieval": (lambda p: p.RandomPhaseRetrieval(m=50, img_size=(1, 6, 5)), (1, 6, 5)),
    "Scattering": (
        lambda p: p.Scattering(
            img_width=8, receivers=points(6), transmitters=points(3), background_wavenumber=5.0
        ),
        (1, 8, 8),
    ),
    "SpatialUnwrapping": (lambda p: p.spatial_unwrapping.SpatialUnwrapping(threshold=0.3), (1, 8, 8)),
    "StackedPhysics": (lambda p: p.stack(pair(p)[0], p.PhaseRetrieval(pair(p)[0])), (3, 12, 8)),
    "StructuredRandomPhaseRetrieval": (
        lambda p: p.StructuredRandomPhaseRetrieval(img_size=(1, 6, 6), output_size=(1, 8, 8), n_layers=2),
        (1, 6, 6),
    ),
}
NEEDING_A_PACKAGE: dict[str, str] = {
    "RadioInterferometry": "torchkbnufft",
    "PET": "parallelproj",
    "TomographyWithAstra": "astra",
}
ALL = {**CLOSED, **LINEAR, **OTHER}
TO_ROUNDING = pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 2e-6), (torch.float64, 1e-13)], ids=["float32", "float64"]
)


def theirs_and_ours(p: Any, name: str) -> tuple[Any, Any]:
    build, shape = ALL[name]
    torch.manual_seed(0)  # some draw from torch's own generator
    theirs = build(p)
    return theirs, operators.from_deepinv(theirs, shape)


@pytest.mark.parametrize("name", ALL)
def test_a_physics_stands_on_the_rung_it_can(physics: Any, name: str) -> None:
    _, op = theirs_and_ours(physics, name)
    assert isinstance(op, LinearOperator) == (name not in OTHER)
    assert ("Decomposable" in type(op).__name__) == (name in CLOSED)
    assert op.in_shape == ALL[name][1]
    assert op.describe().startswith(f"deepinv.{name.partition(',')[0]}(")


@pytest.mark.parametrize("name", ALL)
def test_its_measurements_are_deepinvs_packed(physics: Any, name: str) -> None:
    theirs, op = theirs_and_ours(physics, name)
    x = random(3, *op.in_shape)
    y = op.A(x)
    assert (tuple(y.shape), y.dtype) == ((3, *op.out_shape), torch.float32)
    wanted = theirs.A(x.to(torch.complex64) if op.complex_images else x)
    packed = op.pack(wanted)
    assert packed.dtype == torch.float32
    assert close(y, packed, 1e-4 if name == "Scattering" else 2e-6)  # an iterative solver to 1e-5
    unpacked = op.unpack(y)
    assert type(unpacked) is type(wanted)
    assert torch.equal(op.pack(unpacked), y)
    assert close(torch.cat([op.A(one[None]) for one in x]), y, 1e-5)


@TO_ROUNDING
@pytest.mark.parametrize("name", [*CLOSED, *LINEAR])
def test_its_adjoint_is_that_of_the_real_map(
    physics: Any, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    _, op = theirs_and_ours(physics, name)
    op = op.to(dtype=dtype)
    if name.startswith(("Tomography", "Ultrasound")):  # which keep float32 inside
        tolerance = 2e-6
    x, v = random(2, *op.in_shape).to(dtype), random(2, *op.out_shape, seed=1).to(dtype) - 0.5
    leaf = x.clone().requires_grad_()
    y = op.A(leaf)
    back = op.A_adjoint(v)
    assert (y.dtype, back.dtype, back.shape) == (dtype, dtype, x.shape)
    assert abs((y * v).sum() - (x * back).sum()) <= tolerance * y.norm() * v.norm()
    (slope,) = torch.autograd.grad(y, leaf, v)
    assert close(slope, back, 10 * tolerance)


@pytest.mark.parametrize("name", [*CLOSED, *LINEAR])
def test_its_prox_minimises_and_its_pseudo_inverse_solves(physics: Any, name: str) -> None:
    _, op = theirs_and_ours(physics, name)
    z, y, weights = random(2, *op.in_shape), op.A(random(2, *op.in_shape, seed=1)), torch.tensor([0.5, 3.0])
    x = op.prox(z, y, weights)
    slope = x - z + weights.view(2, 1, 1, 1) * op.A_adjoint(op.A(x) - y)
    assert slope.norm() < 1e-3 * z.norm()
    assert close(torch.cat([op.prox(z[i : i + 1], y[i : i + 1], weights[i].item()) for i in (0, 1)]), x, 1e-3)
    assert close(op.A(op.A_dagger(y)), y, 0.05)
    if name in CLOSED:
        assert close(op.A(op.A_dagger(y)), y, 2e-3)
        assert close(LinearOperator.A_dagger(op, y), op.A_dagger(y), 1e-6)
        once_more = op.precondition(op.A(op.A_adjoint(y)) + 0.3 * y, 0.3)
        assert close(once_more * (y * y).sum() / (once_more * y).sum(), y, 1e-3)


def test_noise_and_sensor_are_left_aside(physics: Any) -> None:
    theirs = physics.Denoising(physics.GaussianNoise(0.5), sensor_model=torch.round)
    x = random(2, 3, 4, 4)
    assert torch.equal(operators.from_deepinv(theirs, (3, 4, 4)).A(x), x)


def test_the_physics_given_stays_as_it_is(physics: Any) -> None:
    theirs = physics.BlurFFT(img_size=(1, 6, 6), filter=random(1, 1, 3, 3)).to(torch.float32)
    op = operators.from_deepinv(theirs, (1, 6, 6))
    x = random(1, 1, 6, 6)
    before = op.A(x)
    theirs.update_parameters(filter=random(1, 1, 3, 3, seed=1))
    assert torch.equal(op.A(x), before)
    assert op.to(dtype=torch.float64).physics.filter.dtype == torch.float64  # type: ignore[attr-defined]
    assert op.physics.filter.dtype == torch.float32  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_answers_come_in_the_dtype_asked_for(physics: Any, dtype: torch.dtype) -> None:
    _, op = theirs_and_ours(physics, "MultiCoilMRI")
    x = random(2, *op.in_shape).to(dtype)
    for one in (op, op.to(dtype=dtype)):
        y = one.A(x)
        assert (y.dtype, one.A_adjoint(y).dtype) == (dtype, dtype)
        assert close(y.double(), op.A(x.float()).double(), 2e-2 if dtype != torch.float64 else 1e-6)


def test_complex_measurements_have_a_last_axis_for_their_parts(physics: Any) -> None:
    _, op = theirs_and_ours(physics, "CompressedSensing, complex")
    assert op.out_shape == (20, 2)
    y = op.A(random(2, 1, 6, 5))
    assert op.unpack(y).dtype == torch.complex64
    assert torch.equal(op.unpack(y).imag, y[..., 1])


def test_several_measurements_are_one_vector(physics: Any) -> None:
    class Nested(physics.Physics):  # type: ignore[misc,name-defined]
        def A(self, x: Tensor, **_: Any) -> Any:
            return [x, (x.square(), torch.complex(x, 2 * x))]

    op, x = operators.from_deepinv(Nested(), (1, 2, 3)), random(2, 1, 2, 3)
    y = op.A(x)
    assert op.out_shape == (24,)
    assert torch.equal(y[:, :12], torch.cat((x.flatten(1), x.square().flatten(1)), 1))
    first, (second, third) = op.unpack(y)  # type: ignore[attr-defined]
    assert torch.equal(first, x)
    assert torch.equal(second, x.square())
    assert torch.equal(third, torch.complex(x, 2 * x))
    with pytest.raises(ValueError, match=r"expected a measurement list\[.*\], got \(B, 1, 2, 3\)"):
        op.pack(x)  # type: ignore[attr-defined]


def test_what_a_wrong_singular_basis_would_solve_is_solved_by_conjugate_gradients(physics: Any) -> None:
    """V is twice an orthonormal one: A and A_adjoint are still each other's, the closed form is not a solution."""
    theirs = physics.DecomposablePhysics(
        U=lambda y: y,
        U_adjoint=lambda y: y,
        V_adjoint=lambda x: 2 * x,
        V=lambda c: 2 * c,
        mask=random(1, 1, 4, 4),
    )
    op = operators.from_deepinv(theirs, (1, 4, 4))
    assert "Decomposable" not in type(op).__name__
    x = random(2, 1, 4, 4)
    assert close(op.A(op.A_dagger(op.A(x))), op.A(x), 1e-3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "build", "shape", "why"),
    [
        # Its image is a list: picture, depth and the light of the air.
        ("Haze", lambda p: p.Haze(), (3, 8, 8), "Haze does not take images of shape"),
        # It reads the batch as the axis of time: only a batch of one fits.
        (
            "SinglePhotonLidar",
            lambda p: p.SinglePhotonLidar(bins=20),
            (3, 4, 4),
            "does not take images of shape",
        ),
        # deepinv's own adjointness_test says 1 for it: A_adjoint is no adjoint.
        (
            "CompressiveSpectralImaging",
            lambda p: p.CompressiveSpectralImaging((4, 8, 6)),
            (4, 8, 6),
            "A_adjoint is not the adjoint of A",
        ),
        # Its images have a time axis: (2, T, H, W).
        (
            "DynamicMRI",
            lambda p: p.DynamicMRI(img_size=(2, 4, 8, 8)),
            (2, 4, 8, 8),
            r"shape: expected \(C, H, W\) without the batch",
        ),
    ],
)
def test_what_cannot_be_wrapped_is_refused_in_one_line(
    physics: Any, name: str, build: Callable[[Any], Any], shape: Any, why: str
) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        operators.from_deepinv(build(physics), shape)
    assert "\n" not in str(caught.value)


def test_images_that_mix_in_a_batch_are_refused(physics: Any) -> None:
    class Mixing(physics.Physics):  # type: ignore[misc,name-defined]
        def A(self, x: Tensor, **_: Any) -> Tensor:
            return x - x.mean(0, keepdim=True)

    with pytest.raises(ValueError, match="measures an image of a batch otherwise than alone"):
        operators.from_deepinv(Mixing(), (1, 4, 4))


@pytest.mark.parametrize("name", NEEDING_A_PACKAGE)
def test_physics_of_other_packages_are_operators_too(physics: Any, name: str) -> None:
    pytest.importorskip(NEEDING_A_PACKAGE[name], reason=f"{name} needs {NEEDING_A_PACKAGE[name]}")
    if name == "RadioInterferometry":
        theirs, shape = physics.RadioInterferometry((8, 8), samples_loc=3 * random(2, 30) - 1.5), (1, 8, 8)
    elif name == "PET":
        theirs, shape = physics.PET(img_size=(1, 12, 12)), (1, 12, 12)
    else:
        theirs, shape = physics.TomographyWithAstra(img_size=(12, 12), angles=8, device="cpu"), (1, 12, 12)
    op = operators.from_deepinv(theirs, shape)
    assert op.A(random(2, *shape)).shape == (2, *op.out_shape)
