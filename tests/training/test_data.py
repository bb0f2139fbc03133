"""Training pictures: read from folders and zip files, checked first, drawn by (seed, step) alone."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from invdiff import images
from invdiff.errors import RequestError
from invdiff.training.data import Pictures, load_pictures, stream
from invdiff.training.recipe import Data

Make = Callable[..., Image.Image]


def load(*train: Path, channels: int = 3, **options: Any) -> Pictures:
    settings = {"crop": 16, "validation": 0, "validation_crop": 16, **options}
    return load_pictures(Data(train=[str(path) for path in train], **settings), channels)


def as_array(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_folder_a_zip_file_and_a_single_image_are_read_alike(tmp_path: Path, folder: Path) -> None:
    files = sorted(folder.iterdir())
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for file in files:
            out.write(file, f"inside/{file.name}")
    for found in (load(folder).train, load(archive).train, load(*files).train):
        assert len(found) == 8
        for image, file in zip(found, files, strict=True):
            assert image.dtype is torch.uint8
            assert np.array_equal(as_array(image), np.asarray(Image.open(file)))


def test_subfolders_are_searched_and_what_is_hidden_or_no_image_is_passed_over(
    tmp_path: Path, picture: Make
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    picture(0).save(tmp_path / "a" / "b" / "deep.PNG")
    (tmp_path / "a" / "notes.txt").write_text("notes")
    (tmp_path / "a" / "._deep.png").write_bytes(b"what macOS leaves")
    (tmp_path / "a" / "folder.png").mkdir()
    assert len(load(tmp_path / "a").train) == 1
    members = {"__MACOSX/._x.png": b"no image", "x.png": png(picture(1))}
    assert len(load(zipped(tmp_path / "mac.zip", **members)).train) == 1


def test_relative_names_are_looked_for_in_the_root_and_in_the_environments_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(load(Path(folder.name), root=str(folder.parent)).train) == 8
    monkeypatch.setenv("INVDIFF_DATA", str(folder.parent))
    assert len(load(Path(folder.name)).train) == 8


def test_grey_becomes_colour_by_repetition_and_colour_grey_by_its_luma(tmp_path: Path, picture: Make) -> None:
    colour, grey = picture(0), picture(1, mode="L")
    colour.save(tmp_path / "colour.png")
    grey.save(tmp_path / "grey.png")
    (repeated,) = load(tmp_path / "grey.png").train
    assert repeated.shape == (3, 32, 40)
    assert all(np.array_equal(channel.numpy(), np.asarray(grey)) for channel in repeated)
    (luma,) = load(tmp_path / "colour.png", channels=1).train
    assert luma.shape == (1, 32, 40)
    assert np.abs(luma[0].numpy().astype(int) - np.asarray(colour.convert("L"))).max() <= 1


def test_palette_alpha_sixteen_bits_and_rotation_are_read_as_everywhere_else(
    tmp_path: Path, picture: Make
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(0).save(tmp_path / "turned.png", exif=turned)
    picture(1).convert("RGBA").save(tmp_path / "alpha.png")
    picture(2).quantize(16).save(tmp_path / "palette.png")
    deep = np.asarray(picture(3, mode="L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "sixteen.png")
    files = sorted(tmp_path.glob("*.png"))
    for image, file in zip(load(tmp_path).train, files, strict=True):
        expected = np.broadcast_to(np.rint(255 * images.read_image(file).array), (*image.shape[1:], 3))
        assert np.array_equal(as_array(image), expected), file.name
    assert load(tmp_path / "turned.png").train[0].shape == (3, 40, 32)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_image_is_named_before_any_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    (folder / "zzz.png").write_bytes(data)
    monkeypatch.setattr(images, "decode_image", lambda path, data: pytest.fail("decoded too early"))
    with pytest.raises(RequestError, match=r"zzz\.png: ") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_truncated_image_is_named(folder: Path) -> None:
    file = folder / "5.png"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(RequestError, match=r"5\.png: the picture is truncated or corrupt"):
        load(folder)


def test_an_image_that_cannot_be_read_inside_a_zip_file_is_named_with_both(
    tmp_path: Path, picture: Make
) -> None:
    archive = zipped(tmp_path / "a.zip", **{"good.png": png(picture(0)), "bad.png": b"no image"})
    with pytest.raises(RequestError, match=r"a\.zip:bad\.png: not a picture"):
        load(archive)
    whole = bytearray(zipped(tmp_path / "b.zip", **{"good.png": png(picture(0))}).read_bytes())
    whole[200] ^= 0xFF
    (tmp_path / "b.zip").write_bytes(whole)
    with pytest.raises(RequestError, match=r"b\.zip:good\.png: cannot be read \(Bad CRC"):
        load(tmp_path / "b.zip")


def test_what_is_no_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"no zip file")
    for source, said in [
        (tmp_path / "empty", "empty: no images in it; expected"),
        (zipped(tmp_path / "none.zip", notes=b""), "none.zip: no images in it"),
        (tmp_path / "bad.zip", "bad.zip: not a readable zip file"),
        (tmp_path / "missing", "missing: no such file or folder; set data.root or INVDIFF_DATA"),
    ]:
        with pytest.raises(RequestError, match=said.replace(".", r"\.")):
            load(source)
    with pytest.raises(RequestError, match=r"data\.train: expected folders"):
        load()


def test_an_image_smaller_than_the_crop_is_named_unless_small_ones_are_left_out(
    folder: Path, picture: Make
) -> None:
    picture(9, 20, 12).save(folder / "small.png")
    with pytest.raises(RequestError, match=r"small\.png: 20×12 pixels, smaller than the crop of 16; remove"):
        load(folder)
    said: list[str] = []
    data = Data(train=[str(folder)], crop=16, validation=0, skip_small=True)
    assert len(load_pictures(data, 3, said.append).train) == 8
    assert "left out as smaller than the crop: 1 of 9 images" in said
    with pytest.raises(RequestError, match=r"0\.png: 40×32 pixels, smaller than the crop of 64"):
        load(folder, skip_small=True, crop=64)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_what_is_held_out_is_never_trained_on(folder: Path, count: int) -> None:
    got = load(folder, validation=count, validation_crop=32)
    assert got.validation.shape == (count, 3, 32, 32)
    assert len(got.train) == 8 - count
    trained = {image[:, :, 4:36].contiguous().numpy().tobytes() for image in got.train}
    assert not trained & {(255 * crop).round().byte().numpy().tobytes() for crop in got.validation}


def test_what_is_held_out_is_not_trained_on_under_another_name_either(tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "again.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for file in folder.iterdir():
            out.write(file, f"copy-{file.name}")
    assert len(load(archive, folder, validation=3).train) == 2 * (8 - 3)


def test_held_out_images_are_the_middles_of_the_last_sources_large_enough_ones(
    tmp_path: Path, folder: Path, picture: Make
) -> None:
    (tmp_path / "last").mkdir()
    for seed in range(20, 24):
        picture(seed, 20, 20).save(tmp_path / "last" / f"{seed}.png")
    large = picture(30, 60, 50)
    large.save(tmp_path / "last" / "25.png")
    got = load(folder, tmp_path / "last", validation=1, validation_crop=40)
    middle = np.asarray(large)[5:45, 10:50] / 255
    assert np.allclose(as_array(got.validation[0]), middle, atol=1e-6)
    assert len(got.train) == 12


def test_holding_out_what_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"data\.validation: 8 held out leaves none of 8 images"):
        load(folder, validation=8)
    with pytest.raises(
        RequestError, match=r"0\.png: 40×32 pixels, and no image .* data\.validation_crop, 64"
    ):
        load(folder, validation=1, validation_crop=64)


def test_no_more_is_kept_in_memory_than_the_limit(tmp_path: Path, picture: Make) -> None:
    for seed, side in enumerate([16, 16, 16, 64, 16, 16, 16, 64]):
        picture(seed, side, side).save(tmp_path / f"{seed}.png")
    for limit_kib in (3, 20, 30):
        kept = load(tmp_path, limit_mib=limit_kib / 1024).train
        assert 0 < sum(image.numel() for image in kept) <= limit_kib * 1024
    with pytest.raises(RequestError, match=r"data\.limit_mib: 0\.0001 MiB hold no image"):
        load(tmp_path, limit_mib=0.0001)


def test_a_batch_depends_on_seed_and_step_alone(folder: Path) -> None:
    pictures = load(folder)
    one = pictures.batch(7, size=5, crop=16, seed=3)
    torch.manual_seed(0)
    pictures.batch(8, size=5, crop=16, seed=3)
    assert torch.equal(load(folder).batch(7, size=5, crop=16, seed=3), one)
    assert not torch.equal(pictures.batch(8, size=5, crop=16, seed=3), one)
    assert not torch.equal(pictures.batch(7, size=5, crop=16, seed=4), one)
    assert one.shape == (5, 3, 16, 16)
    assert one.dtype is torch.float32


def test_crops_come_from_everywhere_in_every_picture_flipped_half_of_the_time() -> None:
    down, right = torch.meshgrid(torch.arange(20), torch.arange(30), indexing="ij")
    images = [torch.stack([torch.full_like(down, i), down, right]).byte() for i in range(3)]
    batch = (Pictures(images, torch.zeros(0, 3, 8, 8)).batch(0, size=3000, crop=8, seed=0) * 255).round()
    which, top = batch[:, 0, 0, 0], batch[:, 1, 0, 0]
    left, flipped = batch[:, 2, 0].min(dim=1).values, batch[:, 2, 0, 0] > batch[:, 2, 0, 1]
    assert set(which.tolist()) == {0, 1, 2}
    assert set(top.tolist()) == set(range(20 - 8 + 1))
    assert set(left.tolist()) == set(range(30 - 8 + 1))
    assert 0.45 < flipped.float().mean() < 0.55


def test_streams_of_another_step_seed_or_purpose_differ() -> None:
    draws = {torch.rand(1, generator=stream(*key)).item() for key in np.ndindex(3, 20, 4)}
    assert len(draws) == 3 * 20 * 4


def digits(path: Path, **changes: np.ndarray) -> Path:
    """Six small pictures to train on and four to test with, each of one grey that says which it is."""
    arrays = {
        "train_images": np.full((6, 12, 12), 1, np.uint8) * np.arange(10, 16, dtype=np.uint8)[:, None, None],
        "train_labels": np.array([3, 1, 2, 0, 1, 3]),
        "test_images": np.full((4, 12, 12), 1, np.uint8) * np.arange(20, 24, dtype=np.uint8)[:, None, None],
        "test_labels": np.array([0, 1, 2, 3]),
    }
    np.savez(path, **{key: value for key, value in {**arrays, **changes}.items() if value.size})
    return path


def labelled(*train: Path, classes: int, **options: Any) -> Pictures:
    settings = {"crop": 16, "validation": 0, "validation_crop": 16, **options}
    return load_pictures(Data(train=[str(path) for path in train], **settings), 1, classes=classes)


def test_arrays_are_read_with_their_labels_and_padded_with_black(tmp_path: Path) -> None:
    got = labelled(digits(tmp_path / "digits.npz"), classes=4, pad=2, validation=2)
    assert [image.shape for image in got.train] == [(1, 16, 16)] * 6
    assert [int(image[0, 8, 8]) for image in got.train] == list(range(10, 16))
    assert all(int(image.sum()) == 12 * 12 * int(image[0, 8, 8]) for image in got.train)
    assert got.labels is not None
    assert got.labels.tolist() == [3, 1, 2, 0, 1, 3]
    assert (got.validation[:, 0, 8, 8] * 255).round().tolist() == [21, 23]  # set apart by the file itself
    assert got.validation_labels is not None
    assert got.validation_labels.tolist() == [1, 3]


def test_a_batchs_labels_are_those_of_its_pictures_and_its_parts_make_the_whole(tmp_path: Path) -> None:
    pictures = labelled(digits(tmp_path / "digits.npz"), classes=4, pad=2)
    batch = pictures.batch(3, size=24, crop=16, seed=1)
    labels = pictures.batch_labels(3, size=24, seed=1)
    truth = dict(zip(range(10, 16), [3, 1, 2, 0, 1, 3], strict=True))
    assert labels.tolist() == [truth[int(grey)] for grey in (255 * batch[:, 0, 8, 8]).round()]
    parts = [slice(0, 8), slice(8, 16), slice(16, 24)]
    assert torch.equal(torch.cat([pictures.batch(3, size=24, crop=16, seed=1, part=p) for p in parts]), batch)
    assert torch.equal(torch.cat([pictures.batch_labels(3, size=24, seed=1, part=p) for p in parts]), labels)
    with pytest.raises(ValueError, match="expected pictures with labels"):
        labelled(tmp_path / "digits.npz", classes=0, pad=2).batch_labels(0, size=1, seed=0)


def test_a_folder_for_each_class_gives_the_labels(tmp_path: Path, picture: Make) -> None:
    for seed, name in enumerate(["dog", "cat", "dog", "ant"]):
        (tmp_path / name).mkdir(exist_ok=True)
        picture(seed).save(tmp_path / name / f"{seed}.png")
    got = labelled(tmp_path, classes=3)  # by name of file: ant/3, cat/1, dog/0, dog/2
    assert got.labels is not None
    assert got.labels.tolist() == [0, 1, 2, 2]
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(tmp_path.rglob("*.png")):
            out.write(file, str(file.relative_to(tmp_path)))
    zipped_labels = labelled(archive, classes=3).labels
    assert zipped_labels is not None
    assert zipped_labels.tolist() == [0, 1, 2, 2]
    with pytest.raises(RequestError, match=r"network\.classes: expected 3, as the data have \(ant, cat, dog"):
        labelled(tmp_path / "ant", tmp_path / "cat", tmp_path / "dog", classes=4)


def test_folders_named_by_numbers_are_those_labels(tmp_path: Path, picture: Make) -> None:
    for name in ("10", "2"):
        (tmp_path / name).mkdir()
        picture(int(name)).save(tmp_path / name / "a.png")
    got = labelled(tmp_path, classes=12).labels
    assert got is not None
    assert got.tolist() == [10, 2]


def test_pictures_are_not_mirrored_where_flip_is_off() -> None:
    image = torch.arange(8).expand(1, 8, 8).byte()
    for flip in (True, False):
        batch = Pictures([image], torch.zeros(0, 1, 8, 8), flip=flip).batch(0, size=200, crop=8, seed=0)
        assert bool((batch[:, 0, 0, 0] > batch[:, 0, 0, 1]).any()) is flip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_images": np.zeros(0)}, "expected arrays train_images, .*; got train_labels, test_images"),
        ({"train_images": np.zeros((6, 12, 12))}, r"got train_images \(6, 12, 12\) float64"),
        ({"train_images": np.zeros((6, 12), np.uint8)}, r"got train_images \(6, 12\) uint8"),
        ({"train_labels": np.arange(5)}, r"got train_labels \(5,\) int64"),
        ({"train_labels": np.ones(6)}, r"got train_labels \(6,\) float64"),
        ({"train_labels": np.zeros(0)}, r"train_images\[0\]: without a label; network\.classes needs"),
        ({"train_labels": np.array([0, 1, 2, 3, 4, 4])}, r"network\.classes: expected 5, as the data have"),
        ({"train_images": np.array([None] * 6)}, "cannot be read"),
    ],
)
def test_arrays_that_cannot_serve_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    file = digits(tmp_path / "digits.npz", **changes)
    with pytest.raises(RequestError, match=said) as caught:
        labelled(file, classes=4, pad=2)
    assert str(caught.value).startswith((str(file), "network.classes"))
    assert "\n" not in str(caught.value)


def test_the_middle_square_is_taken_and_resized(tmp_path: Path) -> None:
    array = np.zeros((40, 24, 3), np.uint8)
    array[8:32] = 200  # the middle square
    Image.fromarray(array).save(tmp_path / "tall.png")
    data = Data(train=["tall.png"], root=str(tmp_path), square=12, pad=1, crop=14, validation=0)
    (picture,) = load_pictures(data, 3).train
    assert picture.shape == (3, 14, 14)
    assert (picture[:, 1:13, 1:13] == 200).all()
    assert picture.sum() == 200 * 3 * 144
