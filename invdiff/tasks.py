"""Tasks: from words and files (inpaint, a mask) to an operator A and a measurement y = A(x) + noise.

Everything a user can get wrong is found before torch is imported, code of the user's excepted: `check` reads the
options, `Task.measurement` one picture against them. Only `Measurement.problem` and `degrade` build tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .catalog import TASKS, check_method, task_info
from .errors import RequestError, unknown
from .masks import Colour, MaskFile, Masks, parse_masks
from .measurements import Measurement, quietly
from .noise import Noise, NoiseSpec, as_text, as_yaml, estimate_noise, known_sigma, parse_noise
from .spec_files import foreign, read_operator
from .specs import (
    FORMULAS,
    JPEG,
    LARGEST_FACTOR,
    Bayer,
    Blur,
    Border,
    Clip,
    Demosaic,
    Downsample,
    Grayscale,
    Identity,
    Kept,
    Measured,
    Quantize,
    Resampling,
    Shape,
    Spec,
    Subsampling,
)
from .words import about, by, dims, flag, number, one_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .images import Numbers, Picture

    Source = Picture | Numbers

OPERATOR = "operator"
"""What a request by --operator is called where a task has its name."""

USED_BY: dict[str, str] = {
    "mask": "inpaint",
    "mask_keep": "inpaint",
    "margin": "outpaint",
    "kernel": "deblur",
    "border": "deblur",
    "scale": "sr",
    "sr_kernel": "sr",
    "pattern": "demosaic",
    "quality": "dejpeg",
    "subsampling": "dejpeg",
    "gain": "hdr",
    "bits": "dequantize",
    "shape": OPERATOR,
}
"""Option → the one task that reads it, or OPERATOR. The noise is everybody's."""

HINTS = {
    "mask": "--mask FILE or FOLDER, white where pixels are to be filled in",
    "margin": "--margin 32, the pixels to add on each side",
    "kernel": "--kernel gaussian:1.6, disk:3, motion:15,45, random:SEED, or a file",
    "scale": "--scale 2, 3, 4, ...",
    "bits": "--bits 1, 2, 3, ..., to which the picture was rounded",
    "noise": "--noise 0.1 (image units; 8-bit 25 is 0.098), or auto",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """A task's options as they were given; None: not given."""

    mask: str | None = None
    mask_keep: str | None = None
    margin: int | None = None
    kernel: str | None = None
    border: str | None = None
    scale: int | None = None
    sr_kernel: str | None = None
    pattern: str | None = None
    quality: int | None = None
    subsampling: str | None = None
    gain: float | None = None
    bits: int | None = None
    shape: str | None = None
    noise: str | float | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A checked request: all of y = A(x) + noise that does not depend on the picture."""

    name: str
    """A task's, or OPERATOR."""
    spec: Spec
    noise: Noise = 0.0
    """σ_y in image units; "auto": estimated from each picture, at least what its file's rounding leaves."""
    masks: Masks | None = None
    margin: int = 0
    """By how much the canvas is to grow on each side."""
    from_file: bool = False
    """Whether the spec is to be read from each picture's own file: a JPEG's tables."""
    shape: Shape | None = None
    """The picture's, where it was given."""
    words: dict[str, Any] = field(default_factory=dict)
    """The options as resolved, for records: JSON-able."""

    def describe(self) -> dict[str, Any]:
        """What was asked for, for records: JSON-able."""
        return {"task": self.name, "noise": as_text(self.noise), **self.words}

    def measurement(self, source: Source, method: str = "auto") -> Measurement:
        """A picture, or numbers, as a measurement of this task. RequestError where the two do not fit, or `method`
        cannot do it.
        """
        from .images import Numbers

        with about(source.path):
            if isinstance(source, Numbers):
                return self._of_numbers(source, method)
            return self._of_picture(source, method)

    def _of_numbers(self, numbers: Numbers, method: str) -> Measurement:
        if self.noise == "auto":
            raise RequestError("--noise auto is for measurements that are pictures; give a number")
        shape = self._shape(numbers.array.shape)
        sigma_y = known_sigma(self.noise)
        check_method(method, self.spec.abilities(shape), sigma_y)
        return Measurement(
            spec=self.spec,
            source=numbers,
            shape=shape,
            sigma_y=sigma_y,
            noise=self._model,
            notes=self.spec.notes(shape),
        )

    def _of_picture(self, picture: Picture, method: str) -> Measurement:
        picture = self._widened(self._grey(picture))
        mask = self.mask(picture)
        spec = Kept(keep=mask.keep) if mask else _jpeg_of(picture.path) if self.from_file else self.spec
        shape = self._shape((picture.channels, *picture.size), spec)
        sigma_y = self._sigma_y(picture, mask)
        check_method(method, spec.abilities(shape), sigma_y)
        notes = (*picture.notes, *(mask.notes if mask else ()), *spec.notes(shape))
        if self.masks and self.masks.given == "alpha":
            import numpy as np

            picture = replace(picture, alpha=np.ones(picture.size, np.float32))
        return Measurement(
            spec=spec,
            source=picture,
            shape=shape,
            sigma_y=sigma_y,
            noise=self._model,
            mask=mask,
            notes=notes,
        )

    @property
    def _model(self) -> NoiseSpec | None:
        return self.noise if isinstance(self.noise, NoiseSpec) else None

    def _shape(self, measured: Measured, spec: Spec | None = None) -> Shape:
        """The picture's shape for a measurement's; RequestError where they do not belong together."""
        spec = spec or self.spec
        shape = self.shape or spec.unknown(measured)
        expected = spec.measured(shape)
        if expected != measured:
            remedy = "is that the shape it had?" if self.shape else "give the picture's shape with --shape"
            raise RequestError(
                f"the measurement has shape {dims(measured)}, expected {dims(expected)} for a picture {dims(shape)}; "
                f"{remedy}"
            )
        return shape

    def _grey(self, picture: Picture) -> Picture:
        """One channel, where only one is measured."""
        if "grey" not in self.spec.traits or picture.channels == 1:
            return picture
        if (picture.array == picture.array[:, :, :1]).all():
            return replace(picture, array=picture.array[:, :, :1])
        if not isinstance(self.spec, Grayscale):
            raise RequestError(
                "expected a grey picture, one number at each pixel as the sensor gave it, got one in colour; "
                "invdiff degrade makes such mosaics"
            )
        import numpy as np

        grey = np.asarray(picture.array @ np.array(self.spec.numbers, np.float32)[:, None], np.float32)
        return replace(
            picture, array=grey, notes=(*picture.notes, f"{picture.path}: its colours are turned to grey")
        )

    def _widened(self, picture: Picture) -> Picture:
        """With the margin that is to be filled in, black."""
        if not self.margin:
            return picture
        import numpy as np

        m = self.margin
        alpha = None if picture.alpha is None else np.pad(picture.alpha, m, constant_values=1)
        return replace(picture, array=np.pad(picture.array, ((m, m), (m, m), (0, 0))), alpha=alpha)

    def mask(self, picture: Picture, seed: int = 0) -> MaskFile | None:
        """The picture's mask, read or, by `seed`, made up; None for a task without one."""
        if not self.margin:
            return self.masks.read(picture, seed) if self.masks else None
        import numpy as np

        m = self.margin
        keep = np.zeros(picture.size, np.float32)
        keep[m:-m, m:-m] = 1
        return MaskFile(keep=keep, path=picture.path, checksum="")

    def read(self, path: Path) -> Source:
        """A measurement's file."""
        from .images import read_image, read_numbers

        return read_image(path) if self.spec.pictorial(self.shape) else read_numbers(path)

    def _sigma_y(self, picture: Picture, mask: MaskFile | None) -> float:
        if self.noise == "auto":
            return max(estimate_noise(picture, mask.keep if mask else None), picture.rounding)
        return known_sigma(self.noise)


def check(name: str, options: Options, *, method: str = "auto", making: bool = False) -> Task:
    """A task's name and options as a checked request. making: masks may be made up, as in "random:0.8".

    RequestError for an unknown name, an option that is missing, wrong or not this task's, and a method that
    the task cannot use.
    """
    info = task_info(name)
    given = _given(name, options)
    for key in info.needs:
        if key not in given:
            raise RequestError(f"{name} needs {HINTS[key]}")
    noise = _noise(options.noise, name)
    task = replace(MAKERS[name](options, making), noise=noise)
    check_method(method, task.spec.abilities(), known_sigma(noise))
    return task


def check_operator(
    given: str, options: Options, *, method: str = "auto", warn: Callable[[str], None] = print
) -> Task:
    """--operator as a checked request; see `spec_files.read_operator`. warn: is told before code of a file is run."""
    _given(OPERATOR, options)
    spec, file = read_operator(given)
    shape = parse_shape(options.shape) if options.shape is not None else file.shape
    for part in foreign(spec):
        if part.path is not None:
            if not part.path.is_file():
                raise RequestError(f"--operator {part.source}: no such file")
            warn(f"warning: --operator {part.source} runs the code in that file")
    if options.noise is not None:
        noise = parse_noise(options.noise)
    elif file.noise is not None:
        noise = parse_noise(file.noise, f"{given}: noise")
    else:  # a blur cannot be undone without knowing the noise
        noise = "auto" if "blurs" in spec.traits and "numbers" not in spec.traits else 0.0
    words: dict[str, Any] = {"operator": spec.describe()}
    if shape is not None:
        words["shape"] = list(shape)
    task = Task(name=OPERATOR, spec=spec, noise=noise, shape=shape, words=words)
    check_method(method, spec.abilities(shape), known_sigma(noise))
    return task


def check_request(
    task: str | None,
    operator: str | None,
    options: Options,
    *,
    method: str = "auto",
    making: bool = False,
    warn: Callable[[str], None] = print,
) -> Task:
    """--task or --operator with its options, as `check` and `check_operator` check them. RequestError unless one."""
    if task is not None and operator is not None:
        raise RequestError("--task and --operator: give one of them")
    if operator is not None:
        return check_operator(operator, options, method=method, warn=warn)
    if task is None:
        raise RequestError(f"give --task ({', '.join(TASKS)}) or --operator; see invdiff tasks")
    return check(task, options, method=method, making=making)


# ----------------------------------------------------------------------------------------------------- the tasks


def _inpaint(options: Options, making: bool) -> Task:
    keep: Colour = one_of("mask_keep", options.mask_keep, Colour) if options.mask_keep else "black"
    masks = parse_masks(str(options.mask), keep, making)
    return Task(name="inpaint", spec=Kept(), masks=masks, words={"mask_keep": keep})


def _outpaint(options: Options, making: bool) -> Task:
    margin = options.margin or 0
    if not 1 <= margin <= 4096:
        raise RequestError(f"--margin: expected a whole number of pixels from 1 to 4096, got {margin}")
    return Task(name="outpaint", spec=Kept(), margin=margin, words={"margin": margin})


def _deblur(options: Options, making: bool) -> Task:
    border: Border = one_of("border", options.border, Border) if options.border else "valid"
    # The only file read here, so last: what can be said without it has been said.
    spec = parse_kernel(str(options.kernel), border)
    return Task(name="deblur", spec=spec, words=spec.describe()["blur"])


def _sr(options: Options, making: bool) -> Task:
    scale, how = options.scale or 0, options.sr_kernel
    if not 2 <= scale <= LARGEST_FACTOR:
        raise RequestError(f"--scale: expected a whole number from 2 to {LARGEST_FACTOR}, got {scale}")
    kernel: Resampling = one_of("sr_kernel", how, Resampling) if how else "bicubic"
    spec = Downsample(factor=scale, kernel=kernel)
    return Task(name="sr", spec=spec, words={"scale": scale, "sr_kernel": kernel})


def _denoise(options: Options, making: bool) -> Task:
    return Task(name="denoise", spec=Identity())


def _colorize(options: Options, making: bool) -> Task:
    return Task(name="colorize", spec=Grayscale())


def _demosaic(options: Options, making: bool) -> Task:
    pattern: Bayer = one_of("pattern", options.pattern, Bayer) if options.pattern else "rggb"
    return Task(name="demosaic", spec=Demosaic(pattern=pattern), words={"pattern": pattern})


def _dejpeg(options: Options, making: bool) -> Task:
    quality, how = options.quality, options.subsampling
    if quality is None and not making:
        if how is not None:
            raise RequestError("--subsampling goes with --quality; without it both are read from the file")
        return Task(name="dejpeg", spec=JPEG(), from_file=True, words={"quality": "the file's own"})
    quality = 75 if quality is None else quality
    if not 1 <= quality <= 100:
        raise RequestError(f"--quality: expected a whole number from 1 to 100, got {quality}")
    subsampling: Subsampling = one_of("subsampling", how, Subsampling) if how else "4:2:0"
    spec = JPEG(quality=quality, subsampling=subsampling)
    return Task(name="dejpeg", spec=spec, words={"quality": quality, "subsampling": subsampling})


def _hdr(options: Options, making: bool) -> Task:
    gain = 2.0 if options.gain is None else options.gain
    if not 0 < gain <= 1000:
        raise RequestError(f"--gain: expected a number above 0, such as 2, got {gain:g}")
    return Task(name="hdr", spec=Clip(gain=gain), words={"gain": gain})


def _dequantize(options: Options, making: bool) -> Task:
    bits = options.bits or 0
    if not 1 <= bits <= 16:
        raise RequestError(f"--bits: expected a whole number from 1 to 16, got {bits}")
    return Task(name="dequantize", spec=Quantize(bits=bits), words={"bits": bits})


MAKERS: dict[str, Callable[[Options, bool], Task]] = {
    "inpaint": _inpaint,
    "outpaint": _outpaint,
    "deblur": _deblur,
    "sr": _sr,
    "denoise": _denoise,
    "colorize": _colorize,
    "demosaic": _demosaic,
    "dejpeg": _dejpeg,
    "hdr": _hdr,
    "dequantize": _dequantize,
}


def _given(name: str, options: Options) -> set[str]:
    """The options that were given. RequestError for one that is not this task's."""
    given = {key for key, value in vars(options).items() if value is not None}
    for key in sorted(given & set(USED_BY)):
        if USED_BY[key] != name:
            own = [flag(option) for option, user in USED_BY.items() if user == name]
            taken = ", ".join([*own, "--noise"])
            raise RequestError(f"{flag(key)} is for {_said(USED_BY[key])}; {_said(name)} takes {taken}")
    return given


def _said(name: str) -> str:
    return "--operator" if name == OPERATOR else name


def _noise(given: str | float | None, task: str) -> Noise:
    """--noise; where it is not given, 0, but a blur cannot be undone without knowing it, so there it is estimated."""
    if given is None:
        return "auto" if task == "deblur" else 0.0
    noise = parse_noise(given)
    if task == "denoise" and noise == 0:
        raise RequestError(
            "--noise 0 leaves denoise nothing to do; give the noise's standard deviation, or auto"
        )
    return noise


def parse_kernel(given: str, border: Border = "valid") -> Blur:
    """--kernel as a blur: gaussian:STD, disk:RADIUS, motion:LENGTH,ANGLE (pixels, degrees), random:SEED,SIZE,INTENSITY,
    or a file, with :N for the Nth kernel of a .mat file. RequestError for a file that holds no usable kernel.
    """
    name, _, numbers = given.partition(":")
    typed = {formula.usage.partition(":")[0]: key for key, formula in FORMULAS.items()}
    if name not in typed or Path(given).exists():
        if not Path(given).exists() and not Path(given).suffix:
            raise unknown("kernel", name, [*(f.usage for f in FORMULAS.values()), "a file"])
        blur = Blur(kernel=given, border=border)
        _ = blur.values  # read now, to be checked
        return blur
    formula = FORMULAS[typed[name]]
    values = [number(part) for part in numbers.split(",")]
    wrong = RequestError(f"--kernel {given}: expected {formula.usage}, finite numbers, SEED and SIZE whole")
    if None in values or len(values) > len(formula.typed):
        raise wrong
    known: dict[str, Any] = dict(zip(formula.typed, values, strict=False))
    for key in {"seed", "size"} & set(known):
        if known[key] % 1:
            raise wrong
        known[key] = int(known[key])
    try:
        return Blur(kernel=typed[name], border=border, **known)
    except ValueError as error:
        raise RequestError(f"--kernel {given}: expected {formula.usage}; {error}") from None


def parse_shape(given: str) -> Shape:
    """--shape 3x256x256. RequestError for anything else."""
    parts = given.lower().replace("×", "x").split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise RequestError(
            f"--shape {given}: expected channels, height and width of the picture, as 3x256x256"
        )
    return int(parts[0]), int(parts[1]), int(parts[2])


def _jpeg_of(path: Path) -> JPEG:
    """How a JPEG file was compressed."""
    from .images import read_jpeg_tables

    tables, subsampling = read_jpeg_tables(path)
    return JPEG(tables=tables, subsampling=one_of("subsampling", subsampling, Subsampling))


# ------------------------------------------------------------------------------------------------------ degrading


def check_degradable(task: Task, picture: Picture) -> None:
    """RequestError where a picture cannot be measured so: it is too small, or not in colour."""
    shape = (picture.channels, *picture.size)
    with about(picture.path):
        if task.shape not in (None, shape):
            raise RequestError(f"the picture has shape {dims(shape)}, expected {dims(task.shape or ())}")
        left = task.spec.measured(shape)
        if len(left) == 3:
            left = (left[0], left[1] - 2 * task.margin, left[2] - 2 * task.margin)
        if len(left) == 3 and min(left[1:]) < 2:
            would = by(left[1:])
            raise RequestError(f"{by(picture.size)} pixels would leave {would}; expected 2×2 or more")


def degrade(
    task: Task, picture: Picture, mask: MaskFile | None, seed: int
) -> tuple[NDArray[np.float32], str]:
    """y = A(x) + noise of a picture x in its own shape, (c, h, w) or not, unclipped; and A in words.

    Seed and picture fix the noise.
    """
    import torch

    from . import operators
    from .images import to_tensor

    spec = Kept(keep=mask.keep) if mask else task.spec
    with about(picture.path):
        operator = quietly(lambda: spec.operator((picture.channels, *picture.size)))
    stream = hashlib.sha256(f"{seed} {picture.checksum}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(stream[:7], "big"))
    noise = task._model.model() if task._model else None
    y = (noise or operators.GaussianNoise(known_sigma(task.noise))).sample(
        operator.A(to_tensor(picture)), generator
    )
    # Missing pixels are black: what is not observed has no noise either.
    y = operator.A(y) if mask else y
    m = task.margin
    y = y[..., m:-m, m:-m] if m else y
    return y[0].numpy(), operator.describe()


def spec_file(task: Task, picture: Picture) -> dict[str, Any]:
    """A spec file's keys for a picture that was degraded so."""
    shape = [picture.channels, *picture.size]
    spec = task.spec.at(Path.cwd()).dump()
    noise = {} if task.noise == 0 else {"noise": as_yaml(task.noise)}
    return {"operator": spec, "shape": shape, **noise}
