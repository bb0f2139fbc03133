"""Pictures, masks and kernels as files: what comes in goes out as it came, and what is broken is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from invdiff import images
from invdiff.errors import RequestError
from invdiff.images import Picture, Tile, read_image, read_kernel, read_mask, write_image


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)


def of_mode(mode: str, pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(pixels)
    if mode == "P":
        return image.convert("RGB").quantize(9)
    if mode == "1":
        return image.convert("L").point(lambda v: 255 * (v > 120)).convert("1")
    return image.convert(mode)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_an_untouched_picture_is_written_as_it_came_bit_for_bit(
    tmp_path: Path, pixels: NDArray[np.uint8], mode: str, suffix: str
) -> None:
    of_mode(mode, pixels).save(tmp_path / f"in{suffix}")
    picture = read_image(tmp_path / f"in{suffix}")
    write_image(tmp_path / f"out{picture.suffix}", picture.array, picture)
    before, after = Image.open(tmp_path / f"in{suffix}"), Image.open(tmp_path / f"out{suffix}")
    assert after.mode == before.mode == mode
    assert after.format == before.format
    assert np.array_equal(np.asarray(after.convert("RGBA")), np.asarray(before.convert("RGBA")))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_all_sixteen_bits_of_a_png_survive(tmp_path: Path, channels: int) -> None:
    whole = np.random.default_rng(1).integers(0, 65536, (6, 5, channels), np.uint16)
    (tmp_path / "in.png").write_bytes(images._png(whole, None))
    picture = read_image(tmp_path / "in.png")
    assert picture.bits == 16
    assert (picture.channels, picture.alpha is not None) == {
        1: (1, False),
        2: (1, True),
        3: (3, False),
        4: (3, True),
    }[channels]
    values = picture.array if picture.alpha is None else np.dstack([picture.array, picture.alpha])
    assert np.array_equal(np.rint(values * 65535), whole)
    write_image(tmp_path / "out.png", picture.array, picture)
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "in.png").read_bytes()
    with Image.open(tmp_path / "out.png") as seen:  # by a reader that is not ours, as far as that one goes
        theirs = np.asarray(seen).reshape(6, 5, -1)
    assert np.array_equal(theirs[:, :, -1], whole[:, :, -1] >> (0 if channels == 1 else 8))
    assert np.array_equal(theirs[:, :, 0], whole[:, :, 0] >> (0 if channels == 1 else 8))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_all_sixteen_bits_of_a_tiff_survive(
    tmp_path: Path, compression: str | None, order: Any, channels: int
) -> None:
    whole = np.random.default_rng(2).integers(0, 65536, (6, 5, channels), np.uint16)
    tifffile.imwrite(
        tmp_path / "in.tiff",
        whole if channels > 1 else whole[:, :, 0],
        photometric="rgb" if channels > 1 else "minisblack",
        extrasamples=["unassalpha"] if channels == 4 else None,
        compression=compression,
        byteorder=order,
    )
    picture = read_image(tmp_path / "in.tiff")
    assert picture.suffix == ".tiff"
    write_image(tmp_path / "out.tiff", picture.array, picture)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tiff").reshape(whole.shape), whole)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_is_read_upright_and_written_without_the_tag(
    tmp_path: Path, orientation: int
) -> None:
    from PIL import ImageOps

    image = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "in.png", exif=exif)
    picture = read_image(tmp_path / "in.png")
    write_image(tmp_path / "out.png", picture.array, picture)
    with Image.open(tmp_path / "in.png") as before, Image.open(tmp_path / "out.png") as after:
        assert np.array_equal(np.asarray(after), np.asarray(ImageOps.exif_transpose(before)))
        assert 0x0112 not in after.getexif()


def test_the_colour_profile_is_kept_with_8_and_with_16_bits(
    tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    of_mode("RGB", pixels).save(tmp_path / "in.png", icc_profile=profile)
    (tmp_path / "deep.png").write_bytes(images._png(pixels[:, :, :3].astype(np.uint16) * 257, profile))
    for name in ("in.png", "deep.png"):
        picture = read_image(tmp_path / name)
        write_image(tmp_path / f"out_{name}", picture.array, picture)
        with Image.open(tmp_path / f"out_{name}") as after:
            assert after.info["icc_profile"] == profile


@pytest.mark.parametrize("clear", [3, bytes([255, 0, 128, 255, 7])])
def test_a_palette_with_transparency_keeps_colours_and_alpha(
    tmp_path: Path, pixels: NDArray[np.uint8], clear: int | bytes
) -> None:
    of_mode("P", pixels).save(tmp_path / "in.png", transparency=clear)
    picture = read_image(tmp_path / "in.png")
    assert picture.alpha is not None
    assert picture.alpha.min() == 0
    write_image(tmp_path / "out.png", picture.array, picture)
    with Image.open(tmp_path / "in.png") as before, Image.open(tmp_path / "out.png") as after:
        assert after.mode == "P"
        assert np.array_equal(np.asarray(after.convert("RGBA")), np.asarray(before.convert("RGBA")))


def test_palette_entries_of_one_colour_are_told_apart_by_their_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(np.uint8([[0, 1, 2], [2, 1, 0]]))
    image.putpalette([9, 9, 9, 9, 9, 9, 200, 0, 0])
    image.save(tmp_path / "in.png", transparency=bytes([0, 255, 128]))
    picture = read_image(tmp_path / "in.png")
    write_image(tmp_path / "out.png", picture.array, picture)
    with Image.open(tmp_path / "out.png") as after:
        assert np.asarray(after).tolist() == [[0, 1, 2], [2, 1, 0]]


def test_alpha_follows_an_enlarged_picture(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    of_mode("RGBA", pixels).save(tmp_path / "in.png")
    picture = read_image(tmp_path / "in.png")
    write_image(tmp_path / "out.png", np.kron(picture.array, np.ones((2, 2, 1))), picture)
    with Image.open(tmp_path / "out.png") as after:
        assert (after.mode, after.size) == ("RGBA", (14, 10))


def test_a_jpeg_comes_out_as_png_and_cmyk_as_rgb(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    of_mode("RGB", pixels).convert("CMYK").save(tmp_path / "in.jpg")
    picture = read_image(tmp_path / "in.jpg")
    assert (picture.suffix, picture.channels) == (".png", 3)
    write_image(tmp_path / "out.png", picture.array, picture)
    with Image.open(tmp_path / "out.png") as after:
        assert (after.format, after.mode) == ("PNG", "RGB")


def test_an_array_in_image_units_is_read_and_written_as_an_array(tmp_path: Path) -> None:
    array = np.random.default_rng(3).normal(0.5, 0.4, (4, 6)).astype(np.float32)
    np.save(tmp_path / "in.npy", array)
    picture = read_image(tmp_path / "in.npy")
    assert np.array_equal(picture.array[:, :, 0], array)  # noise beyond 0 and 1 is part of a measurement
    write_image(tmp_path / "out.npy", picture.array, picture)
    assert np.array_equal(np.load(tmp_path / "out.npy")[:, :, 0], array.clip(0, 1))


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"not a picture at all", "not a picture"),
        ("truncated", "truncated"),
        ("one pixel", "at least 2×2"),
        (np.full((4, 4), np.nan), "NaN or infinity in 16 places"),
        (np.full((4, 4), 128.0), "divide by 255"),
        (np.zeros((4, 4, 5)), r"\(H, W\) or \(H, W, 3\)"),
        (np.zeros((4, 4), complex), "real numbers"),
    ],
)
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, kind: str, content: Any, message: str) -> None:
    path = tmp_path / f"broken.{kind}"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    if isinstance(content, np.ndarray):
        path = path.with_suffix(".npy")
        np.save(path, content)
    elif content == "truncated":
        image.save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content == "one pixel":
        image.crop((0, 0, 1, 1)).save(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out.png").write_bytes(b"before")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_image(tmp_path / "out.png", np.zeros((4, 4, 3)))
    assert (tmp_path / "out.png").read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_a_folder_lists_its_pictures_by_name_and_an_empty_one_is_an_error(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert [p.name for p in images.list_images(tmp_path)] == ["a.jpg", "b.PNG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no pictures in this folder"):
        images.list_images(tmp_path / "empty")
    (tmp_path / "empty" / "y.npy").touch()
    with pytest.raises(RequestError, match=r"\*\.jpg; name a \.npy file itself"):
        images.list_images(tmp_path / "empty")


def test_white_is_to_fill_in_unless_asked_otherwise(tmp_path: Path) -> None:
    Image.fromarray(np.uint8([[255, 0], [0, 0]])).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1], [1, 1]]
    assert read_mask(tmp_path / "m.png", keep="white").tolist() == [[1, 0], [0, 0]]


def test_a_soft_mask_is_cut_at_one_half_with_a_note(tmp_path: Path) -> None:
    Image.fromarray(np.uint8([[255, 130], [120, 0]])).save(tmp_path / "m.png")
    keep, note = images.binary_mask(read_image(tmp_path / "m.png"))
    assert keep.tolist() == [[0, 0], [1, 1]]
    assert "50.0% of the mask is grey" in note


def test_clear_parts_of_a_painted_mask_are_kept(tmp_path: Path) -> None:
    Image.fromarray(np.uint8([[[255, 255, 255, 255], [255, 255, 255, 0]]] * 2)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1], [0, 1]]


def test_a_kernel_from_a_picture_or_an_array_sums_to_one(tmp_path: Path) -> None:
    Image.fromarray(np.uint8([[0, 100, 0], [100, 200, 0]])).save(tmp_path / "k.png")
    np.save(tmp_path / "k.npy", np.array([[0, 1, 0], [1, 2, 0]]))
    for name in ("k.png", "k.npy"):
        np.testing.assert_allclose(
            read_kernel(tmp_path / name), np.array([[0, 1, 0], [1, 2, 0]]) / 4, rtol=1e-6
        )


@pytest.mark.parametrize(
    "array, message",
    [(np.zeros((3, 3)), "other than zero"), (np.full((3, 3), np.nan), "NaN"), (np.ones(3), "two dimensions")],
)
def test_an_impossible_kernel_is_refused(tmp_path: Path, array: NDArray[Any], message: str) -> None:
    np.save(tmp_path / "k.npy", array)
    with pytest.raises(RequestError, match=message):
        read_kernel(tmp_path / "k.npy")


def test_one_of_several_matlab_kernels_is_chosen_by_number(tmp_path: Path) -> None:
    from scipy.io import savemat

    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.eye(3), np.ones((2, 5))
    savemat(tmp_path / "k.mat", {"kernels": cells})
    assert read_kernel(tmp_path / "k.mat", 1).shape == (2, 5)
    for index, message in ((None, "holds 2 kernels"), (2, "from 0 to 1")):
        with pytest.raises(RequestError, match=message):
            read_kernel(tmp_path / "k.mat", index)


@pytest.mark.parametrize("name, count", [("Levin09.mat", 8), ("kernels_12.mat", 12)])
def test_the_kernels_of_the_literature_are_read(shared_data: Path, name: str, count: int) -> None:
    found = [read_kernel(shared_data / "eval" / "kernels" / name, index) for index in range(count)]
    assert all(k.min() > -1e-6 and abs(k.sum() - 1) < 1e-12 and min(k.shape) > 5 for k in found)


def test_tensors_are_batch_channel_row_column_and_come_back() -> None:
    array = np.random.default_rng(0).random((3, 5, 3), np.float32)
    tensor = images.to_tensor(Picture(array=array))
    assert tensor.shape == (1, 3, 3, 5)
    assert np.array_equal(images.to_array(tensor), array)
    assert np.array_equal(images.to_array(tensor[0]), array)


def test_the_uncertainty_map_has_a_fixed_scale(tmp_path: Path) -> None:
    images.write_std(tmp_path / "std.png", np.array([[0, 0.05], [0.1, 0.7]]))
    with Image.open(tmp_path / "std.png") as seen:
        assert np.asarray(seen).tolist() == [[0, 16384], [32768, 65535]]


def test_the_map_colours_run_evenly_from_dark_to_light() -> None:
    light = images.viridis(np.linspace(0, 1, 101)[None])[0] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(light) > 0).all()


def test_a_panel_shows_tiles_at_one_height_with_small_ones_enlarged(tmp_path: Path) -> None:
    tiles = [
        Tile(caption="measured", array=np.full((8, 16, 1), 0.25)),
        Tile(caption="restored", array=np.full((32, 64, 3), 1.5)),
        Tile(caption="uncertainty", array=np.zeros((32, 64)), scale=0.2),
    ]
    images.panel(tmp_path / "p.png", tiles)
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    assert sheet.shape[0] > 256
    assert sheet[20, 20].tolist() == [64, 64, 64]
    assert sheet[20 + 240, 12 + 500].tolist() == [64, 64, 64]
    assert sheet[20, 12 + 512 + 12 + 100].tolist() == [255, 255, 255]
    assert sheet[20, 12 + 2 * (512 + 12) + 100].tolist() == [68, 1, 84]
