"""Masks: which pixels were observed, from files, from a picture's alpha, or made up for a try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import RequestError
from .words import about, by, number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .images import Array, Picture

Size = tuple[int, int]
Colour = Literal["black", "white"]


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

    def read(self, picture: Picture, seed: int = 0) -> MaskFile:
        """The picture's mask. RequestError where it is missing, of another size, or fills in everything."""
        if self.made:
            with about(picture.path):
                keep = make_mask(self.made, picture.size, seed)
            mask = MaskFile(keep=keep, path=Path(self.made), checksum="")
        elif self.given == "alpha":
            if picture.alpha is None:
                raise RequestError(f"{picture.path}: --mask alpha needs a picture with an alpha channel")
            keep = (picture.alpha >= 0.5).astype("float32")
            mask = MaskFile(keep=keep, path=picture.path, checksum=picture.checksum)
        else:
            mask = read_mask_file(self.path_for(picture.path), self.keep)
        return checked(mask, picture.path, picture.size, self.keep)


def read_mask_file(path: Path, keep: Colour) -> MaskFile:
    """A mask file. RequestError for one that is no picture."""
    from .images import binary_mask, read_image

    file = read_image(path)
    array, note = binary_mask(file, keep)
    return MaskFile(keep=array, path=path, checksum=file.checksum, notes=(note,) if note else ())


def checked(mask: MaskFile, picture: Path, size: Size, keep: Colour) -> MaskFile:
    """The mask, if it is of the picture's size and keeps something; a note if it keeps everything."""
    if mask.keep.shape != size:
        raise RequestError(
            f"{mask.path}: the mask is {by(mask.keep.shape)}, the picture {picture} is {by(size)}; "
            "expected the same size"
        )
    other = "black" if keep == "white" else "white"
    if not mask.keep.any():
        raise RequestError(
            f"{mask.path}: everything is to be filled in ({other} all over); if the mask is meant the "
            f"other way round, add --mask-keep {other}"
        )
    if mask.keep.all():
        note = f"{mask.path}: nothing to fill in, the mask has no {other}; is it the other way round?"
        return replace(mask, notes=(*mask.notes, note))
    return mask


def parse_masks(given: str, keep: Colour, making: bool) -> Masks:
    """--mask and --mask-keep. RequestError for a file or folder that is not there."""
    if given == "alpha" or Path(given).exists():
        return Masks(given=given, keep=keep)
    maker = given.partition(":")[0]
    if maker not in MAKERS:
        made = f", or one of {', '.join(m.example for m in MAKERS.values())}" if making else ""
        raise RequestError(f"--mask {given}: no such file or folder{made}")
    if not making:
        raise RequestError(
            f"--mask {given}: expected a file or folder; such masks are made by invdiff degrade"
        )
    _maker(given)
    return Masks(given=given, keep=keep, made=given)


# ----------------------------------------------------------------------------------------------- made-up masks


def make_mask(how: str, size: Size, seed: int = 0) -> Array:
    """A made-up mask, keep (H, W) with 0 to fill; how: as in MAKERS, "random:0.8" for that part missing.

    The same seed gives the same mask.
    """
    import numpy as np

    maker, values = _maker(how)
    keep = np.ones(size, np.float32)
    keep[maker.draw(size, values, seed)] = 0
    return keep


Missing = Any  # a boolean array (H, W); numpy is not imported for its name
Numbers = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Maker:
    """A way to make a mask up. draw(size, numbers, seed): the missing pixels, (H, W) boolean.

    defaults: its numbers, None for one that must be given; least, most: their range.
    """

    draw: Callable[[Size, Numbers, int], Missing]
    defaults: tuple[float | None, ...]
    least: float
    most: float
    example: str


def _maker(how: str) -> tuple[Maker, Numbers]:
    name, colon, given = how.partition(":")
    if name not in MAKERS:
        raise RequestError(f"mask {how!r}: expected one of {', '.join(m.example for m in MAKERS.values())}")
    maker = MAKERS[name]
    values = [number(part) for part in given.split(",")] if colon else list(maker.defaults)
    known = [value for value in values if value is not None and maker.least <= value <= maker.most]
    if len(known) < len(values) or len(values) != len(maker.defaults):
        many = "a number" if len(maker.defaults) == 1 else f"{len(maker.defaults)} numbers"
        raise RequestError(
            f"mask {how!r}: expected {name}: and {many} from {maker.least:g} to {maker.most:g}"
        )
    return maker, tuple(known)


def _random(size: Size, numbers: Numbers, seed: int) -> Missing:
    import numpy as np

    return np.random.default_rng(seed).random(size) < numbers[0]


def _box(size: Size, numbers: Numbers, seed: int) -> Missing:
    import numpy as np

    side = int(numbers[0])

    def middle(length: int) -> NDArray[np.bool_]:
        start = (length - side) // 2
        at = np.arange(length)
        return (at >= start) & (at < start + side)

    return middle(size[0])[:, None] & middle(size[1])


def _scratch(size: Size, numbers: Numbers, seed: int) -> Missing:
    """Broken lines across the picture, about one per cent of its shorter side wide."""
    import numpy as np
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(seed)
    image = Image.new("1", (size[1], size[0]))
    pen = ImageDraw.Draw(image)
    width = max(2, round(min(size) / 90))
    for _ in range(int(numbers[0])):
        ends = rng.random((2, 2)) * (size[1], size[0])
        middle = ends.mean(0) + rng.normal(0, 0.08 * min(size), 2)
        pen.line([tuple(p) for p in (ends[0], middle, ends[1])], fill=1, width=width, joint="curve")
    return np.asarray(image)


def _text(size: Size, numbers: Numbers, seed: int) -> Missing:
    """Lines of words over the whole picture; the number: the letters' height, as a part of the picture's."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(seed)
    image = Image.new("L", (size[1], size[0]))
    pen = ImageDraw.Draw(image)
    letters = max(8, round(numbers[0] * size[0]))
    words = np.array(
        ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "photograph"]
    )
    for top in range(letters // 2, size[0], 2 * letters):
        line = " ".join(rng.permutation(words))
        pen.text(
            (-int(rng.integers(0, letters * 4)), top), line, fill=255, font=ImageFont.load_default(letters)
        )
    return np.asarray(image) > 64


def _stripes(size: Size, numbers: Numbers, seed: int) -> Missing:
    from .operators import patterns

    return ~patterns.stripes(size, int(numbers[0]), int(numbers[1])).numpy()


def _lines(size: Size, numbers: Numbers, seed: int) -> Missing:
    from .operators import patterns

    return ~patterns.lines(size, int(numbers[0])).numpy()


def _border(size: Size, numbers: Numbers, seed: int) -> Missing:
    from .operators import patterns

    return ~patterns.border(size, int(numbers[0])).numpy()


def _strokes(size: Size, numbers: Numbers, seed: int) -> Missing:
    from .operators import patterns

    return ~patterns.strokes(size, numbers[0], seed).numpy()


MAKERS: dict[str, Maker] = {
    "random": Maker(draw=_random, defaults=(0.8,), least=0.001, most=0.999, example="random:0.8"),
    "box": Maker(draw=_box, defaults=(None,), least=1, most=1e5, example="box:64"),
    "scratch": Maker(draw=_scratch, defaults=(12,), least=1, most=1000, example="scratch"),
    "text": Maker(draw=_text, defaults=(0.08,), least=0.01, most=0.5, example="text"),
    "stripes": Maker(draw=_stripes, defaults=(None, None), least=1, most=1e5, example="stripes:4,16"),
    "lines": Maker(draw=_lines, defaults=(None,), least=2, most=1e5, example="lines:2"),
    "border": Maker(draw=_border, defaults=(None,), least=1, most=1e5, example="border:32"),
    "strokes": Maker(draw=_strokes, defaults=(0.15,), least=0.01, most=0.95, example="strokes"),
}
