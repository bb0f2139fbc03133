"""Training pictures: decoded once, kept in memory as bytes, cropped and flipped by a counter-based stream."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from invdiff import images
from invdiff.errors import RequestError
from invdiff.training.recipe import Data


@dataclass(frozen=True)
class Pictures:
    """train: uint8 (C, H, W) each, of any size; validation: float (N, C, s, s) in image units."""

    train: list[Tensor]
    validation: Tensor

    def batch(self, step: int, *, size: int, crop: int, seed: int) -> Tensor:
        """(size, C, crop, crop), image units: random pictures, places and flips, by (seed, step) alone."""
        generator = stream(seed, step, 0)
        which = torch.randint(len(self.train), (size,), generator=generator).tolist()
        places = torch.rand((size, 3), generator=generator, dtype=torch.float64).tolist()
        crops = []
        for index, (down, right, flip) in zip(which, places, strict=True):
            image = self.train[index]
            top, left = int(down * (image.shape[1] - crop + 1)), int(right * (image.shape[2] - crop + 1))
            cut = image[:, top : top + crop, left : left + crop]
            crops.append(cut.flip(2) if flip < 0.5 else cut)
        return torch.stack(crops).float() / 255


def stream(seed: int, step: int, purpose: int) -> torch.Generator:
    """A random stream that depends on these three numbers alone: a resumed run draws what it would have."""
    generator = torch.Generator()
    generator.manual_seed((seed * 1_000_003 + step) * 16 + purpose)
    return generator


def load_pictures(data: Data, channels: int, progress: Callable[[str], None] = lambda line: None) -> Pictures:
    """Read every picture the recipe names; headers first: a bad file is named before the long decoding.

    RequestError, with the file, for the first that cannot serve.
    """
    if not data.train:
        raise RequestError("data.train: expected folders, zip files or images to train on, got none")
    root = Path(data.root or os.environ.get("INVDIFF_DATA") or ".").expanduser()
    with ExitStack() as archives:
        sources = [[_looked_at(*file) for file in _files(root / name, archives)] for name in data.train]
        for name, found in zip(data.train, sources, strict=True):
            if not found:
                raise RequestError(f"{root / name}: no images in it; expected {', '.join(images.SUFFIXES)}")
        held, train = _divide(data, sources, progress)
        train = _within(data.limit_mib, train, channels)
        progress(f"reading {len(train)} images to train on and {len(held)} held out")
        crops = [_middle(image.decoded(channels), data.validation_crop) for image in held]
        nothing = torch.zeros((0, channels, data.validation_crop, data.validation_crop))
        validation = torch.stack(crops).float() / 255 if crops else nothing
        return Pictures([image.decoded(channels) for image in train], validation)


@dataclass(frozen=True)
class _Image:
    """An image file whose header has been read."""

    label: str
    read: Callable[[], bytes]
    width: int
    height: int
    digest: bytes

    @property
    def side(self) -> int:
        return min(self.width, self.height)

    def decoded(self, channels: int) -> Tensor:
        """uint8 (C, H, W); colour from grey by repetition, grey from colour by ITU-R 601's luma."""
        array = images.decode_image(Path(self.label), self.read()).array
        if array.shape[2] > channels:
            array = (array * (0.299, 0.587, 0.114)).sum(axis=2, keepdims=True)
        picture = torch.from_numpy((array * 255).round().astype("uint8"))
        return picture.permute(2, 0, 1).expand(channels, -1, -1).contiguous()


def _looked_at(label: str, read: Callable[[], bytes]) -> _Image:
    from PIL import Image

    try:
        data = read()
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RequestError(f"{label}: cannot be read ({error}); remove it or repair it") from None
    with images.explained(Path(label)), Image.open(BytesIO(data)) as image:
        width, height = image.size
    return _Image(label, read, width, height, hashlib.sha256(data).digest())


def _divide(
    data: Data, sources: list[list[_Image]], progress: Callable[[str], None]
) -> tuple[list[_Image], list[_Image]]:
    """The images held out, and those to train on: no file is among both, under whatever name."""
    everything = [image for source in sources for image in source]
    large = [image for image in sources[-1] if image.side >= data.validation_crop]
    if data.validation and not large:
        first = sources[-1][0]
        raise RequestError(
            f"{first.label}: {first.width}×{first.height} pixels, and no image of {data.train[-1]} reaches "
            f"data.validation_crop, {data.validation_crop}; lower it, or set data.validation: 0"
        )
    held = [large[i] for i in _evenly(len(large), data.validation)]
    unseen = {image.digest for image in held}
    rest = [image for image in everything if image.digest not in unseen]
    train = [image for image in rest if image.side >= data.crop]
    if not rest:
        raise RequestError(
            f"data.validation: {data.validation} held out leaves none of {len(everything)} images to train on"
        )
    if len(train) < len(rest) and not (data.skip_small and train):
        small = next(image for image in rest if image.side < data.crop)
        raise RequestError(
            f"{small.label}: {small.width}×{small.height} pixels, smaller than the crop of {data.crop}; "
            f"remove it, lower data.crop{'' if data.skip_small else ', or set data.skip_small: true'}"
        )
    if len(train) < len(rest):
        progress(f"left out as smaller than the crop: {len(rest) - len(train)} of {len(rest)} images")
    return held, train


def _within(limit_mib: float | None, train: list[_Image], channels: int) -> list[_Image]:
    """As many images, evenly spread, as fit into the limit once decoded."""
    limit = float("inf") if limit_mib is None else limit_mib * 2**20

    def size(chosen: list[_Image]) -> int:
        return channels * sum(image.width * image.height for image in chosen)

    whole = size(train)
    count = len(train) if whole <= limit else max(1, int(len(train) * limit / whole))
    chosen = [train[i] for i in _evenly(len(train), count)]
    while size(chosen) > limit:  # these are larger than the average
        count -= 1
        chosen = [train[i] for i in _evenly(len(train), count)]
    if not chosen:
        raise RequestError(
            f"data.limit_mib: {limit_mib:g} MiB hold no image; all are {whole / 2**20:.1f} MiB"
        )
    return chosen


def _evenly(of: int, count: int) -> list[int]:
    count = min(of, count)
    return [int((i + 0.5) * of / count) for i in range(count)]


def _middle(image: Tensor, size: int) -> Tensor:
    top, left = ((n - size) // 2 for n in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def _files(path: Path, archives: ExitStack) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(label for messages, reader) of every image in a folder or zip file, by name, or of the file itself."""
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if _is_image(p.relative_to(path)) and p.is_file()):
            yield str(file), file.read_bytes
    elif path.suffix.lower() == ".zip" and path.is_file():
        try:
            archive = archives.enter_context(zipfile.ZipFile(path))
        except (zipfile.BadZipFile, OSError) as error:
            raise RequestError(f"{path}: not a readable zip file ({error})") from None
        for name in sorted(n for n in archive.namelist() if _is_image(PurePosixPath(n))):
            yield f"{path}:{name}", partial(archive.read, name)
    elif path.is_file():
        yield str(path), path.read_bytes
    else:
        raise RequestError(
            f"{path}: no such file or folder; set data.root or INVDIFF_DATA to where the training data is"
        )


def _is_image(path: Path | PurePosixPath) -> bool:
    """By its ending; not what macOS leaves in folders and zip files (._photo.jpg, __MACOSX/)."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in images.SUFFIXES and not hidden
