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

import numpy as np
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
    labels: Tensor | None = None
    """int64, one for each of `train`, where the network knows classes."""
    validation_labels: Tensor | None = None
    flip: bool = True

    @property
    def mean(self) -> float:
        """The mean number of a thousand of the pictures, in image units, to three digits."""
        some = [self.train[i] for i in evenly(len(self.train), 1000)]
        return round(sum(image.double().mean().item() for image in some) / len(some) / 255, 3)

    def batch(self, step: int, *, size: int, crop: int, seed: int, part: slice = slice(None)) -> Tensor:
        """(size, C, crop, crop), image units: random pictures, places and flips, by (seed, step) alone.

        part: which of the batch's pictures to make.
        """
        which, places = self._draw(step, size, seed)
        crops = []
        for index, (down, right, flip) in zip(which[part].tolist(), places[part].tolist(), strict=True):
            image = self.train[index]
            top, left = int(down * (image.shape[1] - crop + 1)), int(right * (image.shape[2] - crop + 1))
            cut = image[:, top : top + crop, left : left + crop]
            crops.append(cut.flip(2) if self.flip and flip < 0.5 else cut)
        return torch.stack(crops).float() / 255

    def batch_labels(self, step: int, *, size: int, seed: int, part: slice = slice(None)) -> Tensor:
        """(size,): the labels of `batch`. ValueError where the pictures have none."""
        if self.labels is None:
            raise ValueError("expected pictures with labels, got some without; load_pictures(classes=...)")
        return self.labels[self._draw(step, size, seed)[0][part]]

    def _draw(self, step: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = stream(seed, step, 0)
        which = torch.randint(len(self.train), (size,), generator=generator)
        return which, torch.rand((size, 3), generator=generator, dtype=torch.float64)


def stream(seed: int, step: int, purpose: int) -> torch.Generator:
    """A random stream that depends on these three numbers alone: a resumed run draws what it would have."""
    generator = torch.Generator()
    generator.manual_seed((seed * 1_000_003 + step) * 16 + purpose)
    return generator


def load_pictures(
    data: Data, channels: int, progress: Callable[[str], None] = lambda line: None, *, classes: int = 0
) -> Pictures:
    """Read every picture the recipe names; headers first: a bad file is named before the long decoding.

    classes: how many labels there are; 0: the pictures' labels are left alone. A picture's label is what an .npz file
    says, or the folder it lies in. RequestError, with the file, for the first that cannot serve.
    """
    if not data.train:
        raise RequestError("data.train: expected folders, zip files or images to train on, got none")
    root = Path(data.root or os.environ.get("INVDIFF_DATA") or ".").expanduser()
    with ExitStack() as archives:
        sources = [_source(root / name, data, archives) for name in data.train]
        held, train = _divide(data, sources, progress)
        train = _within(data.limit_mib, train, channels)
        labels = _labels(classes, train, held)
        progress(f"reading {len(train)} images to train on and {len(held)} held out")
        crops = [middle(image.decoded(channels), data.validation_crop) for image in held]
        nothing = torch.zeros((0, channels, data.validation_crop, data.validation_crop))
        validation = torch.stack(crops).float() / 255 if crops else nothing
        decoded = [image.decoded(channels) for image in train]
        return Pictures(decoded, validation, *labels, flip=data.flip)


@dataclass(frozen=True)
class _Image:
    """A picture whose size is known, and not yet its pixels."""

    name: str
    size: tuple[int, int]
    """Width and height of the file's picture."""
    digest: bytes
    pixels: Callable[[], np.ndarray]
    """(H, W, channels), 0 to 1."""
    data: Data
    label: str | None = None

    @property
    def width(self) -> int:
        return (self.data.square or self.size[0]) + 2 * self.data.pad

    @property
    def height(self) -> int:
        return (self.data.square or self.size[1]) + 2 * self.data.pad

    @property
    def side(self) -> int:
        return min(self.width, self.height)

    def decoded(self, channels: int) -> Tensor:
        """uint8 (C, H, W); colour from grey by repetition, grey from colour by ITU-R 601's luma."""
        array = self.pixels()
        if array.shape[2] > channels:
            array = (array * (0.299, 0.587, 0.114)).sum(axis=2, keepdims=True)
        picture = torch.from_numpy((array * 255).round().astype("uint8"))
        picture = picture.permute(2, 0, 1).expand(channels, -1, -1)
        if self.data.square:
            picture = reduced(middle(picture, min(self.size)), self.data.square)
        return torch.nn.functional.pad(picture, (self.data.pad,) * 4).contiguous()


@dataclass(frozen=True)
class _Source:
    """What one name of `data.train` stands for; `test`: what it sets apart for validation itself."""

    train: list[_Image]
    test: list[_Image]


def _source(path: Path, data: Data, archives: ExitStack) -> _Source:
    if path.suffix.lower() == ".npz" and path.is_file():
        return _arrays(path, data)
    found = [_looked_at(*file, data) for file in _files(path, archives)]
    if not found:
        raise RequestError(f"{path}: no images in it; expected {', '.join(images.SUFFIXES)}")
    return _Source(found, [])


def _looked_at(name: str, read: Callable[[], bytes], data: Data) -> _Image:
    from PIL import Image

    try:
        content = read()
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RequestError(f"{name}: cannot be read ({error}); remove it or repair it") from None
    with images.explained(Path(name)), Image.open(BytesIO(content)) as image:
        size = image.size

    def pixels() -> np.ndarray:
        return images.decode_image(Path(name), read()).array

    folder = PurePosixPath(Path(name.rpartition(":")[2]).as_posix()).parent.name
    return _Image(name, size, hashlib.sha256(content).digest(), pixels, data, folder)


def _arrays(path: Path, data: Data) -> _Source:
    """The pictures of an .npz file: train_images, (N, H, W) or (N, H, W, C) uint8, and perhaps train_labels (N,),
    test_images, test_labels. Pickled arrays are never opened."""
    wanted = (
        f"{path}: expected arrays train_images, (N, H, W) or (N, H, W, 1 or 3) uint8, and train_labels, (N,)"
    )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key.partition("_")[0] in ("train", "test")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RequestError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None

    def split(name: str) -> list[_Image]:
        pictures, labels = arrays.get(f"{name}_images"), arrays.get(f"{name}_labels")
        if pictures is None:
            return []
        if (
            pictures.dtype != np.uint8
            or pictures.ndim not in (3, 4)
            or pictures.shape[3:] not in ((), (1,), (3,))
        ):
            raise RequestError(f"{wanted}; got {name}_images {pictures.shape} {pictures.dtype}")
        if labels is not None and (labels.shape != pictures.shape[:1] or labels.dtype.kind not in "iu"):
            raise RequestError(f"{wanted}; got {name}_labels {labels.shape} {labels.dtype}")
        told = [None] * len(pictures) if labels is None else [str(label) for label in labels.tolist()]
        size = pictures.shape[2], pictures.shape[1]
        return [
            _Image(
                f"{path}:{name}_images[{i}]", size, hashlib.sha256(image.tobytes()).digest(),
                partial(_as_pixels, image), data, label,
            )
            for i, (image, label) in enumerate(zip(pictures, told, strict=True))
        ]  # fmt: skip

    train, test = split("train"), split("test")
    if not train:
        raise RequestError(f"{wanted}; got {', '.join(arrays) or 'none of them'}")
    return _Source(train, test)


def reduced(picture: Tensor, side: int) -> Tensor:
    """uint8 (C, H, W) → (C, side, side), bicubic and antialiased."""
    from PIL import Image

    channels = [
        Image.fromarray(one.numpy()).resize((side, side), Image.Resampling.BICUBIC) for one in picture
    ]
    return torch.from_numpy(np.stack([np.asarray(one) for one in channels]))


def _as_pixels(image: np.ndarray) -> np.ndarray:
    return image.reshape(*image.shape[:2], -1) / 255.0


def _labels(classes: int, *groups: list[_Image]) -> tuple[Tensor | None, Tensor | None]:
    """The images' labels as 0 … classes − 1: their names, where those are such numbers, else the names' places in
    order. RequestError where an image has none, or there are not so many."""
    if not classes:
        return None, None
    names = set()
    for image in (image for group in groups for image in group):
        if not image.label:
            raise RequestError(
                f"{image.name}: without a label; network.classes needs folders of one class each"
            )
        names.add(image.label)
    numbers = {name: int(name) for name in names if name.isdecimal() and int(name) < classes}
    if len(numbers) < len(names):
        if len(names) != classes:
            some = ", ".join(sorted(names)[:4])
            raise RequestError(
                f"network.classes: expected {len(names)}, as the data have ({some} ...), got {classes}"
            )
        numbers = {name: place for place, name in enumerate(sorted(names))}
    train, held = (
        torch.tensor([numbers[image.label or ""] for image in g], dtype=torch.int64) for g in groups
    )
    return train, held


def _divide(
    data: Data, sources: list[_Source], progress: Callable[[str], None]
) -> tuple[list[_Image], list[_Image]]:
    """The images held out, and those to train on: no file is among both, under whatever name."""
    everything = [image for source in sources for image in source.train]
    last = sources[-1].test or sources[-1].train
    large = [image for image in last if image.side >= data.validation_crop]
    if data.validation and not large:
        first = last[0]
        raise RequestError(
            f"{first.name}: {first.width}×{first.height} pixels, and no image of {data.train[-1]} reaches "
            f"data.validation_crop, {data.validation_crop}; lower it, or set data.validation: 0"
        )
    held = [large[i] for i in evenly(len(large), data.validation)]
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
            f"{small.name}: {small.width}×{small.height} pixels, smaller than the crop of {data.crop}; "
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
    chosen = [train[i] for i in evenly(len(train), count)]
    while size(chosen) > limit:  # these are larger than the average
        count -= 1
        chosen = [train[i] for i in evenly(len(train), count)]
    if not chosen:
        raise RequestError(
            f"data.limit_mib: {limit_mib:g} MiB hold no image; all are {whole / 2**20:.1f} MiB"
        )
    return chosen


def evenly(of: int, count: int) -> list[int]:
    """`count` of the places 0 … of − 1, or all, evenly spread."""
    count = min(of, count)
    return [int((i + 0.5) * of / count) for i in range(count)]


def middle(image: Tensor, size: int) -> Tensor:
    """The middle of a picture (C, H, W): (C, size, size)."""
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
