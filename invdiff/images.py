"""Files ↔ numbers: pictures, masks and blur kernels, each read whole and checked before anything slow begins.

A picture is (H, W, C) float32 in image units (0 black, 1 white), C = 1 or 3, whatever its file holds: 1, 8 or
16 bits, grey, colour, palette, alpha, an EXIF rotation. It remembers enough to be written back as it came.
Every function here raises RequestError, one line with the file's name, for a file it cannot use.
"""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float32]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pbm")
"""What a folder is searched for. A file that is named is opened whatever its ending; .npy is read too."""

LOSSLESS = {"PNG": ".png", "TIFF": ".tif", "BMP": ".bmp", "NPY": ".npy"}
"""Formats a result is written in like its input; every other input (JPEG, WebP, GIF, ...) becomes a PNG."""

UPRIGHT = {  # EXIF orientation → the same picture, upright
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}

STD_WHITE = 0.2
"""The standard deviation, in image units, that NAME_std.png shows as white; black is 0. Never stretched."""

# Eleven anchors of viridis (Smith and van der Walt 2015, CC0), from 0 to 1.
_VIRIDIS = "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725"


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture, upright, and how its file held it."""

    array: Array
    """(H, W, C), C = 1 or 3, image units; within [0, 1] unless it comes from a .npy file."""
    alpha: Array | None = None
    """(H, W) in [0, 1]: carried along, never used as a mask unless asked."""
    path: Path = Path("picture.png")
    checksum: str = ""
    """SHA-256 of the file."""
    format: str = "PNG"
    """What a result is written as: a key of LOSSLESS."""
    bits: int = 8
    """1, 8 or 16; 32 for .npy."""
    palette: NDArray[np.uint8] | None = None
    """(N, 4) RGBA, where the file has one."""
    icc: bytes | None = None
    notes: tuple[str, ...] = ()
    """What the user should know about how the file was read."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def channels(self) -> int:
        return self.array.shape[2]

    @property
    def suffix(self) -> str:
        """The ending of a result's name."""
        ending, usual = self.path.suffix.lower(), LOSSLESS[self.format]
        return ending if (self.format, ending) == ("TIFF", ".tiff") else usual

    @property
    def rounding(self) -> float:
        """Standard deviation of the file's own rounding error, image units: 1/√12 of its step."""
        return 0.0 if self.bits == 32 else 1 / (2**self.bits - 1) / 12**0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """A measurement that is no picture: its numbers in the operator's own shape, float32."""

    array: Array
    path: Path
    checksum: str
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------- reading pictures


def read_image(path: str | Path) -> Picture:
    """The picture in a file: any format Pillow knows, or a .npy array (H, W) or (H, W, 3) in image units.

    It is decoded to the last pixel. RequestError where it is missing, empty, truncated, no picture, smaller
    than 2×2, or where an array is not finite or plainly not in image units.
    """
    path = Path(path)
    data = _read_bytes(path)
    picture = _from_npy(path, data) if path.suffix.lower() == ".npy" else decode_image(path, data)
    if min(picture.size) < 2:
        raise RequestError(f"{path}: expected a picture of at least 2×2 pixels, got {_size(picture.size)}")
    return replace(picture, path=path, checksum=hashlib.sha256(data).hexdigest())


def list_images(folder: Path) -> list[Path]:
    """The pictures in a folder, by name; not those in its subfolders. RequestError where there are none."""
    try:
        files = [p for p in folder.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        raise RequestError(f"{folder}: the folder cannot be read ({error.strerror})") from None
    found = sorted(p for p in files if p.suffix.lower() in SUFFIXES)
    if not found:
        arrays = any(
            p.suffix.lower() == ".npy" for p in files
        )  # kernels, masks and measurements are such files too
        remedy = "; name a .npy file itself" if arrays else ""
        raise RequestError(
            f"{folder}: no pictures in this folder; expected files such as *.png or *.jpg{remedy}"
        )
    return found


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise RequestError(f"{path}: expected a file, this is a folder") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise RequestError(f"{path}: the file is empty")
    return data


def _from_npy(path: Path, data: bytes) -> Picture:
    array = _load_npy(path, data)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise RequestError(f"{path}: expected an array (H, W) or (H, W, 3), got {array.shape}")
    if np.abs(array).max(initial=0) > 10:
        got = f"{array.min():g} to {array.max():g}"
        raise RequestError(f"{path}: expected image units (0 black, 1 white), got {got}; divide by 255?")
    return Picture(array=array.astype(np.float32), format="NPY", bits=32)


def read_numbers(path: str | Path) -> Numbers:
    """The numbers in a .npy file, of any shape. RequestError for any other file, and numbers that are not finite."""
    path = Path(path)
    if path.suffix.lower() != ".npy":
        raise RequestError(
            f"{path}: what this operator measures is no picture; expected the .npy file that invdiff degrade writes"
        )
    data = _read_bytes(path)
    array = _load_npy(path, data).astype(np.float32)
    return Numbers(array=array, path=path, checksum=hashlib.sha256(data).hexdigest())


def read_jpeg_tables(path: str | Path) -> tuple[tuple[tuple[int, ...], ...], str]:
    """How a JPEG file was compressed: the quantisation table of each component, row by row, and the subsampling.

    RequestError for a file of another format, or one whose pixels do not lie as they were compressed.
    """
    from PIL import JpegImagePlugin

    path = Path(path)
    with explained(path), Image.open(BytesIO(_read_bytes(path))) as image:
        if not isinstance(image, JpegImagePlugin.JpegImageFile):
            raise RequestError(
                f"{path}: no JPEG file, which would tell how it was compressed; give --quality (and --subsampling)"
            )
        if image.mode not in ("L", "RGB") or image.info.get("adobe_transform", 1) != 1:
            raise RequestError(f"{path}: expected a grey or YCbCr JPEG file, got {image.mode} without YCbCr")
        if image.getexif().get(0x0112, 1) != 1:
            raise RequestError(
                f"{path}: is turned by its EXIF data, so that its blocks do not lie as they were compressed; "
                "turn it without loss (jpegtran, exiftran) first"
            )
        names = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
        sampling = 0 if image.mode == "L" else JpegImagePlugin.get_sampling(image)
        if sampling not in names:
            raise RequestError(f"{path}: expected the subsampling 4:4:4, 4:2:2 or 4:2:0, got another")
        tables = tuple(tuple(image.quantization[layer[3]]) for layer in image.layer)
    return tables, names[sampling]


def _load_npy(path: Path, data: bytes) -> NDArray[np.float64]:
    try:
        array = np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise RequestError(f"{path}: not a readable .npy array") from None
    return _numbers(path, array)


def _numbers(path: Path, array: NDArray[Any]) -> NDArray[np.float64]:
    """Real and finite, as float64."""
    if array.dtype.kind not in "biuf":
        raise RequestError(f"{path}: expected an array of real numbers, got {array.dtype}")
    array = array.astype(np.float64)
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise RequestError(f"{path}: expected finite numbers, got NaN or infinity in {bad} places")
    return array


def decode_image(path: Path, data: bytes) -> Picture:
    """The picture in a file's bytes, as `read_image` reads it; path: its name, for messages."""
    with explained(path), Image.open(BytesIO(data)) as image:
        rawmode = _rawmode(image)
        image.load()
        deep = ";16" in rawmode
        values, bits, palette = _sixteen_bits(data, image, rawmode) if deep else _values(path, image)
        icc = image.info.get("icc_profile") if image.mode != "CMYK" else None
        turn = UPRIGHT.get(image.getexif().get(0x0112, 1))
        frames = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
        kind = image.format
    values = np.ascontiguousarray(turn(values) if turn else values, np.float32)
    alpha = values[:, :, -1] if values.shape[2] in (2, 4) else None
    return Picture(
        array=values[:, :, :-1] if alpha is not None else values,
        alpha=alpha,
        format=kind if kind in LOSSLESS else "PNG",
        bits=bits,
        palette=palette,
        icc=icc,
        notes=(f"{path}: only the first of its {frames} frames is used",) if frames > 1 else (),
    )


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Whatever Pillow raises for a broken file, in one line; what it merely warns of is passed over."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RequestError:
        raise
    except UnidentifiedImageError:
        raise RequestError(f"{path}: not a picture in a format that is known here") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise RequestError(f"{path}: more than {limit:,} pixels; cut it into pieces") from None
    except (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error) as error:
        raise RequestError(f"{path}: the picture is truncated or corrupt ({error})") from None


Values = tuple[NDArray[Any], int, NDArray[np.uint8] | None]  # (H, W, C incl. alpha) in [0, 1], bits, palette


def _values(path: Path, image: Image.Image) -> Values:
    if image.mode == "1" and "transparency" not in image.info:
        return np.asarray(image, np.float32)[:, :, None], 1, None
    if image.mode == "P":
        return _palette_values(image)
    if image.mode.startswith("I"):
        whole = np.asarray(image).astype(np.int64)
        if whole.min() < 0 or whole.max() > 65535:
            raise RequestError(f"{path}: expected at most 16 bits, got values {whole.min()} to {whole.max()}")
        return whole[:, :, None] / 65535, 16, None
    if image.mode == "F":
        raise RequestError(
            f"{path}: a floating-point picture does not say what white is; save 16 bits or .npy"
        )
    array = np.asarray(image.convert(_plain_mode(image)), np.float32) / 255
    return array if array.ndim == 3 else array[:, :, None], 8, None


def _plain_mode(image: Image.Image) -> str:
    grey = image.mode in ("1", "L", "LA", "La")
    alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return ("L" if grey else "RGB") + ("A" if alpha else "")


def _palette_values(image: Image.Image) -> Values:
    """A palette picture in colour, and its palette with alpha, so that a result can be put back into it."""
    index = np.asarray(image)
    rgba = np.full((256, 4), 255, np.uint8)
    colours = np.frombuffer(image.convert("P").im.getpalette("RGB", "RGB"), np.uint8).reshape(-1, 3)
    rgba[: len(colours), :3] = colours
    clear = image.info.get("transparency")
    if isinstance(clear, bytes):
        rgba[: len(clear), 3] = np.frombuffer(clear, np.uint8)[:256]
    elif clear is not None:
        rgba[clear, 3] = 0
    palette = rgba[: int(index.max()) + 1]
    array = palette[index].astype(np.float32) / 255
    return array if clear is not None else array[:, :, :3], 8, palette


def _rawmode(image: Image.Image) -> str:
    """How the file packs its numbers, e.g. "RGB;16B", in Pillow's words; of 16-bit colour Pillow keeps 8."""
    if image.mode.startswith("I") or not getattr(image, "tile", None):
        return ""
    arguments = image.tile[0][3]  # type: ignore[attr-defined]
    first = arguments[0] if isinstance(arguments, tuple) else arguments
    return first if isinstance(first, str) and not first.startswith("CMYK") else ""


def _sixteen_bits(data: bytes, image: Image.Image, rawmode: str) -> Values:
    """All 16 bits of colour: Pillow unpacks the high bytes; told that they are swapped, the low ones."""
    if rawmode == "LA;16B":  # as four bytes a pixel: grey high, low, alpha high, low
        four = np.asarray(_unpacked(data, "RGBA", "RGBA")).astype(np.float32)
        return (256 * four[:, :, ::2] + four[:, :, 1::2]) / 65535, 16, None
    swapped = {"B": "L", "L": "B", "N": "B" if struct.pack("=H", 1)[0] else "L"}[rawmode[-1]]
    high = np.asarray(image).astype(np.float32)
    low = np.asarray(_unpacked(data, image.mode, rawmode[:-1] + swapped)).astype(np.float32)
    return (256 * high + low) / 65535, 16, None


def _unpacked(data: bytes, mode: str, rawmode: str) -> Image.Image:
    image: Any = Image.open(BytesIO(data))
    image._mode = mode

    def renamed(tile: Any) -> Any:
        arguments = (rawmode, *tile[3][1:]) if isinstance(tile[3], tuple) else rawmode
        # A named tuple since Pillow 11.
        return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)

    image.tile = [renamed(tile) for tile in image.tile]
    image.load()
    return image


# ---------------------------------------------------------------------------------------- writing pictures


def write_image(path: str | Path, array: NDArray[Any], like: Picture | None = None) -> None:
    """Write (H, W, C) or (H, W), image units, clipped to [0, 1], the way `like` was: its format, depth,
    palette, alpha (resized where the size differs) and colour profile; an 8-bit PNG without `like`.

    The file appears whole or not at all. OSError where it cannot be written.
    """
    like = like or Picture(array=np.zeros((2, 2, 1), np.float32))
    values = np.clip(array if array.ndim == 3 else array[:, :, None], 0, 1)
    if like.alpha is not None:
        values = np.dstack([values, _resized(like.alpha, values.shape[:2], exact=like.palette is not None)])
    with atomic(Path(path)) as part, part.open("wb") as file:
        if like.format == "NPY":
            np.save(file, values.astype(np.float32))
        elif like.bits == 16:
            _write_sixteen_bits(file, np.ascontiguousarray(np.rint(values * 65535), np.uint16), like)
        else:
            _eight_bits(values, like).save(file, format=like.format, icc_profile=like.icc)


def write_std(path: str | Path, std: NDArray[Any]) -> None:
    """Write a standard deviation (H, W), image units, as 16-bit grey: black 0, white STD_WHITE or more."""
    write_image(path, std / STD_WHITE, Picture(array=np.zeros((2, 2, 1), np.float32), bits=16))


def write_mask(path: str | Path, keep: Array) -> None:
    """Write keep (H, W) as a mask file: white = to fill in, black = observed; 8-bit grey PNG."""
    write_image(path, 1 - keep)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A name to write to in the same folder; it replaces `path` in the end, or is gone after an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _resized(alpha: Array, size: tuple[int, ...], exact: bool) -> Array:
    if alpha.shape == size:
        return alpha
    how = Image.Resampling.NEAREST if exact else Image.Resampling.BICUBIC
    return np.clip(np.asarray(Image.fromarray(alpha).resize((size[1], size[0]), how)), 0, 1)


def _eight_bits(values: NDArray[Any], like: Picture) -> Image.Image:
    if like.bits == 1 and values.shape[2] == 1:
        return Image.fromarray(values[:, :, 0] >= 0.5)
    whole = np.rint(values * 255).astype(np.uint8)
    if like.palette is not None:
        return _in_palette(whole, like.palette)
    return Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole)


def _in_palette(whole: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """The nearest colour of the palette; alpha weighs most, and pixels that were kept stay what they were."""
    from scipy.spatial import cKDTree

    weights = np.array([1, 1, 1, 4])
    if whole.shape[2] == 3:
        whole = np.dstack([whole, np.full(whole.shape[:2], 255, np.uint8)])
    index = cKDTree(palette * weights).query(whole.reshape(-1, 4) * weights)[1]
    image = Image.fromarray(index.reshape(whole.shape[:2]).astype(np.uint8))
    image.putpalette(palette[:, :3].tobytes(), "RGB")  # an "L" picture with a palette is a "P" picture
    if (palette[:, 3] < 255).any():
        image.info["transparency"] = palette[:, 3].tobytes()
    return image


def _write_sixteen_bits(file: Any, whole: NDArray[np.uint16], like: Picture) -> None:
    if like.format == "TIFF":
        import tifffile

        grey = whole.shape[2] < 3
        tifffile.imwrite(
            file,
            whole[:, :, 0] if whole.shape[2] == 1 else whole,
            photometric="minisblack" if grey else "rgb",
            extrasamples=["unassalpha"] if like.alpha is not None else None,
            iccprofile=like.icc,
            metadata=None,
        )
    else:
        file.write(_png(whole, like.icc))


def _png(whole: NDArray[np.uint16], icc: bytes | None) -> bytes:
    """A 16-bit PNG (W3C, 3rd edition), which Pillow cannot write in colour; rows as changes from the last."""
    height, width, channels = whole.shape
    rows = np.ascontiguousarray(whole, ">u2").view(np.uint8).reshape(height, -1)
    changes = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))
    lines = np.hstack([np.full((height, 1), 2, np.uint8), changes])  # 2: the filter "Up"

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    profile = chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)) if icc else b""
    body = chunk(b"IDAT", zlib.compress(lines.tobytes())) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + profile + body


# --------------------------------------------------------------------------------------- masks and kernels


def read_mask(path: str | Path, keep: Literal["black", "white"] = "black") -> Array:
    """A mask file as keep, (H, W): 1 = observed, 0 = to fill. keep: the colour that means observed."""
    return binary_mask(read_image(path), keep)[0]


def binary_mask(picture: Picture, keep: Literal["black", "white"] = "black") -> tuple[Array, str]:
    """keep as `read_mask` gives it, and a note where greys had to be cut at one half, "" where not.

    Colours count by their mean; transparent parts of a mask are black, since tools that paint masks leave the
    rest of the layer clear.
    """
    grey = picture.array.mean(axis=2)
    if picture.alpha is not None:
        grey = grey * picture.alpha
    white = grey >= 0.5
    between = np.mean((grey > 0.02) & (grey < 0.98))
    note = f"{picture.path}: {between:.1%} of the mask is grey; cut at one half" if between > 0 else ""
    return (white if keep == "white" else ~white).astype(np.float32), note


def read_kernel(path: str | Path, index: int | None = None) -> NDArray[np.float64]:
    """A blur kernel, (h, w), scaled to sum 1, from a picture, a .npy array or a .mat file (any version).

    index: which of the kernels, where a .mat file holds several, from 0.
    """
    path = Path(path)
    data = _read_bytes(path)
    if path.suffix.lower() == ".mat":
        kernel = _numbers(path, _choose(path, _read_mat(path, data), index))
    elif index is not None:
        raise RequestError(f"{path}: only .mat files hold several kernels, so :{index} means nothing here")
    elif path.suffix.lower() == ".npy":
        kernel = _load_npy(path, data)
    else:
        kernel = read_image(path).array.mean(axis=2, dtype=np.float64)
    return unit_kernel(kernel, str(path))


def unit_kernel(kernel: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """The kernel scaled to sum 1, so that a blur keeps the brightness. RequestError where it cannot be."""
    if kernel.ndim != 2 or kernel.size == 0:
        raise RequestError(f"{name}: expected a kernel of two dimensions, got shape {kernel.shape}")
    total = kernel.sum()
    if not np.isfinite(total) or abs(total) <= 1e-6 * np.abs(kernel).sum():
        raise RequestError(f"{name}: expected a blur kernel with a finite sum other than zero, got {total:g}")
    return kernel / total


def _choose(path: Path, found: Sequence[NDArray[Any]], index: int | None) -> NDArray[Any]:
    if not found:
        raise RequestError(f"{path}: no matrix in this file")
    if index is None and len(found) > 1:
        raise RequestError(f"{path}: holds {len(found)} kernels; say which, from {path}:0 on")
    if index is not None and not 0 <= index < len(found):
        raise RequestError(f"{path}: expected a kernel's number from 0 to {len(found) - 1}, got {index}")
    return found[index or 0]


def _read_mat(path: Path, data: bytes) -> list[NDArray[Any]]:
    try:
        return _read_mat73(path) if b"MATLAB 7.3" in data[:128] else _read_mat5(data)
    except RequestError:
        raise
    except Exception as error:  # whatever a foreign file makes the two readers raise
        raise RequestError(f"{path}: not a readable .mat file ({type(error).__name__})") from None


def _read_mat5(data: bytes) -> list[NDArray[Any]]:
    from scipy.io import loadmat

    def matrices(value: Any) -> Iterator[NDArray[Any]]:
        if isinstance(value, np.ndarray) and value.dtype == object:
            for inner in value.flat:
                yield from matrices(inner)
        elif isinstance(value, np.ndarray) and value.ndim == 2:
            yield value

    found = loadmat(BytesIO(data))
    return [m for name, value in found.items() if not name.startswith("__") for m in matrices(value)]


def _read_mat73(path: Path) -> list[NDArray[Any]]:
    try:
        import h5py
    except ImportError:
        raise RequestError(f"{path}: MATLAB 7.3 files need h5py: pip install 'invdiff[mat]'") from None
    with h5py.File(path) as file:
        found: list[NDArray[Any]] = []
        for value in file.values():
            if not isinstance(value, h5py.Dataset):
                continue
            cells = [file[r] for r in value[()].flat] if value.dtype == h5py.ref_dtype else [value]
            found += [np.asarray(cell).T for cell in cells if cell.ndim == 2]  # MATLAB goes down columns
    return found


# ----------------------------------------------------------------------------------------- tensors, panels


def to_tensor(picture: Picture | NDArray[Any]) -> Tensor:
    """(H, W, C) → (1, C, H, W), float32, image units."""
    import torch

    array = picture.array if isinstance(picture, Picture) else picture
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)[None], np.float32))


def to_array(tensor: Tensor) -> Array:
    """(C, H, W) or (1, C, H, W) → (H, W, C), float32, image units, not clipped."""
    flat = tensor[0] if tensor.ndim == 4 else tensor
    return flat.detach().float().cpu().numpy().transpose(1, 2, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """One picture of a panel. array: (H, W, C) or (H, W), image units.

    scale: the value of the brightest colour, where the tile is a map (H, W) in false colours.
    """

    caption: str
    array: NDArray[Any]
    scale: float | None = None


def viridis(values: NDArray[Any]) -> Array:
    """(H, W) in [0, 1] → (H, W, 3): the perceptually even colours of that name."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _VIRIDIS.split()]) / 255
    at = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(values, at, anchors[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def panel(path: str | Path, tiles: Sequence[Tile], *, largest: int = 640, smallest: int = 256) -> None:
    """Write tiles side by side with their captions as an RGB PNG.

    All have one height: that of the tallest picture, enlarged by a whole factor to `smallest` pixels or more,
    and reduced to `largest` at most. A smaller tile is enlarged without smoothing, so that its pixels show.
    """
    height = max(tile.array.shape[0] for tile in tiles)
    height = min(largest, height * -(-smallest // height))
    drawn = [_draw(tile, height) for tile in tiles]
    gap = 12
    sheet = Image.new("RGB", (sum(d.width + gap for d in drawn) + gap, drawn[0].height + 2 * gap), "white")
    left = gap
    for one in drawn:
        sheet.paste(one, (left, gap))
        left += one.width + gap
    with atomic(Path(path)) as part, part.open("wb") as file:
        sheet.save(file, format="PNG")


def _draw(tile: Tile, height: int) -> Image.Image:
    """A tile and its caption beneath; a map has its colour bar there too."""
    from PIL import ImageDraw, ImageFont

    font: Any = ImageFont.load_default(size=14)
    pixels = viridis(tile.array / tile.scale) if tile.scale else tile.array.reshape(*tile.array.shape[:2], -1)
    whole = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole).convert("RGB")
    width = max(1, round(image.width * height / image.height))
    how = Image.Resampling.NEAREST if height >= image.height else Image.Resampling.LANCZOS
    bar, legend = (72, f"{tile.scale:g}") if tile.scale else (0, "")
    room = int(font.getlength(tile.caption)) + (bar and bar + int(font.getlength("0" + legend)) + 32)
    sheet = Image.new("RGB", (max(width, room), height + 26), "white")
    sheet.paste(image.resize((width, height), how), (0, 0))
    pen = ImageDraw.Draw(sheet)
    pen.text((0, height + 6), tile.caption, fill="#444444", font=font)
    if bar:
        start = room - bar - int(font.getlength(legend)) - 6
        colours = np.broadcast_to(viridis(np.linspace(0, 1, bar)[None]), (10, bar, 3))
        sheet.paste(Image.fromarray(np.rint(colours * 255).astype(np.uint8)), (start, height + 10))
        pen.text((start - 14, height + 6), "0", fill="#444444", font=font)
        pen.text((start + bar + 6, height + 6), legend, fill="#444444", font=font)
    return sheet


def _size(size: tuple[int, ...]) -> str:
    """(height, width) in the words people use: width×height."""
    return f"{size[1]}×{size[0]}"
