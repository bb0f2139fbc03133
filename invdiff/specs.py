"""Operators in plain words: what a task's options or a YAML file ask for, before there is a picture, or torch.

A spec says how its operator is built for a picture's shape, which shape belongs to which measurement, and which
methods will be able to use it. `spec_files` reads them and puts them together.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from .catalog import (
    ANY,
    IDENTITY,
    LINEAR,
    MASK,
    OPERATOR_TASKS,
    PROXIMAL,
    SPECTRAL,
    Ability,
    enlargement,
)
from .errors import RequestError, unknown
from .masks import Colour, MaskFile, checked, read_mask_file
from .words import by, dims

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from .images import Array
    from .operators import Operator

Size = tuple[int, int]
Shape = tuple[int, int, int]
Measured = tuple[int, ...]
Border = Literal["valid", "circular", "reflect", "replicate", "zero"]
Resampling = Literal["bicubic", "box", "lanczos"]
Edges = Literal["renormalise", "reflect"]
Bayer = Literal["rggb", "bggr", "grbg", "gbrg"]
Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
Fold = Literal["repeat", "split"]

Kind = Literal[
    "identity", "mask", "diagonal", "circular", "separable", "spectral", "linear", "proximal", "any"
]
"""What an operator is to `operators.composed`, which says what becomes of two of them."""

ABILITIES: dict[Kind, frozenset[Ability]] = {
    "identity": IDENTITY,
    "mask": MASK,
    "diagonal": SPECTRAL,
    "circular": SPECTRAL,
    "separable": SPECTRAL,
    "spectral": SPECTRAL,
    "linear": LINEAR,
    "proximal": PROXIMAL,
    "any": ANY,
}

Trait = Literal["mixes", "chroma", "grey", "tones", "blurs", "numbers", "code"]
"""mixes: treats channels unlike, so that a grey picture cannot stand for three of them; chroma: does so but for
equal ones, so that a grey picture can, and a channel of three cannot stand for a picture; grey: one channel is
measured of all colours; tones: the picture has others than the measurement's file can hold; blurs: undoing it
amplifies noise; numbers: what is measured is no picture; code: it runs code of the user's."""

LARGEST_FACTOR = 16


@dataclass(frozen=True, kw_only=True)
class Spec(ABC):
    """An operator to be. Its fields are what YAML may say, with the operator's own defaults.

    RequestError from its methods for a shape or a file that does not fit.
    """

    name: ClassVar[str]
    own_kind: ClassVar[Kind] = "any"
    own_traits: ClassVar[frozenset[Trait]] = frozenset()

    @property
    def kind(self) -> Kind:
        return self.own_kind

    @property
    def traits(self) -> frozenset[Trait]:
        return self.own_traits

    @property
    def basis(self) -> str | None:
        """As `SpectralOperator.basis`: stacked operators of one basis have singular values."""
        return None

    def abilities(self, shape: Shape | None = None) -> frozenset[Ability]:
        """What the operator can do, as `catalog.check_method` asks; all there is where only code would tell."""
        if "code" not in self.traits:
            return ABILITIES[self.kind]
        if shape is None:
            return MASK | IDENTITY
        from .methods.defaults import abilities

        return abilities(self.operator(shape))

    def task(self, shape: Shape | None = None) -> str | None:
        """What undoing it is called, as `priors.conditional.task_of` says of the operator; None where only code, run
        for a shape, would tell."""
        return OPERATOR_TASKS[self.name]

    @abstractmethod
    def operator(self, shape: Shape) -> Operator:
        """The operator over pictures of this (C, H, W)."""

    def measured(self, shape: Shape) -> Measured:
        """The measurement's shape for a picture's."""
        return shape

    def unknown(self, measured: Measured) -> Shape:
        """The picture's shape for a measurement's."""
        if len(measured) != 3:
            raise RequestError(
                f"{self.name}: expected a measurement (C, H, W), got shape {dims(measured)}; say the picture's "
                "with --shape 3x256x256"
            )
        return measured[0], measured[1], measured[2]

    @property
    def overhang(self) -> Size:
        """By how much the picture is larger than what is measured of it: a valid blur has seen beyond its edges."""
        return 0, 0

    @property
    def reduction(self) -> int:
        """By what factor the measurement has fewer rows and columns."""
        return 1

    def pictorial(self, shape: Shape | None = None) -> bool:
        """Whether what is measured of a picture is one itself; None: as far as can be said without its shape."""
        return "numbers" not in self.traits

    def settled(self, y: Tensor, shape: Shape, noisy: bool) -> Tensor:
        """A measurement (1, ...) that went through a file, without what the operator cannot have given."""
        return y

    def folded(self, y: Tensor, shape: Shape, fold: Fold) -> Tensor:
        """A measurement (1, C, ...) of such a picture as (1, 3, ...), of three equal channels, or (C, 1, ...), each."""
        if fold == "split":
            return y.transpose(0, 1).contiguous()
        return y.expand(-1, 3, *y.shape[2:]).contiguous()

    def repeated(self) -> Spec:
        """What measures three equal channels as `folded` has it, for "repeat"."""
        return self

    def notes(self, shape: Shape) -> tuple[str, ...]:
        """What is to be said of its files before it is used."""
        return ()

    def at(self, folder: Path) -> Self:
        """The same, its files looked for in `folder`."""
        return self

    def options(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as YAML holds them."""
        given = {one.name: (getattr(self, one.name), one.default) for one in fields(self)}
        return {key: _plain(value) for key, (value, default) in given.items() if value != default}

    def dump(self) -> Any:
        """As YAML says it."""
        return {self.name: self.options()}

    def describe(self) -> Any:
        """For records: JSON-able; files by their checksums."""
        return self.dump()


@dataclass(frozen=True, kw_only=True)
class Identity(Spec):
    """y = x: nothing but noise."""

    name = "identity"
    own_kind = "identity"

    @property
    def basis(self) -> str:
        return "pixels"

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.Identity(shape)


# -------------------------------------------------------------------------------------------------------- masks


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept(Spec):
    """A mask that was read, keep (H, W); not in YAML. None: it will be each picture's own."""

    name = "mask"
    own_kind = "mask"

    keep: Array | None = None

    def operator(self, shape: Shape) -> Operator:
        import torch

        from . import operators

        if self.keep is None:
            raise RequestError("mask: expected a picture with its mask, got none")
        return operators.Mask(torch.from_numpy(self.keep.copy()), shape[0])

    def settled(self, y: Tensor, shape: Shape, noisy: bool) -> Tensor:
        return self.operator(shape).A(y)  # what is to be filled in may hold anything


PATTERNS: dict[
    str, tuple[tuple[str, ...], tuple[str, ...]]
] = {  # what operators.patterns' need, and may have
    "box": (("height",), ("width", "top", "left")),
    "random": (("missing",), ("seed", "per_channel")),
    "stripes": (("width", "period"), ("vertical",)),
    "lines": ((), ("every", "offset", "vertical")),
    "border": (("margin",), ()),
    "strokes": ((), ("missing", "seed")),
}


@dataclass(frozen=True, kw_only=True)
class Mask(Spec):
    """y = keep · x. A pattern with its numbers (see `operators.patterns`), or a file, white where to fill in."""

    name = "mask"
    own_kind = "mask"

    pattern: Literal["box", "random", "stripes", "lines", "border", "strokes"] | None = None
    file: str | None = None
    mask_keep: Colour = "black"
    height: int | None = None
    width: int | None = None
    top: int | None = None
    left: int | None = None
    missing: float | None = None
    seed: int | None = None
    per_channel: bool | None = None
    period: int | None = None
    vertical: bool | None = None
    every: int | None = None
    offset: int | None = None
    margin: int | None = None

    def __post_init__(self) -> None:
        if (self.pattern is None) == (self.file is None):
            raise ValueError("expected either pattern: box, random, ..., or file: a picture")
        needs, may = PATTERNS[self.pattern] if self.pattern else ((), ())
        _check_numbers(self._numbers, self.pattern or "a file", needs, may)
        if self.missing is not None and not 0 < self.missing < 1:
            raise ValueError(
                f"missing: expected the part of the pixels to lose, above 0 and below 1, got {self.missing:g}"
            )
        for key, least in (
            ("height", 1),
            ("top", 0),
            ("left", 0),
            ("period", 2),
            ("every", 2),
            ("margin", 1),
        ):
            _check_whole(key, getattr(self, key), least)
        _check_whole("width", self.width, 1, self.period - 1 if self.period else None)
        _check_whole("offset", self.offset, 0, (self.every or 2) - 1)
        _check_seed(self.seed)

    @property
    def _numbers(self) -> dict[str, Any]:
        return {k: v for k, v in self.options().items() if k not in ("pattern", "file", "mask_keep")}

    @property
    def basis(self) -> str:
        return "pixels"

    @property
    def traits(self) -> frozenset[Trait]:
        return frozenset({"mixes"}) if self.per_channel else frozenset()

    def operator(self, shape: Shape) -> Operator:
        import torch

        from . import operators

        if self.file is not None:
            return operators.Mask(torch.from_numpy(self._read(shape).keep), shape[0])
        numbers, draw = self._numbers, getattr(operators.patterns, str(self.pattern))
        if numbers.pop("per_channel", False):
            numbers["channels"] = shape[0]
        return operators.Mask(draw(shape[1:], **numbers), shape[0])

    def measured(self, shape: Shape) -> Measured:
        if self.file is not None:
            self._read(shape)
        else:
            try:
                self._check_size(*shape[1:])
            except ValueError as error:
                raise RequestError(f"mask: {self.pattern}: {error}; the picture is {by(shape[1:])}") from None
        return shape

    def _check_size(self, rows: int, columns: int) -> None:
        """ValueError where the pattern does not fit, or would leave all pixels or none."""
        along = columns if self.vertical else rows
        if self.pattern == "box":
            height = self.height or 0
            width = self.width or height
            _check_whole("height", height, 1, rows)
            _check_whole("width", width, 1, columns)
            _check_whole("top", self.top, 0, rows - height)
            _check_whole("left", self.left, 0, columns - width)
            if (height, width) == (rows, columns):
                raise ValueError("expected a hole smaller than the picture, got all of it")
        elif self.pattern == "border":
            _check_whole("margin", self.margin, 1, (min(rows, columns) - 1) // 2)
        elif self.pattern == "stripes" and self.period and along <= self.period - (self.width or 0):
            raise ValueError(f"period: expected one that reaches a stripe within {along}, got {self.period}")
        elif self.pattern == "lines":
            _check_whole("offset", self.offset, 0, along - 1)
        elif self.missing is not None and not 0 < round(self.missing * rows * columns) < rows * columns:
            raise ValueError(f"missing: expected some pixels kept and some lost, got {self.missing:g}")

    def notes(self, shape: Shape) -> tuple[str, ...]:
        return () if self.file is None else self._read(shape).notes

    def _read(self, shape: Shape) -> MaskFile:
        mask = read_mask_file(Path(str(self.file)), self.mask_keep)
        if mask.keep.shape != shape[1:]:
            raise RequestError(
                f"{self.file}: the mask is {by(mask.keep.shape)}, the picture {by(shape[1:])}; expected the same size"
            )
        return checked(mask, mask.path, shape[1:], self.mask_keep)

    def settled(self, y: Tensor, shape: Shape, noisy: bool) -> Tensor:
        return self.operator(shape).A(y)

    def at(self, folder: Path) -> Self:
        return self if self.file is None else replace(self, file=str(folder / Path(self.file).expanduser()))

    def describe(self) -> Any:
        if self.file is None:
            return self.dump()
        checksum = read_mask_file(Path(self.file), self.mask_keep).checksum
        return {self.name: {"file_sha256": checksum, "mask_keep": self.mask_keep}}


@dataclass(frozen=True, kw_only=True)
class Diagonal(Spec):
    """y = weights · x, pixel by pixel: a flat field. file: .npy of (H, W) or (C, H, W), or a picture, 0 to 1."""

    name = "diagonal"
    own_kind = "diagonal"

    file: str

    @property
    def basis(self) -> str:
        return "pixels"

    @property
    def traits(self) -> frozenset[Trait]:
        alike = (self._weights == self._weights[:1]).all()
        return frozenset({"tones"}) if alike else frozenset({"tones", "mixes"})

    def operator(self, shape: Shape) -> Operator:
        import torch

        from . import operators

        self.measured(shape)
        return operators.Diagonal(torch.from_numpy(self._weights.copy()).expand(shape))

    def measured(self, shape: Shape) -> Measured:
        found = self._weights.shape
        if found[1:] != shape[1:] or found[0] not in (1, shape[0]):
            raise RequestError(
                f"{self.file}: expected weights of the picture's size, {dims(shape)} or {dims(shape[1:])}, got "
                f"{dims(found)}"
            )
        return shape

    def at(self, folder: Path) -> Self:
        return replace(self, file=str(folder / Path(self.file).expanduser()))

    def describe(self) -> Any:
        return {self.name: {"file_sha256": self._read[1]}}

    @property
    def _weights(self) -> Array:
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[Array, str]:
        """(C, H, W), one channel where all are alike to the file, and the file's checksum."""
        from .images import read_image, read_numbers

        if Path(self.file).suffix.lower() == ".npy":
            numbers = read_numbers(self.file)
            weights, checksum = numbers.array, numbers.checksum
        else:
            picture = read_image(self.file)
            weights, checksum = picture.array.transpose(2, 0, 1), picture.checksum
        weights = weights[None] if weights.ndim == 2 else weights
        if weights.ndim != 3:
            raise RequestError(
                f"{self.file}: expected weights (H, W) or (C, H, W), got {dims(weights.shape)}"
            )
        if not weights.any():
            raise RequestError(f"{self.file}: expected weights that are not all zero")
        return weights, checksum


# -------------------------------------------------------------------------------------------- blurs, fewer pixels


def _gaussian_size(std: float, size: int | None = None) -> Size:
    side = 2 * int(4 * std + 0.5) + 1 if size is None else size
    return side, side


def _disk_size(radius: float) -> Size:
    side = 2 * math.ceil(radius - 0.5) + 1
    return side, side


def _motion_size(length: float, angle: float = 0.0) -> Size:
    half, turn = max(0.0, (length - 1) / 2), math.radians(angle)
    tall, wide = (math.ceil(half * abs(d) - 1e-9) for d in (math.sin(turn), math.cos(turn)))
    return 2 * tall + 1, 2 * wide + 1


def _random_motion_size(size: int = 61, intensity: float = 0.5, seed: int = 0) -> Size:
    return size, size


@dataclass(frozen=True, kw_only=True)
class Formula:
    """A kernel of `operators.kernels`. usage: as --kernel has it, the numbers in the order of `typed`.

    size: that of its result, since that module needs torch; a test holds the two equal.
    """

    usage: str
    needs: tuple[str, ...]
    may: tuple[str, ...]
    typed: tuple[str, ...]
    size: Callable[..., Size]


FORMULAS: dict[str, Formula] = {
    "gaussian": Formula(
        usage="gaussian:STD", needs=("std",), may=("size",), typed=("std",), size=_gaussian_size
    ),
    "disk": Formula(usage="disk:RADIUS", needs=("radius",), may=(), typed=("radius",), size=_disk_size),
    "motion": Formula(
        usage="motion:LENGTH,ANGLE",
        needs=("length",),
        may=("angle",),
        typed=("length", "angle"),
        size=_motion_size,
    ),
    "random_motion": Formula(
        usage="random:SEED,SIZE,INTENSITY",
        needs=(),
        may=("seed", "size", "intensity"),
        typed=("seed", "size", "intensity"),
        size=_random_motion_size,
    ),
}


@dataclass(frozen=True, kw_only=True)
class KernelSpec(Spec):
    """What operators with a blur kernel share. kernel: a name of FORMULAS, with its numbers, or a file."""

    own_traits = frozenset({"blurs"})

    kernel: str = field(metadata={"values": "gaussian|disk|motion|random_motion|FILE"})
    std: float | None = None
    radius: float | None = None
    length: float | None = None
    angle: float | None = None
    size: int | None = None
    intensity: float | None = None
    seed: int | None = None
    border: Border = "circular"

    def __post_init__(self) -> None:
        formula = FORMULAS.get(self.kernel)
        if formula is None:
            if not Path(self.kernel).suffix and not Path(self.kernel).exists():
                raise unknown("kernel", self.kernel, [*FORMULAS, "a file"])
            _check_numbers(self._numbers, "a file", (), ())
            return
        _check_numbers(self._numbers, self.kernel, formula.needs, formula.may)
        for key in ("std", "radius", "length", "size"):
            value = self._numbers.get(key, 1)
            if not 0 < value <= 1000:
                raise ValueError(f"{key}: expected a size in pixels above 0, up to 1000, got {value:g}")
        if self.size is not None and self.size % 2 == 0:
            raise ValueError(f"size: expected an odd number of pixels, got {self.size}")
        if self.angle is not None and not math.isfinite(self.angle):
            raise ValueError(f"angle: expected a finite number of degrees, got {self.angle:g}")
        if self.intensity is not None and not 0 <= self.intensity <= 1:
            raise ValueError(f"intensity: expected a number from 0 to 1, got {self.intensity:g}")
        _check_seed(self.seed)

    @property
    def _numbers(self) -> dict[str, Any]:
        keys = ("std", "radius", "length", "angle", "size", "intensity", "seed")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}

    @property
    def kernel_name(self) -> str:
        """As --kernel has it: gaussian:1.6."""
        formula = FORMULAS.get(self.kernel)
        if formula is None:
            return self.kernel
        given = ",".join(f"{self._numbers[key]:g}" for key in formula.typed if key in self._numbers)
        return f"{formula.usage.partition(':')[0]}:{given}"

    @cached_property
    def values(self) -> NDArray[Any] | None:
        """The kernel's numbers, where they come from a file; FILE.mat:N is the Nth."""
        if self.kernel in FORMULAS:
            return None
        from .images import read_kernel

        path, colon, index = self.kernel.rpartition(":")
        if colon and index.isdecimal() and not Path(self.kernel).exists():
            return read_kernel(path, int(index))
        return read_kernel(self.kernel)

    @property
    def kernel_size(self) -> Size:
        """(height, width), known without building it."""
        if self.values is not None:
            return self.values.shape[0], self.values.shape[1]
        return FORMULAS[self.kernel].size(**self._numbers)

    @property
    def checksum(self) -> str:
        """SHA-256 of a file's numbers; "" for a formula."""
        return "" if self.values is None else hashlib.sha256(self.values.tobytes()).hexdigest()

    @property
    def outer_product(self) -> bool:
        """Whether it is one, whose blur has singular values on every border."""
        import numpy as np

        if self.values is None:
            return self.kernel == "gaussian"
        return bool(np.linalg.matrix_rank(self.values, tol=1e-13 * np.abs(self.values).max()) == 1)

    def tensor(self) -> Tensor:
        """The kernel, (h, w), float64, sum 1."""
        import torch

        from .operators import kernels

        if self.values is not None:
            return torch.from_numpy(self.values.copy())
        return cast("Tensor", getattr(kernels, self.kernel)(**self._numbers))

    @property
    def overhang(self) -> Size:
        if self.border != "valid":
            return 0, 0
        return self.kernel_size[0] - 1, self.kernel_size[1] - 1

    def measured(self, shape: Shape) -> Measured:
        self._check_size(shape[1:])
        rows, columns = (n - lost for n, lost in zip(shape[1:], self.overhang, strict=True))
        return _fewer((shape[0], rows, columns), self.reduction)

    def unknown(self, measured: Measured) -> Shape:
        channels, *size = super().unknown(measured)
        rows, columns = (n * self.reduction for n in size)
        self._check_size((rows, columns))
        return channels, rows + self.overhang[0], columns + self.overhang[1]

    def at(self, folder: Path) -> Self:
        if self.kernel in FORMULAS:
            return self
        return replace(self, kernel=str(folder / Path(self.kernel).expanduser()))

    def describe(self) -> Any:
        others = {"border": self.border} | ({"factor": self.reduction} if self.reduction > 1 else {})
        return {self.name: {"kernel": self.kernel_name, "kernel_sha256": self.checksum, **others}}

    def _check_size(self, size: Size) -> None:
        if self.kernel_size[0] > size[0] or self.kernel_size[1] > size[1]:
            raise RequestError(
                f"the kernel {self.kernel_name} ({by(self.kernel_size)}) is larger than the picture "
                f"({by(size)}); give a smaller kernel or a larger picture"
            )


@dataclass(frozen=True, kw_only=True)
class Blur(KernelSpec):
    """y = kernel ∗ x. border: what lies outside the picture."""

    name = "blur"

    @property
    def kind(self) -> Kind:
        if self.border == "circular":
            return "circular"
        return "separable" if self.outer_product else "linear"

    @property
    def basis(self) -> str | None:
        return "hartley" if self.border == "circular" else None

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.Blur(self.tensor(), shape, self.border)


@dataclass(frozen=True, kw_only=True)
class BlurDownsample(KernelSpec):
    """y: every factor-th pixel of kernel ∗ x."""

    name = "blur_downsample"

    factor: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_factor(self.factor)

    @property
    def kind(self) -> Kind:
        if self.border == "circular":
            return "spectral"
        return "separable" if self.outer_product else "linear"

    def abilities(self, shape: Shape | None = None) -> frozenset[Ability]:
        """Spectral with a circular border where the factor divides the picture's sides, as it does unless given."""
        uneven = shape is not None and (shape[1] % self.factor or shape[2] % self.factor)
        return LINEAR if self.border == "circular" and uneven else super().abilities(shape)

    @property
    def reduction(self) -> int:
        return self.factor

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.BlurDownsample(self.tensor(), self.factor, shape, self.border)

    def task(self, shape: Shape | None = None) -> str:
        return enlargement(self.factor, "blurred")


@dataclass(frozen=True, kw_only=True)
class Downsample(Spec):
    """y: fewer pixels by a whole factor, antialiased. edges: renormalise as Pillow, reflect as MATLAB."""

    name = "downsample"
    own_kind = "separable"

    factor: int
    kernel: Resampling = "bicubic"
    edges: Edges = "renormalise"

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    @property
    def reduction(self) -> int:
        return self.factor

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.Downsample(self.factor, shape, self.kernel, self.edges)

    def task(self, shape: Shape | None = None) -> str:
        return enlargement(self.factor, self.kernel + (", reflect" if self.edges == "reflect" else ""))

    def measured(self, shape: Shape) -> Measured:
        return _fewer(shape, self.factor)

    def unknown(self, measured: Measured) -> Shape:
        channels, height, width = super().unknown(measured)
        return channels, height * self.factor, width * self.factor


# ----------------------------------------------------------------------------------------------- colour and range


@dataclass(frozen=True, kw_only=True)
class _OneOfThree(Spec):
    """One channel measured of three colours."""

    own_kind = "spectral"
    own_traits = frozenset({"mixes", "grey", "tones"})

    def measured(self, shape: Shape) -> Measured:
        if shape[0] != 3:
            raise RequestError(f"{self.name}: expected a colour picture (3, H, W), got shape {dims(shape)}")
        return 1, shape[1], shape[2]

    def unknown(self, measured: Measured) -> Shape:
        channels, height, width = super().unknown(measured)
        if channels != 1:
            raise RequestError(
                f"{self.name}: expected a measurement of one channel, got shape {dims(measured)}"
            )
        return 3, height, width


@dataclass(frozen=True, kw_only=True)
class Demosaic(_OneOfThree):
    """y: one colour at each pixel, as behind a Bayer filter."""

    name = "demosaic"

    pattern: Bayer = "rggb"

    @property
    def basis(self) -> str:
        return "pixels"

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.Demosaic(shape, self.pattern)


@dataclass(frozen=True, kw_only=True)
class Grayscale(_OneOfThree):
    """y = Σ_c w_c x_c. weights: rec601, mean, or three numbers."""

    name = "grayscale"

    weights: Any = field(default="rec601", metadata={"values": "rec601|mean|[R, G, B]"})

    def __post_init__(self) -> None:
        given = self.weights
        three = isinstance(given, list | tuple) and len(given) == 3
        if three and all(isinstance(w, int | float) and not isinstance(w, bool) for w in given):
            vars(self).update(weights=tuple(map(float, given)))
        elif given not in ("rec601", "mean"):
            raise ValueError(f"weights: expected rec601, mean or three numbers, got {given!r}")
        if not any(self.numbers) or not all(map(math.isfinite, self.numbers)):
            raise ValueError(
                f"weights: expected finite numbers, not all zero, got {list(map(float, self.numbers))}"
            )

    @property
    def numbers(self) -> tuple[float, float, float]:
        """The weights; a test holds them equal to the operator's."""
        if isinstance(self.weights, tuple):
            return self.weights
        return (0.299, 0.587, 0.114) if self.weights == "rec601" else (1 / 3, 1 / 3, 1 / 3)

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.Grayscale(shape, self.weights)


@dataclass(frozen=True, kw_only=True)
class Clip(Spec):
    """y = clip(½ + gain·(x − ½), 0, 1): what is too bright or too dark is lost."""

    name = "clip"
    own_kind = "proximal"
    own_traits = frozenset({"tones"})

    gain: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.gain <= 1000:
            raise ValueError(f"gain: expected a number above 0, such as 2, got {self.gain:g}")

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.Clip(shape, self.gain)


@dataclass(frozen=True, kw_only=True)
class Quantize(Spec):
    """y: x rounded to one of 2^bits values."""

    name = "quantize"
    own_kind = "proximal"
    own_traits = frozenset({"tones"})

    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16:
            raise ValueError(f"bits: expected a whole number from 1 to 16, got {self.bits}")

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.Quantize(shape, self.bits)

    def settled(self, y: Tensor, shape: Shape, noisy: bool) -> Tensor:
        return y if noisy else self.operator(shape).A(y)  # a file of 8 bits holds thirds only nearly


@dataclass(frozen=True, kw_only=True)
class JPEG(Spec):
    """y: what a JPEG file gives back. quality: as Pillow counts; tables: a file's own, 64 numbers each, instead."""

    name = "jpeg"
    own_kind = "proximal"
    own_traits = frozenset({"chroma", "tones"})

    quality: int = 75
    subsampling: Subsampling = "4:2:0"
    tables: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality: expected a whole number from 1 to 100, got {self.quality}")
        if len(self.tables) > 3:
            raise ValueError(f"tables: expected one to three, got {len(self.tables)}")
        for table in self.tables:
            if len(table) != 64 or not all(1 <= step <= 32767 for step in table):
                raise ValueError(
                    f"tables: expected 64 whole numbers from 1 to 32767 in each, got {len(table)}: {list(table)}"
                )

    def repeated(self) -> Spec:
        """Luma compressed as the grey picture; chroma, which is none, kept to that by the finest steps."""
        from . import operators

        grey = self.operator((1, 8, 8))
        assert isinstance(grey, operators.JPEG)
        luma = tuple(round(255 * step) for step in grey.steps.tolist())
        return JPEG(tables=(luma, (1,) * 64), subsampling="4:4:4")

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        if self.tables:
            return operators.JPEG.like(shape, self.tables, self.subsampling)
        return operators.JPEG(shape, self.quality, self.subsampling)

    def measured(self, shape: Shape) -> Measured:
        if shape[0] not in (1, 3):
            raise RequestError(f"jpeg: expected a picture of 1 or 3 channels, got shape {dims(shape)}")
        return shape


# ------------------------------------------------------------------------------------------------------- sensing


@dataclass(frozen=True, kw_only=True)
class CompressedSensing(Spec):
    """y: part of the coefficients of an orthonormal transform. ratio: numbers measured per pixel."""

    name = "compressed_sensing"
    own_kind = "spectral"
    own_traits = frozenset({"numbers"})

    ratio: float
    transform: Literal["hadamard", "dct"] = "hadamard"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio: expected a number above 0, at most 1, got {self.ratio:g}")
        _check_seed(self.seed)

    @property
    def basis(self) -> str:
        return f"{self.transform}, signs {self.seed}"

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.CompressedSensing(shape, self.ratio, self.transform, self.seed)

    def measured(self, shape: Shape) -> Measured:
        n = shape[1] * shape[2]
        if self.transform == "hadamard" and n & (n - 1):
            raise RequestError(
                f"compressed_sensing: expected a power of two of pixels for hadamard, got {by(shape[1:])} = {n}; "
                "use transform: dct"
            )
        return shape[0], max(1, round(self.ratio * n))

    def unknown(self, measured: Measured) -> Shape:
        raise shape_needed(self.name)


@dataclass(frozen=True, kw_only=True)
class PhaseRetrieval(Spec):
    """y: magnitudes of the Fourier transform of the picture, padded by `oversampling`."""

    name = "phase_retrieval"
    own_traits = frozenset({"numbers"})

    oversampling: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.oversampling <= 16:
            raise ValueError(f"oversampling: expected a number from 1 to 16, got {self.oversampling:g}")

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.PhaseRetrieval(shape, self.oversampling)

    def measured(self, shape: Shape) -> Measured:
        height, width = (math.ceil(round(self.oversampling * n, 6)) for n in shape[1:])  # 1.1 · 10 is 11
        return shape[0], height, width

    def unknown(self, measured: Measured) -> Shape:
        raise shape_needed(self.name)


SPECS: dict[str, type[Spec]] = {
    "mask": Mask,
    "blur": Blur,
    "downsample": Downsample,
    "blur_downsample": BlurDownsample,
    "identity": Identity,
    "diagonal": Diagonal,
    "demosaic": Demosaic,
    "grayscale": Grayscale,
    "clip": Clip,
    "quantize": Quantize,
    "jpeg": JPEG,
    "compressed_sensing": CompressedSensing,
    "phase_retrieval": PhaseRetrieval,
}


def shape_needed(name: str) -> RequestError:
    return RequestError(
        f"{name}: its measurement does not tell the picture's shape; give shape: [3, 256, 256] in the file, or "
        "--shape 3x256x256"
    )


def _check_numbers(given: Mapping[str, Any], what: str, needs: Sequence[str], may: Sequence[str]) -> None:
    for key in needs:
        if key not in given:
            raise ValueError(f"{key} is missing; {what} needs {', '.join(needs)}")
    for key in given:
        if key not in (*needs, *may):
            taken = ", ".join((*needs, *may)) or "no numbers"
            raise ValueError(f"{key}: is not for {what}, which takes {taken}")


def _check_whole(key: str, value: int | None, least: int, most: int | None = None) -> None:
    if value is not None and not least <= value <= (math.inf if most is None else most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{key}: expected a whole number {wanted}, got {value}")


def _check_seed(seed: int | None) -> None:
    if seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"seed: expected a whole number from 0 to 2^32 - 1, got {seed}")


def _check_factor(factor: int) -> None:
    if not 2 <= factor <= LARGEST_FACTOR:
        raise ValueError(f"factor: expected a whole number from 2 to {LARGEST_FACTOR}, got {factor}")


def _fewer(shape: Shape, factor: int) -> Shape:
    if min(shape[1:]) < factor:
        raise RequestError(
            f"a picture of {by(shape[1:])} cannot be reduced by {factor}; take a smaller factor"
        )
    return shape[0], -(-shape[1] // factor), -(-shape[2] // factor)


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
