"""JPEG compression: measured by Pillow, differentiated and undone by the format's own linear algebra."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, cos, pi, prod, sqrt
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from .base import ProximalOperator, Shape, by, cached_property, damping, differentiated, image_shape, wide

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
Table = tuple[int, ...]

_FACTORS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}  # rows and columns that share their chroma
_MIDDLE = 128 / 255  # the grey that the format codes as 0
_ROUNDING = 1 / 255  # how far 8-bit rounding on the way moves a coefficient: three standard deviations
_COSINES = torch.tensor(
    [[sqrt((1 if u == 0 else 2) / 8) * cos((2 * i + 1) * u * pi / 16) for i in range(8)] for u in range(8)],
    dtype=torch.float64,
)


@dataclass(frozen=True, eq=False, repr=False)
class JPEG(ProximalOperator):
    """y = what a JPEG file gives back: x clipped, rounded to 8 bits, compressed and decoded by Pillow on the CPU.

    shape: (3, H, W), or (1, H, W) for a grey file. quality: 1 to 100, as Pillow and libjpeg count. subsampling: how
    much of the colour's resolution is kept. `JPEG.like` takes a file's own tables in place of a quality.

    The format: Y Cb Cr = M · RGB at each pixel; chroma averaged over 1x1, 1x2 or 2x2 pixels; blocks of 8x8, filled
    beyond the edge by repeating it, to cosine coefficients (`coefficients`); each rounded to a multiple of its step
    (`steps`); and back (`image`), chroma interpolated linearly. Carried out by these parts in floats it is one
    grey level from Pillow on average (grey pictures: a third of one), the 8-bit rounding between them.

    Autograd takes the derivative of these parts, rounding and clipping passed straight through, outside [0, 1] too, so
    that guidance brings such values back. The cosines cancel then: what is lost is chroma's resolution.

    What y tells of x is an interval for each coefficient (`interval`); prox keeps to those, not to y's pixels.

    ValueError for other than 1 or 3 channels, a quality outside 1 to 100, an unknown subsampling, or bad tables.
    Source: ITU-T T.81 (1992), JFIF 1.02; libjpeg-turbo for what happens at the edges and to chroma.
    """

    shape: Shape
    quality: int | None = 75
    subsampling: Subsampling = "4:2:0"
    tables: tuple[Table, ...] = field(default=(), kw_only=True)
    """A file's, and then no quality: 64 steps row by row for each of Y, Cb, Cr, the last again if there are fewer."""

    def __post_init__(self) -> None:
        shape, tables = image_shape(self.shape), _checked_tables(self.tables)
        if shape[0] not in (1, 3):
            raise ValueError(f"shape: expected 1 (grey) or 3 (RGB) channels, got {shape[0]}; drop alpha")
        if max(shape[1:]) > 65500:  # libjpeg's limit
            raise ValueError(f"shape: expected sides up to 65500, got {by(*shape[1:])}; crop the image")
        if self.subsampling not in _FACTORS:
            raise ValueError(f"subsampling: expected one of {', '.join(_FACTORS)}, got {self.subsampling!r}")
        if (self.quality is None) != bool(tables):
            raise ValueError(
                "quality: expected a number or a file's tables, got both or neither; see JPEG.like"
            )
        if self.quality is not None and (not 1 <= self.quality <= 100 or self.quality != int(self.quality)):
            raise ValueError(f"quality: expected a whole number from 1 to 100, got {self.quality}")
        vars(self).update(shape=shape, in_shape=shape, out_shape=shape, tables=tables)

    @classmethod
    def like(
        cls,
        shape: Shape,
        tables: Mapping[int, Sequence[int]] | Sequence[Sequence[int]],
        subsampling: Subsampling = "4:2:0",
    ) -> Self:
        """The compression that made a file, from its quantisation tables, Pillow's `image.quantization`.

        tables: {0: luma's, 1: chroma's} or a list; each 64 whole numbers, row by row (not in the file's zigzag order).
        """
        if isinstance(tables, str) or not isinstance(tables, Mapping | Sequence):
            kind = type(tables).__name__
            raise TypeError(f"tables: expected numbers, got {kind}; pass Image.open(path).quantization")
        if isinstance(tables, Mapping):
            if sorted(tables) != list(range(len(tables))):
                raise ValueError(
                    f"tables: expected the keys 0, 1, ..., got {sorted(tables)}; pass a list for Y, Cb, Cr"
                )
            tables = [tables[i] for i in range(len(tables))]
        return cls(shape, None, subsampling, tables=tuple(tuple(table) for table in tables))

    def describe(self) -> str:
        quality = "tables of a file" if self.quality is None else f"quality {self.quality}"
        chroma = f", {self.subsampling}" if self.shape[0] == 3 else ""
        return f"JPEG({quality}{chroma}, {by(*self.shape)})"

    @property
    def surrogate(self) -> bool:
        return True

    def A(self, x: Tensor) -> Tensor:
        y = torch.empty_like(self._image(x))
        for i, image in enumerate(x.detach()):
            y[i] = self._compressed(image)
        if not differentiated(x):
            return y
        through = self._joined(self._planes(x, self._averaged)).to(x)
        return y + (through - through.detach())  # exactly y

    def _compressed(self, x: Tensor) -> Tensor:
        """One image through Pillow; float64 on the CPU."""
        from PIL import Image

        channels, height, width = self.shape
        mode, options = ("L", {}) if channels == 1 else ("RGB", {"subsampling": self.subsampling})
        pixels = x.to("cpu", torch.float64).clamp(0, 1).mul(255).round().byte().movedim(0, -1).contiguous()
        image = Image.frombytes(mode, (width, height), pixels.numpy().tobytes())
        with io.BytesIO() as file:
            image.save(file, "JPEG", qtables=[list(table) for table in self._tables], **options)
            with Image.open(file) as decoded:
                found = torch.frombuffer(bytearray(decoded.tobytes()), dtype=torch.uint8)
        return found.view(pixels.shape).movedim(-1, 0).double() / 255

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        """argmin_x ½‖x − z‖² + weight/2 · dist²(x, what compresses to y), both measured in Y Cb Cr.

        That distance stands for ‖A(x) − y‖, which is flat and jumps. With P the projection the minimum is
        z + weight/(1 + weight) · (P z − z). P takes each coefficient into its interval, made narrower by what 8-bit
        rounding may move it (a quarter step at most), so that A(P z) is y but for few coefficients where P z is in
        [0, 1]; it moves pixels that share their chroma alike. Blocks over the edge need several rounds, and P is
        then close to the projection only.
        """
        share = 1 / (1 + damping(weight, wide(self._image(z))))
        low, high = self.interval(y)
        inset = (self.steps.to(low) / 4).clamp(max=_ROUNDING)
        cells = zip(self._blocks(low + inset), self._blocks(high - inset), strict=True)
        planes = self._planes(z, self._averaged)
        moves = [_into(plane, *cell) - plane for plane, cell in zip(planes, cells, strict=True)]
        move = torch.cat([moves[0], *map(self._repeated, moves[1:])], dim=1)
        return (wide(z) + share * _mixed(self._matrix.inverse(), move)).to(z)

    def interval(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(low, high), (B, n) each: where the `coefficients` of an x lie that became y.

        The multiple of its step that each was rounded to is found again from y's own pixels, chroma by least squares
        from its interpolation. It may be a neighbour where y was clipped to [0, 1], in blocks over the edge, or where
        steps are as small as y's 8-bit rounding (quality above 90, say).
        """
        c = self._flat(self._planes(self._measurement(y), self._uninterpolated))
        steps = self.steps.to(c)
        middle = steps * (c / steps).round()
        return middle - steps / 2, middle + steps / 2

    def consistent(self, x: Tensor, y: Tensor) -> Tensor:
        """The share of x's coefficients in y's intervals, (B,), give or take 8-bit rounding; about 1 for y = A(x)."""
        (low, high), c = self.interval(y), self.coefficients(x)
        return ((c >= low - _ROUNDING) & (c <= high + _ROUNDING)).to(c).mean(1)

    def coefficients(self, x: Tensor) -> Tensor:
        """The cosine coefficients of x before they are rounded, (B, n): Y's blocks, Cb's, Cr's; image units."""
        return self._flat(self._planes(self._image(x), self._averaged))

    def image(self, c: Tensor) -> Tensor:
        """The image (B, C, H, W) that coefficients (B, n) decode to, before it is rounded and clipped."""
        blocks = zip(self._blocks(wide(c)), self._sizes, strict=True)
        return self._joined([_plane(b)[..., :height, :width] for b, (_, height, width) in blocks])

    @cached_property
    def _tables(self) -> tuple[Table, ...]:
        return self.tables if self.quality is None else _standard_tables(int(self.quality))[: self.shape[0]]

    @cached_property
    def steps(self) -> Tensor:
        """What each coefficient is rounded to a multiple of, (n,), image units."""
        chosen = [self._tables[min(i, len(self._tables) - 1)] for i in range(self.shape[0])]
        tables = torch.tensor(chosen, dtype=torch.float64) / 255
        parts = zip(tables.split([channels for channels, _, _ in self._sizes]), self._grids, strict=True)
        return torch.cat([table.view(-1, 1, 1, 8, 8).expand(grid).flatten() for table, grid in parts])

    # Inside, an image is its planes: luma (B, 1, H, W) and, where there is colour, Cb and Cr (B, 2, h, w).

    @property
    def _sizes(self) -> list[Shape]:
        (channels, height, width), (rows, columns) = self.shape, _FACTORS[self.subsampling]
        luma, chroma = (1, height, width), (2, ceil(height / rows), ceil(width / columns))
        return [luma] if channels == 1 else [luma, chroma]

    @property
    def _grids(self) -> list[tuple[int, ...]]:
        """The planes' blocks: (channels, rows, columns, 8, 8)."""
        return [
            (channels, ceil(height / 8), ceil(width / 8), 8, 8) for channels, height, width in self._sizes
        ]

    def _planes(self, x: Tensor, reduced: Callable[[Tensor], Tensor]) -> list[Tensor]:
        full = _mixed(self._matrix, wide(x) - _MIDDLE)
        luma, *chroma = full.split([channels for channels, _, _ in self._sizes], dim=1)
        return [luma, *map(reduced, chroma)]

    def _joined(self, planes: Sequence[Tensor]) -> Tensor:
        full = torch.cat([planes[0], *map(self._interpolated, planes[1:])], dim=1)
        return _mixed(self._matrix.inverse(), full) + _MIDDLE

    @cached_property
    def _matrix(self) -> Tensor:
        """Y Cb Cr from R G B, or 1."""
        if self.shape[0] == 1:
            return torch.ones(1, 1, dtype=torch.float64)
        luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        red, _, blue = torch.eye(3, dtype=torch.float64)
        return torch.stack([luma, (blue - luma) / 1.772, (red - luma) / 1.402])

    def _averaged(self, v: Tensor) -> Tensor:
        rows, columns = factors = _FACTORS[self.subsampling]
        return avg_pool2d(_filled(v, rows, columns), factors)

    def _repeated(self, v: Tensor) -> Tensor:
        """The pseudo-inverse of `_averaged`."""
        factors, (_, height, width) = _FACTORS[self.subsampling], self.shape
        return interpolate(v, scale_factor=factors, mode="nearest")[..., :height, :width]

    def _interpolated(self, v: Tensor) -> Tensor:
        rows, columns = self._interpolation
        return rows.to(v) @ (v @ columns.to(v).mT)

    def _uninterpolated(self, v: Tensor) -> Tensor:
        rows, columns = self._least_squares
        return rows.to(v) @ (v @ columns.to(v).mT)

    @cached_property
    def _interpolation(self) -> list[Tensor]:
        """(H, h) and (W, w): libjpeg's weights ¾ and ¼, or 1 and 0 where there are at most two columns of chroma."""
        mode = "linear" if self._sizes[-1][2] > 2 else "nearest"
        weights = []
        for size, factor in zip(self.shape[1:], _FACTORS[self.subsampling], strict=True):
            impulses = torch.eye(ceil(size / factor), dtype=torch.float64)[None]
            weights.append(interpolate(impulses, scale_factor=factor, mode=mode)[0, :, :size].mT)
        return weights

    @cached_property
    def _least_squares(self) -> list[Tensor]:
        """The pseudo-inverses of `_interpolation`."""
        return [torch.linalg.solve(T.mT @ T, T.mT) for T in self._interpolation]

    def _flat(self, planes: Sequence[Tensor]) -> Tensor:
        return torch.cat([_coefficients(plane).flatten(1) for plane in planes], dim=1)

    def _blocks(self, c: Tensor) -> list[Tensor]:
        parts = zip(c.split([prod(grid) for grid in self._grids], dim=1), self._grids, strict=True)
        return [part.reshape(-1, *grid) for part, grid in parts]


def _mixed(matrix: Tensor, v: Tensor) -> Tensor:
    """The channels of every pixel times a matrix."""
    return (matrix.to(v) @ v.flatten(2)).view(v.shape)


def _filled(v: Tensor, rows: int, columns: int) -> Tensor:
    """The last row and column repeated until the sides are multiples of these."""
    return pad(v, (0, -v.shape[-1] % columns, 0, -v.shape[-2] % rows), mode="replicate")


def _coefficients(plane: Tensor) -> Tensor:
    """(B, C, h, w) → (B, C, rows, columns, 8, 8)."""
    blocks = _filled(plane, 8, 8).unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
    C = _COSINES.to(plane)
    return C @ blocks @ C.mT


def _plane(c: Tensor) -> Tensor:
    """The inverse of `_coefficients`, whole blocks."""
    C = _COSINES.to(c)
    return (C.mT @ c @ C).transpose(-3, -2).flatten(-2).flatten(-3, -2)


def _into(plane: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The plane whose coefficients lie between low and high: the nearest where no block hangs over the edge.

    Where one does, by projecting in turn on the intervals and on the planes that repeat their edge beyond it.
    """
    height, width = plane.shape[-2:]
    for _ in range(1 if height % 8 == width % 8 == 0 else 8):
        whole = _plane(_coefficients(plane).clamp(low, high))
        rows = torch.cat(
            [whole[..., : height - 1, :], whole[..., height - 1 :, :].mean(-2, keepdim=True)], -2
        )
        plane = torch.cat([rows[..., : width - 1], rows[..., width - 1 :].mean(-1, keepdim=True)], -1)
    return plane


def _standard_tables(quality: int) -> tuple[Table, ...]:
    """libjpeg's for luma and chroma, read from a file that Pillow writes."""
    from PIL import Image

    with io.BytesIO() as file:
        Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            return tuple(tuple(image.quantization[i]) for i in range(2))  # type: ignore[attr-defined]


def _checked_tables(tables: Sequence[Sequence[int]]) -> tuple[Table, ...]:
    if len(tables) > 3:
        raise ValueError(f"tables: expected one to three, got {len(tables)}; see Pillow's image.quantization")
    for table in tables:
        if len(table) != 64 or not all(step == int(step) and 1 <= step <= 32767 for step in table):
            raise ValueError(
                f"tables: expected 64 whole numbers from 1 to 32767 in each, got {len(table)}: {list(table)}"
            )
    return tuple(tuple(map(int, table)) for table in tables)
