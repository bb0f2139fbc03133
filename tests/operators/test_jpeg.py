"""JPEG: Pillow's to the bit, its parts close to Pillow's, and what a file tells of the picture it was made from."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any, get_args

import pytest
import torch
from examples import random
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from invdiff.operators import JPEG
from invdiff.operators.jpeg import Subsampling

GREY_LEVEL = 1 / 255
UNEVEN: list[Sequence[int]] = [range(1, 65), range(80, 16, -1)]  # not symmetric: the order of a table shows

every_subsampling = pytest.mark.parametrize("subsampling", get_args(Subsampling))


@pytest.fixture(scope="module")
def photograph() -> Tensor:
    """(1, 3, 128, 144), in 8 bits, kept off black and white, where y is clipped."""
    data = pytest.importorskip("skimage.data")
    face = torch.from_numpy(data.astronaut()[20:148, 150:294]).movedim(-1, 0)[None].double()
    return (25 + 0.8 * face).round() / 255


def of_shape(photograph: Tensor, shape: tuple[int, int, int]) -> Tensor:
    channels, height, width = shape
    return photograph[:, -channels:, :height, :width]


def through_a_file(x: Tensor, **options: Any) -> tuple[Tensor, Any]:
    """x (1, C, H, W) saved and read by Pillow, and the file's tables."""
    pixels = (x[0].clamp(0, 1) * 255).round().byte().movedim(0, -1).squeeze(-1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    with Image.open(file) as image:
        read = torch.tensor(list(image.tobytes()), dtype=torch.float64) / 255
        return read.view(*pixels.shape[:2], -1).movedim(-1, 0)[None], image.quantization  # type: ignore[attr-defined]


def apart(a: Tensor, b: Tensor) -> float:
    """The mean distance in grey levels of 255."""
    return float((a - b).abs().mean() / GREY_LEVEL)


# -------------------------------------------------------------------------------------- Pillow, to the bit


@every_subsampling
@pytest.mark.parametrize("quality", [1, 30, 75, 95, 100])
def test_it_measures_what_pillow_reads_back(
    photograph: Tensor, quality: int, subsampling: Subsampling
) -> None:
    for shape in ((3, 128, 144), (3, 37, 51)):
        x = of_shape(photograph, shape)
        wanted, tables = through_a_file(x, quality=quality, subsampling=subsampling)
        op = JPEG(shape, quality, subsampling)
        assert torch.equal(op.A(x), wanted)
        assert torch.equal(op.steps, JPEG.like(shape, tables, subsampling).steps)


def test_a_grey_picture_is_a_grey_file_with_lumas_table(photograph: Tensor) -> None:
    x = of_shape(photograph, (1, 37, 51))
    wanted, tables = through_a_file(x, quality=40)
    op = JPEG((1, 37, 51), 40)
    assert torch.equal(op.A(x), wanted)
    assert torch.equal(op.steps, JPEG.like((1, 37, 51), tables).steps)


@pytest.mark.parametrize("tables", [UNEVEN, [[7] * 64], [range(1, 65), [40] * 64, [99] * 64]])
def test_a_file_is_made_again_from_its_tables_as_pillow_reads_them(
    photograph: Tensor, tables: list[Sequence[int]]
) -> None:
    x = of_shape(photograph, (3, 128, 101))
    wanted, found = through_a_file(x, qtables=[list(table) for table in tables], subsampling="4:2:2")
    for given in (found, tables):
        op = JPEG.like((3, 128, 101), given, "4:2:2")
        assert torch.equal(op.A(x), wanted)
        assert repr(op) == "JPEG(tables of a file, 4:2:2, 3x128x101)"


def test_what_is_outside_the_range_is_clipped_and_each_dtype_comes_back_as_it_was(photograph: Tensor) -> None:
    x, op = 3 * of_shape(photograph, (3, 40, 40)) - 1, JPEG((3, 40, 40), 90)
    assert torch.equal(op.A(x), op.A(x.clamp(0, 1)))
    single = op.A(x.float())
    assert single.dtype == torch.float32
    assert torch.equal(single, op.A(x.float().double()).float())
    assert op.A(x.bfloat16()).dtype == torch.bfloat16
    assert op.A(x[:0]).shape == (0, 3, 40, 40)


# ------------------------------------------------------------------------------------------------ its parts


@every_subsampling
@pytest.mark.parametrize("quality", [5, 30, 75, 95])
@pytest.mark.parametrize("shape", [(3, 128, 144), (3, 91, 121), (1, 91, 121)])
def test_the_formats_parts_in_floats_are_about_a_grey_level_from_pillow(
    photograph: Tensor, shape: tuple[int, int, int], quality: int, subsampling: Subsampling
) -> None:
    x, op = of_shape(photograph, shape), JPEG(shape, quality, subsampling)
    decoded = op.image(op.steps * (op.coefficients(x) / op.steps).round())
    assert apart(decoded, op.A(x)) < (1.1 if shape[0] == 3 else 0.5)
    assert apart(x, op.A(x)) > 1.4  # what there is to be explained


@every_subsampling
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (2, 5), (7, 6), (9, 17), (16, 4)])
def test_they_are_on_the_smallest_pictures_too(size: tuple[int, int], subsampling: Subsampling) -> None:
    """Blocks mostly of repeated edge; chroma of one or two columns, which libjpeg does not interpolate."""
    x, op = ((0.5 + 0.1 * random(1, 3, *size)) * 255).round() / 255, JPEG((3, *size), 100, subsampling)
    decoded = op.image(op.steps * (op.coefficients(x) / op.steps).round())
    assert apart(decoded, op.A(x)) < 1


def test_they_are_with_tables_that_are_not_symmetric_too(photograph: Tensor) -> None:
    op = JPEG.like((3, 128, 144), UNEVEN, "4:4:4")
    decoded = op.image(op.steps * (op.coefficients(photograph) / op.steps).round())
    assert apart(decoded, op.A(photograph)) < 1


def test_coefficients_hold_the_whole_picture_where_no_chroma_is_lost() -> None:
    for shape in ((3, 9, 13), (1, 16, 8)):
        x, op = random(2, *shape), JPEG(shape, 50, "4:4:4")
        c = op.coefficients(x)
        assert c.shape[1:] == op.steps.shape
        assert torch.allclose(op.image(c), x, atol=1e-12)
    flat = JPEG((1, 8, 8)).coefficients(torch.full((1, 1, 8, 8), 1.0, dtype=torch.float64))
    assert torch.allclose(
        flat[0, 0], torch.tensor(8 * 127 / 255, dtype=torch.float64)
    )  # orthonormal, from 128
    assert flat[0, 1:].abs().max() < 1e-14


def test_steps_are_the_tables_for_each_block_of_luma_and_then_of_chroma() -> None:
    steps = JPEG.like((3, 9, 16), UNEVEN, "4:2:0").steps * 255
    luma, chroma = (torch.tensor(list(table), dtype=torch.float64) for table in UNEVEN)
    assert torch.allclose(steps, torch.cat([luma.repeat(4), chroma.repeat(2)]))


# ------------------------------------------------------------------------------------------- its derivative


@every_subsampling
def test_under_autograd_the_value_is_pillows_and_the_derivative_that_of_the_parts_unrounded(
    photograph: Tensor, subsampling: Subsampling
) -> None:
    shape = (3, 35, 42)
    x, op = (3 * of_shape(photograph, shape) - 1).requires_grad_(), JPEG(shape, 20, subsampling)
    y, v, towards, h = op.A(x), random(1, *shape), random(1, *shape, seed=1), 1e-3
    assert op.surrogate
    assert torch.equal(y, op.A(x.detach()))
    (slope,) = torch.autograd.grad((y * v).sum(), x)
    ahead, behind = (op.image(op.coefficients(x.detach() + step * towards)) for step in (h, -h))
    difference = ((ahead - behind) * v).sum() / (2 * h)
    assert torch.allclose((slope * towards).sum(), difference, rtol=1e-9)
    if subsampling == "4:4:4":
        assert torch.allclose(slope, v, atol=1e-12)


def test_descending_the_misfit_brings_back_what_is_outside_the_range() -> None:
    op, x = JPEG((1, 8, 8), 90), torch.full((1, 1, 8, 8), 1.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad((op.A(x) - 0.5).square().sum(), x)
    assert (slope > 0).all()


# --------------------------------------------------------------------------- what y tells of the coefficients


@every_subsampling
@pytest.mark.parametrize("quality, few", [(5, 5e-4), (30, 2e-3), (75, 5e-3), (95, 1.5e-2)])
@pytest.mark.parametrize("shape", [(3, 128, 144), (3, 91, 121), (1, 91, 121)])
def test_a_photograph_is_consistent_with_its_own_file_and_a_different_one_is_not(
    photograph: Tensor, shape: tuple[int, int, int], quality: int, few: float, subsampling: Subsampling
) -> None:
    x, op = of_shape(photograph, shape), JPEG(shape, quality, subsampling)
    y = op.A(x)
    assert op.consistent(x, y) >= 1 - few
    assert op.consistent(y, y) >= 1 - few
    assert op.consistent(x.flip(-1), y) < op.consistent(x, y) - 10 * few


def test_intervals_are_a_step_wide_around_a_multiple_of_it(photograph: Tensor) -> None:
    x, op = of_shape(photograph, (3, 32, 48)), JPEG((3, 32, 48), 30)
    low, high = op.interval(op.A(x))
    assert torch.allclose(high - low, op.steps.expand_as(low))
    rounded = (op.coefficients(x) / op.steps).round() * op.steps
    assert (((low + high) / 2 - rounded).abs() < 1e-9).double().mean() > 0.995


def test_consistency_is_counted_for_each_image(photograph: Tensor) -> None:
    x, op = of_shape(photograph, (3, 64, 64)), JPEG((3, 64, 64), 50)
    y = op.A(x)
    together = op.consistent(torch.cat([x, x + 0.2]), torch.cat([y, y]))
    assert torch.equal(together, torch.cat([op.consistent(x, y), op.consistent(x + 0.2, y)]))
    assert together[0] > 0.99 > together[1]


# ----------------------------------------------------------------------------------------------------- prox


def blurred(y: Tensor) -> Tensor:
    return avg_pool2d(torch.nn.functional.pad(y, (2, 2, 2, 2), mode="replicate"), 5, stride=1)


@every_subsampling
@pytest.mark.parametrize("quality", [5, 30, 75, 95])
@pytest.mark.parametrize("shape", [(3, 128, 144), (3, 91, 121), (1, 91, 121)])
def test_an_infinite_weight_gives_a_picture_that_compresses_to_y(
    photograph: Tensor, shape: tuple[int, int, int], quality: int, subsampling: Subsampling
) -> None:
    op = JPEG(shape, quality, subsampling)
    y = op.A(of_shape(photograph, shape))
    for z in (blurred(y), y + 0.05 * random(*y.shape)):
        x = op.prox(z, y, inf)
        assert op.consistent(x, y) == 1
        assert apart(op.A(x), y) < min(0.75, 0.5 * apart(z, y))


@every_subsampling
def test_where_blocks_fit_the_prox_is_a_projection_on_intervals_an_inset_narrower(
    photograph: Tensor, subsampling: Subsampling
) -> None:
    """The coefficients are z's, clamped; and the move is the least of those that do it: shared chroma moves alike."""
    shape = (3, 32, 48)
    op = JPEG(shape, 60, subsampling)
    y = op.A(of_shape(photograph, shape))
    z = blurred(y) + 0.05 * random(1, *shape)
    x = op.prox(z, y, inf)
    low, high = op.interval(y)
    inset = (op.steps / 4).clamp(max=GREY_LEVEL)
    clamped = op.coefficients(z).clamp(low + inset, high - inset)
    assert torch.allclose(op.coefficients(x), clamped, atol=1e-12)
    assert torch.allclose(op.prox(x, y, inf), x, atol=1e-12)
    rows, columns = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}[subsampling]
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    move = x - z
    chroma = move - (luma * move).sum(1, keepdim=True)  # R − Y, G − Y, B − Y
    for i in range(rows):
        for j in range(columns):
            assert torch.allclose(
                chroma[..., i::rows, j::columns], chroma[..., ::rows, ::columns], atol=1e-12
            )


@pytest.mark.parametrize("shape", [(3, 32, 48), (3, 29, 43), (1, 29, 43)])
def test_a_finite_weight_goes_part_of_the_way_for_each_sample(
    photograph: Tensor, shape: tuple[int, int, int]
) -> None:
    op, x = JPEG(shape, 25), of_shape(photograph, shape)
    z, y = (blurred(x) + 0.05 * random(3, *shape)), op.A(x).expand(3, -1, -1, -1)
    end = op.prox(z, y, inf)
    got = op.prox(z, y, torch.tensor([0.25, 1.0, inf]))
    share = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
    assert torch.allclose(got, z + share * (end - z), atol=1e-12)
    assert torch.equal(op.prox(z[:1], y[:1], 0.25), got[:1])


def test_in_single_precision_it_is_the_same_to_that_precision(photograph: Tensor) -> None:
    shape = (3, 91, 121)
    op = JPEG(shape, 75)
    y = op.A(of_shape(photograph, shape))
    exact, single = op.prox(blurred(y), y, inf), op.prox(blurred(y).float(), y.float(), inf)
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() < 1e-4
    assert op.prox(blurred(y).bfloat16(), y.bfloat16(), 1.0).dtype == torch.bfloat16


# --------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "construct, line",
    [
        (lambda: JPEG((4, 8, 8)), r"^shape: expected 1 \(grey\) or 3 \(RGB\) channels, got 4; drop alpha$"),
        (lambda: JPEG((3, 8, 65501)), r"^shape: expected sides up to 65500, got 8x65501; crop the image$"),
        (lambda: JPEG((3, 8, 8), 0), r"^quality: expected a whole number from 1 to 100, got 0$"),
        (lambda: JPEG((3, 8, 8), 101), r"^quality: expected a whole number from 1 to 100, got 101$"),
        (lambda: JPEG((3, 8, 8), 7.5), r"^quality: expected a whole number from 1 to 100, got 7\.5$"),  # type: ignore[arg-type]
        (
            lambda: JPEG((3, 8, 8), None),
            r"^quality: expected a number or a file's tables, got [^\n]*JPEG\.like$",
        ),
        (
            lambda: JPEG((3, 8, 8), tables=((1,) * 64,)),
            r"^quality: expected a number or a file's tables, got both",
        ),
        (
            lambda: JPEG((3, 8, 8), 75, "4:1:1"),  # type: ignore[arg-type]
            r"^subsampling: expected one of 4:4:4, 4:2:2, 4:2:0, got '4:1:1'$",
        ),
        (lambda: JPEG.like((3, 8, 8), []), r"^quality: expected a number or a file's tables"),
        (
            lambda: JPEG.like((3, 8, 8), [[1] * 64] * 4),
            r"^tables: expected one to three, got 4; see Pillow's",
        ),
        (
            lambda: JPEG.like((3, 8, 8), {1: [1] * 64}),
            r"^tables: expected the keys 0, 1, [^\n]*got \[1\]; pass",
        ),
        (
            lambda: JPEG.like((3, 8, 8), [[1] * 63]),
            r"^tables: expected 64 whole numbers [^\n]*got 63: \[1, 1",
        ),
        (
            lambda: JPEG.like((3, 8, 8), [[0] * 64]),
            r"^tables: expected 64 whole numbers [^\n]*got 64: \[0, 0",
        ),
        (
            lambda: JPEG.like((3, 8, 8), [[1.5] * 64]),
            r"^tables: expected 64 whole numbers [^\n]*got 64: \[1\.5",
        ),  # type: ignore[list-item]
    ],
)
def test_a_bad_option_is_refused_in_one_line(construct: Callable[[], Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        construct()


def test_an_option_can_be_replaced() -> None:
    for op in (JPEG((3, 8, 8), 30), JPEG.like((3, 8, 8), UNEVEN)):
        larger = replace(op, shape=(3, 16, 8))
        assert torch.equal(larger.steps.unique(), op.steps.unique())
    assert torch.equal(replace(JPEG((1, 8, 8), 30), quality=60).steps, JPEG((1, 8, 8), 60).steps)


def test_it_describes_itself_in_one_line() -> None:
    assert repr(JPEG((3, 8, 9), 30)) == "JPEG(quality 30, 4:2:0, 3x8x9)"
    assert repr(JPEG((1, 8, 9))) == "JPEG(quality 75, 1x8x9)"


def test_another_shape_is_refused_by_every_method() -> None:
    op, x, wrong = JPEG((3, 8, 9)), random(1, 3, 8, 9), random(1, 3, 8, 8)
    calls: list[Callable[[], Any]] = [
        lambda: op.coefficients(wrong),
        lambda: op.interval(wrong),
        lambda: op.consistent(wrong, x),
        lambda: op.consistent(x, wrong),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^[^\n]*expected (an image|a measurement) \(B, 3, 8, 9\), got"):
            call()


@pytest.mark.parametrize("wrong", ["photo.jpg", 75])
def test_tables_that_are_no_numbers_are_refused_with_what_to_do(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^tables: expected numbers, got .*quantization$"):
        JPEG.like((3, 8, 8), wrong)
