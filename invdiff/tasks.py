"""Tasks: from words and files (inpaint, a mask) to an operator A and a measurement y = A(x) + noise.

Everything a user can get wrong is found before torch is imported: `check` reads the options,
`Task.measurement` one picture against them. Only `Measurement.problem` and `degrade` build tensors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from .catalog import SPECTRAL, Ability, TaskInfo, check_method, task_info
from .errors import RequestError, unknown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .images import Array, Picture
    from .operators.base import Operator

Size = tuple[int, int]
Border = Literal["valid", "circular", "reflect", "replicate", "zero"]
Resampling = Literal["bicubic", "box", "lanczos"]
Colour = Literal["black", "white"]
Noise = float | Literal["auto"]

USED_BY: dict[str, str] = {
    "mask": "inpaint",
    "mask_keep": "inpaint",
    "kernel": "deblur",
    "border": "deblur",
    "scale": "sr",
    "sr_kernel": "sr",
}
"""Option → the one task that reads it. The noise is everybody's."""

HINTS = {
    "mask": "--mask FILE or FOLDER, white where pixels are to be filled in",
    "kernel": "--kernel gaussian:1.6, disk:3, motion:15,45, or a file",
    "scale": "--scale 2, 3, 4, ...",
    "noise": "--noise 0.1 (image units; 8-bit 25 is 0.098), or auto",
}

LARGEST_SCALE = 16


@dataclass(frozen=True, kw_only=True)
class Options:
    """A task's options as they were given; None: not given."""

    mask: str | None = None
    mask_keep: str | None = None
    kernel: str | None = None
    border: str | None = None
    scale: int | None = None
    sr_kernel: str | None = None
    noise: str | float | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A checked request: all of y = A(x) + noise that does not depend on the picture."""

    info: TaskInfo
    noise: Noise = 0.0
    """σ_y in image units; "auto": estimated from each picture, at least what its file's rounding leaves."""
    masks: Masks | None = None
    kernel: Kernel | None = None
    border: Border = "valid"
    scale: int = 1
    sr_kernel: Resampling = "bicubic"

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def abilities(self) -> frozenset[Ability]:
        """What the operator can do, as `catalog.check_method` asks."""
        if self.kernel and (self.border == "circular" or self.kernel.separable):
            return SPECTRAL
        return self.info.abilities

    @property
    def margin(self) -> Size:
        """By how much the unknown picture is larger than the measurement: a valid blur has seen beyond its
        edges.
        """
        if self.kernel is None or self.border != "valid":
            return 0, 0
        return self.kernel.size[0] - 1, self.kernel.size[1] - 1

    def unknown_size(self, measured: Size) -> Size:
        """The (height, width) of x for that of y."""
        return measured[0] * self.scale + self.margin[0], measured[1] * self.scale + self.margin[1]

    def measured_size(self, unknown: Size) -> Size:
        """The (height, width) of y for that of x."""
        return -(-unknown[0] // self.scale) - self.margin[0], -(-unknown[1] // self.scale) - self.margin[1]

    def describe(self) -> dict[str, Any]:
        """The options as resolved, for records: JSON-able."""
        known: dict[str, Any] = {"task": self.name, "noise": self.noise}
        if self.masks:
            known |= {"mask_keep": self.masks.keep}
        if self.kernel:
            known |= {
                "kernel": self.kernel.name,
                "kernel_sha256": self.kernel.checksum,
                "border": self.border,
            }
        if self.scale > 1:
            known |= {"scale": self.scale, "sr_kernel": self.sr_kernel}
        return known

    def measurement(self, picture: Picture, method: str = "auto") -> Measurement:
        """A picture as a measurement of this task. RequestError where the two do not fit, or `method` cannot
        do it.
        """
        self._check_kernel(picture.path, picture.size)
        mask = self.masks.read(picture) if self.masks else None
        sigma_y = self._sigma_y(picture, mask)
        check_method(method, self.abilities, sigma_y)
        notes = (*picture.notes, *(mask.notes if mask else ()))
        if mask and self.masks and self.masks.given == "alpha":
            import numpy as np

            picture = replace(picture, alpha=np.ones(picture.size, np.float32))
        return Measurement(task=self, picture=picture, mask=mask, sigma_y=sigma_y, notes=notes)

    def operator(self, channels: int, size: Size, keep: Array | None = None) -> Operator:
        """A for a picture x of this (height, width). keep: the mask, for inpainting."""
        import torch

        from . import operators

        shape = (channels, *size)
        if keep is not None:
            return operators.Mask(torch.from_numpy(keep.copy()), channels)
        if self.kernel is not None:
            return operators.Blur(self.kernel.tensor(), shape, self.border)
        if self.scale > 1:
            return operators.Downsample(self.scale, shape, self.sr_kernel)
        return operators.Identity(shape)

    def _check_kernel(self, path: Path, size: Size) -> None:
        if self.kernel and (self.kernel.size[0] > size[0] or self.kernel.size[1] > size[1]):
            raise RequestError(
                f"{path}: the kernel {self.kernel.name} ({_by(self.kernel.size)}) is larger than the picture "
                f"({_by(size)}); give a smaller kernel or a larger picture"
            )

    def _sigma_y(self, picture: Picture, mask: MaskFile | None) -> float:
        if self.noise == "auto":
            return max(estimate_noise(picture, mask.keep if mask else None), picture.rounding)
        return self.noise


def check(name: str, options: Options, *, method: str = "auto", making: bool = False) -> Task:
    """A task's name and options as a checked request. making: masks may be made up, as in "random:0.8".

    RequestError for an unknown name, an option that is missing, wrong or not this task's, and a method that
    the task cannot use.
    """
    info = task_info(name)
    given = {key: value for key, value in vars(options).items() if value is not None}
    for key in given:
        if USED_BY.get(key, name) != name:
            raise RequestError(f"{_flag(key)} is for {USED_BY[key]}; {name} takes {_taken(name)}")
    for key in info.needs:
        if key not in given:
            raise RequestError(f"{name} needs {HINTS[key]}")
    task = Task(
        info=info,
        noise=parse_noise(options.noise, name),
        masks=parse_masks(options.mask, options.mask_keep, making) if options.mask is not None else None,
        border=_one_of("border", options.border, Border) if options.border else "valid",
        scale=_scale(options.scale),
        sr_kernel=_one_of("sr_kernel", options.sr_kernel, Resampling) if options.sr_kernel else "bicubic",
    )
    if (
        options.kernel is not None
    ):  # the only file read here, so last: what can be said without it has been said
        task = replace(task, kernel=parse_kernel(options.kernel))
    check_method(method, task.abilities, _known(task.noise))
    return task


def _scale(scale: int | None) -> int:
    if scale is not None and not 2 <= scale <= LARGEST_SCALE:
        raise RequestError(f"--scale: expected a whole number from 2 to {LARGEST_SCALE}, got {scale}")
    return scale or 1


def parse_noise(given: str | float | None, task: str) -> Noise:
    """--noise as σ_y in image units, or "auto". RequestError if it is negative, above 1 or no number.

    Not given it is 0; but a blur cannot be undone without knowing the noise, so there it is estimated.
    """
    if given is None:
        return "auto" if task == "deblur" else 0.0
    if given == "auto":
        return "auto"
    sigma_y = _number(str(given))
    if sigma_y is None or not 0 <= sigma_y <= 1:
        raise RequestError(
            "--noise: expected auto, or a standard deviation from 0 to 1 in image units (8-bit 25 is 0.098), "
            f"got {given}"
        )
    if task == "denoise" and sigma_y == 0:
        raise RequestError(
            "--noise 0 leaves denoise nothing to do; give the noise's standard deviation, or auto"
        )
    return sigma_y


# -------------------------------------------------------------------------------------------------------
# masks


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskFile:
    """A picture's mask. keep: (H, W), 1 = observed, 0 = to fill."""

    keep: Array
    path: Path
    checksum: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Where the masks come from: one file for all pictures, a folder of files by name, or "alpha"."""

    given: str
    keep: Colour = "black"
    """The colour in the file of what is observed."""
    made: str = ""
    """How a mask is to be made up (see `make_mask`), "" where it comes from a file."""

    def path_for(self, picture: Path) -> Path:
        """The mask's file. In a folder NAME_mask.* or NAME.* for the picture NAME.*, whatever the endings."""
        given = Path(self.given)
        if not given.is_dir():
            return given
        from .images import list_images

        there = {p.stem.casefold(): p for p in list_images(given) if p.resolve() != picture.resolve()}
        for stem in (f"{picture.stem}_mask", picture.stem):
            if stem.casefold() in there:
                return there[stem.casefold()]
        raise RequestError(
            f"{picture}: no mask for it in {given}; expected {picture.stem}.* or {picture.stem}_mask.* there"
        )

    def read(self, picture: Picture) -> MaskFile:
        """The picture's mask. RequestError where it is missing, of another size, or fills in everything."""
        from .images import binary_mask, read_image

        if self.given == "alpha":
            if picture.alpha is None:
                raise RequestError(f"{picture.path}: --mask alpha needs a picture with an alpha channel")
            keep = (picture.alpha >= 0.5).astype("float32")
            mask = MaskFile(keep=keep, path=picture.path, checksum=picture.checksum)
        else:
            file = read_image(self.path_for(picture.path))
            keep, note = binary_mask(file, self.keep)
            mask = MaskFile(keep=keep, path=file.path, checksum=file.checksum, notes=(note,) if note else ())
        return self.checked(mask, picture.path, picture.size)

    def checked(self, mask: MaskFile, picture: Path, size: Size) -> MaskFile:
        """The mask, if it is of the picture's size and keeps something; a note if it keeps everything."""
        if mask.keep.shape != size:
            raise RequestError(
                f"{mask.path}: the mask is {_by(mask.keep.shape)}, the picture {picture} is {_by(size)}; "
                "expected the same size"
            )
        other = "black" if self.keep == "white" else "white"
        if not mask.keep.any():
            raise RequestError(
                f"{mask.path}: everything is to be filled in ({other} all over); if the mask is meant the "
                f"other way round, add --mask-keep {other}"
            )
        if mask.keep.all():
            note = f"{mask.path}: nothing to fill in, the mask has no {other}; is it the other way round?"
            return replace(mask, notes=(*mask.notes, note))
        return mask


def parse_masks(given: str, keep: str | None, making: bool) -> Masks:
    """--mask and --mask-keep. RequestError for a file or folder that is not there."""
    colour: Colour = _one_of("mask_keep", keep, Colour) if keep else "black"
    if given == "alpha" or Path(given).exists():
        return Masks(given=given, keep=colour)
    maker = given.partition(":")[0]
    if maker not in MASK_MAKERS:
        made = f", or one of {', '.join(MASK_EXAMPLES)}" if making else ""
        raise RequestError(f"--mask {given}: no such file or folder{made}")
    if not making:
        raise RequestError(
            f"--mask {given}: expected a file or folder; such masks are made by invdiff degrade"
        )
    _maker(given)
    return Masks(given=given, keep=colour, made=given)


def make_mask(how: str, size: Size, seed: int = 0) -> Array:
    """A made-up mask, keep (H, W) with 0 to fill: "random:0.8" (that part missing), "box:64" (a square hole
    in the
    middle), "scratch" or "text". The same seed gives the same mask."""
    import numpy as np

    draw, value = _maker(how)
    keep = np.ones(size, np.float32)
    keep[draw(size, value, np.random.default_rng(seed))] = 0
    return keep


Missing = Any  # a boolean array (H, W); numpy is not imported for its name


def _random(size: Size, part: float, rng: np.random.Generator) -> Missing:
    return rng.random(size) < part


def _box(size: Size, side: float, rng: np.random.Generator) -> Missing:
    import numpy as np

    def middle(length: int) -> NDArray[np.bool_]:
        start = (length - int(side)) // 2
        at = np.arange(length)
        return (at >= start) & (at < start + int(side))

    return middle(size[0])[:, None] & middle(size[1])


def _scratch(size: Size, count: float, rng: np.random.Generator) -> Missing:
    """Broken lines across the picture, about one per cent of its shorter side wide."""
    import numpy as np
    from PIL import Image, ImageDraw

    image = Image.new("1", (size[1], size[0]))
    pen = ImageDraw.Draw(image)
    width = max(2, round(min(size) / 90))
    for _ in range(int(count)):
        ends = rng.random((2, 2)) * (size[1], size[0])
        middle = ends.mean(0) + rng.normal(0, 0.08 * min(size), 2)
        pen.line([tuple(p) for p in (ends[0], middle, ends[1])], fill=1, width=width, joint="curve")
    return np.asarray(image)


def _text(size: Size, height: float, rng: np.random.Generator) -> Missing:
    """Lines of words over the whole picture; height: of the letters, as a part of the picture's."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (size[1], size[0]))
    pen = ImageDraw.Draw(image)
    letters = max(8, round(height * size[0]))
    words = np.array(
        ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "photograph"]
    )
    for top in range(letters // 2, size[0], 2 * letters):
        line = " ".join(rng.permutation(words))
        pen.text(
            (-int(rng.integers(0, letters * 4)), top), line, fill=255, font=ImageFont.load_default(letters)
        )
    return np.asarray(image) > 64


Maker = Callable[[Size, float, Any], Missing]
MASK_MAKERS: dict[str, tuple[Maker, float | None, float, float]] = {  # draws it, default, least and most
    "random": (_random, 0.8, 0.001, 0.999),
    "box": (_box, None, 1, 1e5),
    "scratch": (_scratch, 12, 1, 1000),
    "text": (_text, 0.08, 0.01, 0.5),
}
MASK_EXAMPLES = ("random:0.8", "box:64", "scratch", "text")


def _maker(how: str) -> tuple[Maker, float]:
    name, colon, given = how.partition(":")
    if name not in MASK_MAKERS:
        raise RequestError(f"mask {how!r}: expected one of {', '.join(MASK_EXAMPLES)}")
    draw, default, least, most = MASK_MAKERS[name]
    value = _number(given) if colon else default
    if value is None or not least <= value <= most:
        raise RequestError(f"mask {how!r}: expected {name}: and a number from {least:g} to {most:g}")
    return draw, value


# -----------------------------------------------------------------------------------------------------
# kernels


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """A blur kernel: numbers from a file, or a formula's name and numbers, whose size is known beforehand."""

    name: str
    size: Size
    checksum: str = ""
    values: NDArray[np.float64] | None = None
    formula: tuple[str, tuple[float, ...]] = field(default=("", ()))

    @property
    def separable(self) -> bool:
        """Whether it is an outer product, whose blur has singular values on every border."""
        import numpy as np

        if self.values is None:
            return self.formula[0] == "gaussian"
        return bool(np.linalg.matrix_rank(self.values, tol=1e-13 * np.abs(self.values).max()) == 1)

    def tensor(self) -> Tensor:
        """(h, w), float64, sum 1."""
        import torch

        from .operators import kernels

        if self.values is not None:
            return torch.from_numpy(self.values.copy())
        makers: dict[str, Callable[..., Tensor]] = {
            "gaussian": kernels.gaussian,
            "disk": kernels.disk,
            "motion": kernels.motion,
        }
        name, numbers = self.formula
        return makers[name](*numbers)


def _gaussian_size(std: float) -> Size:
    side = 2 * int(4 * std + 0.5) + 1
    return side, side


def _disk_size(radius: float) -> Size:
    side = 2 * math.ceil(radius - 0.5) + 1
    return side, side


def _motion_size(length: float, angle: float = 0.0) -> Size:
    half, turn = max(0.0, (length - 1) / 2), math.radians(angle)
    tall, wide = (math.ceil(half * abs(d) - 1e-9) for d in (math.sin(turn), math.cos(turn)))
    return 2 * tall + 1, 2 * wide + 1


# The sizes of operators.kernels' results, since that module needs torch; a test holds the two equal.
FORMULAS: dict[str, tuple[str, tuple[int, ...], Callable[..., Size]]] = {  # usage, how many numbers, size
    "gaussian": ("gaussian:STD", (1,), _gaussian_size),
    "disk": ("disk:RADIUS", (1,), _disk_size),
    "motion": ("motion:LENGTH,ANGLE", (1, 2), _motion_size),
}


def parse_kernel(given: str) -> Kernel:
    """--kernel: gaussian:STD, disk:RADIUS, motion:LENGTH,ANGLE (pixels, degrees), or a file, with :N for the
    Nth
    kernel of a .mat file. RequestError for a file that holds no usable kernel."""
    name, colon, numbers = given.partition(":")
    if name in FORMULAS and not Path(given).exists():
        return _formula(given, name, numbers)
    path, index = given, None
    if not Path(given).exists() and colon and given.rpartition(":")[2].isdecimal():
        path, index = given.rpartition(":")[0], int(given.rpartition(":")[2])
    if not Path(path).exists() and not Path(path).suffix:
        raise unknown("kernel", name, [usage for usage, _, _ in FORMULAS.values()] + ["a file"])
    from .images import read_kernel

    values = read_kernel(path, index)
    checksum = hashlib.sha256(values.tobytes()).hexdigest()
    return Kernel(name=given, size=(values.shape[0], values.shape[1]), checksum=checksum, values=values)


def _formula(given: str, name: str, numbers: str) -> Kernel:
    usage, counts, size = FORMULAS[name]
    values = tuple(_number(part) for part in numbers.split(","))
    if None in values or len(values) not in counts or not 0 < cast(float, values[0]) <= 1000:
        raise RequestError(f"--kernel {given}: expected {usage} with a size in pixels from 0 to 1000")
    known = cast(tuple[float, ...], values)
    return Kernel(name=given, size=size(*known), formula=(name, known))


# ------------------------------------------------------------------------------------- measurements and
# problems


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """A picture that was checked against its task: all that a restoration of it needs but the prior."""

    task: Task
    picture: Picture
    mask: MaskFile | None
    sigma_y: float
    """Resolved noise, image units."""
    notes: tuple[str, ...] = ()

    def problem(self, channels: int | None) -> Problem:
        """Tensors for a prior of so many channels (None: any).

        A grey picture meets a colour prior as three equal channels, averaged in the end. Three copies of one
        measurement count as one where each has σ_y·√3: Σ_c (y − x_c)²/(2·3σ_y²) = (y − x)²/(2σ_y²), grey x.
        A colour picture meets a grey prior channel by channel. RequestError for any other number of channels.
        """
        from .images import to_tensor

        y = to_tensor(self.picture)
        own = self.picture.channels
        if channels not in (None, 1, 3):
            raise RequestError(f"expected a prior of 1 or 3 channels for pictures, got one of {channels}")
        fold: Fold = "none" if channels in (None, own) else "repeat" if own == 1 else "split"
        if fold == "repeat":
            y = y.expand(-1, 3, -1, -1).contiguous()
        elif fold == "split":
            y = y.transpose(0, 1).contiguous()
        size = self.task.unknown_size(self.picture.size)
        try:
            operator = _quietly(
                lambda: self.task.operator(y.shape[1], size, self.mask.keep if self.mask else None)
            )
        except RequestError:
            raise
        except (ValueError, TypeError) as error:
            raise RequestError(f"{self.picture.path}: {error}") from None
        sigma_y = min(1.0, self.sigma_y * 3**0.5) if fold == "repeat" else self.sigma_y
        y = operator.A(y) if self.mask else y  # what is to be filled in may hold anything
        return Problem(y=y, operator=operator, sigma_y=sigma_y, fold=fold, task=self.task)


Fold = Literal["none", "repeat", "split"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What `invdiff.restore` takes, and the way back from its samples to pictures."""

    y: Tensor
    operator: Operator
    sigma_y: float
    fold: Fold
    task: Task

    def pictures(self, samples: Tensor) -> Array:
        """(S, B, C, H, W) → (S, H, W, channels of the picture), not clipped, the margin of a valid blur cut
        off.
        """
        if self.fold == "split":
            samples = samples.transpose(1, 2)
        one = samples[:, 0]
        if self.fold == "repeat":
            one = one.mean(dim=1, keepdim=True)
        array = one.detach().float().cpu().permute(0, 2, 3, 1).numpy()
        return cut_margin(array, self.task.margin)


def cut_margin(pictures: Array, margin: Size) -> Array:
    """(..., H, W, C) without what only the blur has seen; a kernel's middle is at (h // 2, w // 2)."""
    height, width = pictures.shape[-3] - margin[0], pictures.shape[-2] - margin[1]
    top, left = margin[0] // 2, margin[1] // 2
    return pictures[..., top : top + height, left : left + width, :]


def align_reference(reference: Array, size: Size, task: Task) -> Array | None:
    """The reference (H, W, C) cut to a result's size; None where it cannot be the same picture.

    It may be larger by a valid blur's margin, or smaller than an enlargement by less than the factor.
    """
    height, width = reference.shape[:2]
    if (height - size[0], width - size[1]) == task.margin:
        return cut_margin(reference, task.margin)
    if 0 <= size[0] - height < task.scale and 0 <= size[1] - width < task.scale:
        return reference
    return None


def degrade(task: Task, picture: Picture, mask: MaskFile | None, seed: int) -> tuple[Array, str]:
    """y = A(x) + noise of a picture x: (h, w, C), unclipped, and A in words. Seed and picture fix noise."""
    import torch

    from .images import to_array, to_tensor
    from .operators import GaussianNoise

    operator = _quietly(lambda: task.operator(picture.channels, picture.size, mask.keep if mask else None))
    stream = hashlib.sha256(f"{seed} {picture.checksum}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(stream[:7], "big"))
    y = GaussianNoise(_known(task.noise)).sample(operator.A(to_tensor(picture)), generator)
    # Missing pixels are black: what is not observed has no noise either.
    return to_array(operator.A(y) if mask else y), operator.describe()


def check_degradable(task: Task, picture: Picture) -> None:
    """RequestError where a picture is too small to be measured so."""
    task._check_kernel(picture.path, picture.size)
    left = task.measured_size(picture.size)
    if min(left) < 2:
        raise RequestError(
            f"{picture.path}: {_by(picture.size)} pixels would leave {_by(left)}; expected 2×2 or more"
        )


def estimate_noise(picture: Picture, keep: Array | None = None) -> float:
    """σ of white noise from a picture's finest diagonal wavelet coefficients d: median |d| / 0.6745, over
    channels.

    As `skimage.restoration.estimate_sigma` (Daubechies-2), but without its extra dependency, and with only
    those coefficients that see kept pixels alone. Source: Donoho and Johnstone 1994,
    doi:10.1093/biomet/81.3.425. RequestError where a mask leaves too few.
    """
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    root = 3**0.5
    taps = np.array([1 - root, -(3 - root), 3 + root, -(1 + root)]) / (4 * 2**0.5)
    if min(picture.size) < 5:
        raise RequestError(f"{picture.path}: too small for --noise auto ({_by(picture.size)}); give a number")
    windows = sliding_window_view(picture.array, (4, 4), axis=(0, 1))[::2, ::2]
    details = np.abs(np.einsum("ijcyx,y,x->cij", windows, taps, taps))
    if keep is not None:
        seen = sliding_window_view(keep, (4, 4))[::2, ::2].all(axis=(2, 3))
        if np.count_nonzero(seen) < 64:
            raise RequestError(f"{picture.path}: the mask leaves too little for --noise auto; give a number")
        details = details[:, seen]
    found = [np.median(d[d > 0]) if (d > 0).any() else 0.0 for d in details.reshape(len(details), -1)]
    return float(np.mean(found)) / 0.6744897501960817


# --------------------------------------------------------------------------------------------------------
# words


def _quietly(build: Callable[[], Operator]) -> Operator:
    """What an operator warns of (a mask that keeps everything) has been said before, in better words."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return build()


def _known(noise: Noise) -> float:
    """The noise, as far as it is known without a picture."""
    return noise if isinstance(noise, float) else 0.0


def _one_of(option: str, given: str, choices: Any) -> Any:
    if given not in get_args(choices):
        raise unknown(_flag(option), given, get_args(choices))
    return given


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def _taken(task: str) -> str:
    own = [_flag(option) for option, user in USED_BY.items() if user == task]
    return ", ".join([*own, "--noise"])


def _by(size: tuple[int, ...] | Mapping[str, int]) -> str:
    """(height, width) as people write it, width×height."""
    height, width = tuple(size)
    return f"{width}×{height}"
