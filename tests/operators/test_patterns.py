"""Masks by name: what is lost where, seeds, and requests that cannot be met."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from invdiff.operators import Mask, patterns

SIZE = (9, 14)
PATTERNS: dict[str, Callable[..., Tensor]] = {
    "box": lambda size: patterns.box(size, 3, 4),
    "random": lambda size: patterns.random(size, 0.7),
    "random per channel": lambda size: patterns.random(size, 0.7, channels=3),
    "stripes": lambda size: patterns.stripes(size, 1, 3),
    "lines": lambda size: patterns.lines(size),
    "border": lambda size: patterns.border(size, 2),
    "strokes": lambda size: patterns.strokes(size),
}
SEEDED = {
    "random": lambda seed: patterns.random(SIZE, 0.5, seed),
    "random per channel": lambda seed: patterns.random(SIZE, 0.5, seed, 2),
    "strokes": lambda seed: patterns.strokes((64, 64), 0.2, seed),
}


def kept(*rows: str) -> Tensor:
    """A picture of a mask, # kept."""
    return torch.tensor([[pixel == "#" for pixel in row] for row in rows])


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("size", [SIZE, (32, 32), (17, 8)])
def test_a_pattern_is_a_boolean_mask_that_an_operator_takes_without_a_warning(
    name: str, size: tuple[int, int]
) -> None:
    keep = PATTERNS[name](size)
    assert keep.dtype == torch.bool
    assert keep.shape[-2:] == size
    assert torch.equal(Mask(keep).keep, keep.expand(3, *size))


@pytest.mark.parametrize(
    ("keep", "wanted"),
    [
        (patterns.box((3, 4), 1), kept("####", "#.##", "####")),
        (patterns.box((3, 4), 1, 2), kept("####", "#..#", "####")),
        (patterns.box((3, 4), 2, 1, top=1, left=3), kept("####", "###.", "###.")),
        (patterns.box((3, 4), 3, 1, left=0), kept(".###", ".###", ".###")),
        (patterns.stripes((5, 3), 1, 3), kept("###", "###", "...", "###", "###")),
        (patterns.stripes((2, 7), 2, 3, vertical=True), kept("#..#..#", "#..#..#")),
        (patterns.lines((5, 2)), kept("##", "..", "##", "..", "##")),
        (patterns.lines((5, 2), 3, 1), kept("..", "##", "..", "..", "##")),
        (patterns.lines((1, 5), 2, 1, vertical=True), kept(".#.#.")),
        (patterns.border((4, 4), 1), kept("....", ".##.", ".##.", "....")),
        (patterns.border((3, 4), (1, 0)), kept("....", "####", "....")),
        (patterns.border((3, 4), (0, 1)), kept(".##.", ".##.", ".##.")),
    ],
)
def test_a_regular_pattern_is_as_drawn(keep: Tensor, wanted: Tensor) -> None:
    assert torch.equal(keep, wanted)


@pytest.mark.parametrize("missing", [0.01, 0.5, 0.92])
def test_a_random_mask_loses_the_wanted_number_of_pixels_exactly_in_every_channel(missing: float) -> None:
    lost = round(missing * 20 * 31)
    assert (~patterns.random((20, 31), missing, 3)).sum() == lost
    each = ~patterns.random((20, 31), missing, 3, channels=3)
    assert each.sum((1, 2)).tolist() == [lost] * 3
    assert not torch.equal(each[0], each[1])


def test_a_random_mask_loses_every_pixel_equally_often() -> None:
    lost = torch.stack([~patterns.random((4, 5), 0.3, seed) for seed in range(2000)]).double().mean(0)
    assert (lost - 0.3).abs().max() < 4 * (0.3 * 0.7 / 2000) ** 0.5


@pytest.mark.parametrize("missing", [0.02, 0.15, 0.6, 0.99])
@pytest.mark.parametrize("size", [(64, 64), (5, 7), (120, 16)])
def test_strokes_lose_the_wanted_number_of_pixels_exactly(missing: float, size: tuple[int, int]) -> None:
    pixels = size[0] * size[1]
    if 0 < round(missing * pixels) < pixels:
        assert (~patterns.strokes(size, missing, 1)).sum() == round(missing * pixels)


def test_more_is_lost_by_drawing_on() -> None:
    for draw in (patterns.strokes, patterns.random):
        few, many = (draw((50, 70), missing, 4) for missing in (0.1, 0.45))
        assert not (many & ~few).any()


def test_strokes_are_connected_and_as_wide_as_a_brush_where_random_pixels_are_neither() -> None:
    """Of the pixels lost, those whose four neighbours are lost too: nearly all within a stroke."""

    def inner(keep: Tensor) -> float:
        lost = ~keep
        core = lost[1:-1, 1:-1] & lost[:-2, 1:-1] & lost[2:, 1:-1] & lost[1:-1, :-2] & lost[1:-1, 2:]
        return (core.sum() / lost[1:-1, 1:-1].sum()).item()

    for seed in range(5):
        assert inner(patterns.strokes((256, 256), 0.15, seed)) > 0.7
        assert inner(patterns.random((256, 256), 0.15, seed)) < 0.01


def test_the_brush_grows_with_the_image() -> None:
    """How often a pixel can be taken off all around what is lost: about a brush's radius, 1 to 4 % of the side."""
    for side in (128, 256, 512):
        lost, depth = (~patterns.strokes((side, side), 0.05, 2)).float()[None], 0
        while lost.any():
            lost, depth = -max_pool2d(-lost, 3, 1, 1), depth + 1
        assert 0.01 < depth / side < 0.05


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_always_gives_the_same_mask_and_another_another(name: str) -> None:
    draw = SEEDED[name]
    before = torch.get_rng_state()
    masks = [draw(seed) for seed in (0, 1, 2**32 - 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draw(0), masks[0])
    assert not any(torch.equal(masks[i], masks[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_masks_of_a_seed_are_those_they_always_were() -> None:
    """As recorded: a change would change every result that names its mask by a seed."""
    assert torch.equal(patterns.random((2, 6), 0.5, 0), kept("#..##.", ".#..##"))
    wanted = kept("###.....", "#####..#", *2 * ["########"], "#####...", "####...#", "####..##", "####....")
    assert torch.equal(patterns.strokes((8, 8), 0.3, 0), wanted)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: patterns.box((8, 8), 9), r"height: expected a whole number from 1 to 8, got 9"),
        (lambda: patterns.box((8, 8), -1), r"height: .* got -1"),
        (lambda: patterns.box((8, 8), nan), r"height: .* got nan"),  # type: ignore[arg-type]
        (lambda: patterns.box((8, 8), 2.5), r"height: .* got 2\.5"),  # type: ignore[arg-type]
        (lambda: patterns.box((8, 8), "2"), r"height: .* got 2"),  # type: ignore[arg-type]
        (lambda: patterns.box((8, 8), 2, 0), r"width: expected a whole number from 1 to 8, got 0"),
        (lambda: patterns.box((8, 8), 2, top=7), r"top: expected a whole number from 0 to 6, got 7"),
        (lambda: patterns.box((8, 8), 2, left=-1), r"left: expected a whole number from 0 to 6, got -1"),
        (lambda: patterns.box((8, 6), 8, 6), r"box: .* 8x6 pixels .* got none kept; make the hole smaller"),
        (lambda: patterns.box((8,), 2), r"size: expected \(H, W\), got \(8,\); leave out batch and channels"),  # type: ignore[arg-type]
        (lambda: patterns.box((8, 0), 2), r"size: expected a whole number of at least 1, got 0"),
        (lambda: patterns.box((8, nan), 2), r"size: expected a whole number of at least 1, got nan"),  # type: ignore[arg-type]
        (lambda: patterns.random((8, 8), 0), r"missing: expected the part .* in \(0, 1\), got 0"),
        (lambda: patterns.random((8, 8), 1.0), r"missing: .* got 1\.0"),
        (lambda: patterns.random((8, 8), nan), r"missing: .* got nan"),
        (lambda: patterns.random((8, 8), -0.5), r"missing: .* got -0\.5"),
        (lambda: patterns.random((2, 2), 0.1), r"missing: .* 4 pixels .* got 0\.1, that is 0 lost"),
        (lambda: patterns.random((2, 2), 0.9), r"missing: .* 4 pixels .* got 0\.9, that is 4 lost"),
        (
            lambda: patterns.random((8, 8), 0.5, -1),
            r"seed: expected a whole number from 0 to 4294967295, got -1",
        ),
        (lambda: patterns.random((8, 8), 0.5, 2**32), r"seed: .* got 4294967296"),
        (
            lambda: patterns.random((8, 8), 0.5, 0, 0),
            r"channels: expected a whole number of at least 1, got 0",
        ),
        (lambda: patterns.strokes((8, 8), 1.5), r"missing: .* got 1\.5"),
        (lambda: patterns.strokes((1, 1)), r"missing: .* got 0\.15, that is 0 lost"),
        (lambda: patterns.strokes((8, 8), seed=0.5), r"seed: .* got 0\.5"),  # type: ignore[arg-type]
        (lambda: patterns.stripes((8, 8), 3, 3), r"width: expected a whole number from 1 to 2, got 3"),
        (lambda: patterns.stripes((8, 8), 1, 1), r"period: expected a whole number of at least 2, got 1"),
        (lambda: patterns.stripes((8, 8), 1, 9), r"stripes: .* got all kept; choose a shorter period"),
        (lambda: patterns.lines((8, 8), 1), r"every: expected a whole number of at least 2, got 1"),
        (lambda: patterns.lines((8, 8), 3, 3), r"offset: expected a whole number from 0 to 2, got 3"),
        (lambda: patterns.lines((3, 8), 9, 5), r"lines: .* got none kept; choose fewer or another offset"),
        (lambda: patterns.lines((1, 8)), r"lines: .* got all kept"),
        (lambda: patterns.border((8, 9), 4), r"margin: expected a whole number from 0 to 3, got 4"),
        (lambda: patterns.border((8, 9), (3, 5)), r"margin: expected a whole number from 0 to 4, got 5"),
        (lambda: patterns.border((8, 9), -1), r"margin: .* got -1"),
        (lambda: patterns.border((8, 9), nan), r"margin: .* got nan"),  # type: ignore[arg-type]
        (lambda: patterns.border((8, 9), (1, 2, 3)), r"margin: .* \(vertical, horizontal\), got \(1, 2, 3\)"),  # type: ignore[arg-type]
        (lambda: patterns.border((8, 9), 0), r"border: .* got all kept; choose a larger margin"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        ask()
