"""Requests become operators and measurements; everything wrong about them is said before torch is needed."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff import tasks
from invdiff.errors import RequestError
from invdiff.images import Array, Picture, read_image, read_kernel
from invdiff.operators import Blur, CircularBlur, Downsample, Identity, Mask
from invdiff.restore import abilities
from invdiff.tasks import Options, check, make_mask, parse_kernel


def picture(height: int = 12, width: int = 10, channels: int = 3, seed: int = 0) -> Picture:
    values = np.random.default_rng(seed).random((height, width, channels), np.float32)
    return Picture(array=values, path=Path("photo.png"), checksum="00")


@pytest.fixture
def mask(tmp_path: Path) -> str:
    holes = np.zeros((12, 10), np.uint8)
    holes[3:6, 2:9] = 255
    Image.fromarray(holes).save(tmp_path / "m.png")
    return str(tmp_path / "m.png")


def options_for(task: str, mask: str) -> Options:
    return {
        "inpaint": Options(mask=mask),
        "deblur": Options(kernel="motion:5,30"),
        "sr": Options(scale=2),
        "denoise": Options(noise=0.1),
    }[task]


@pytest.mark.parametrize(
    "task, options, message",
    [
        ("inpant", Options(), "Did you mean 'inpaint'"),
        ("inpaint", Options(), "inpaint needs --mask FILE or FOLDER"),
        ("inpaint", Options(mask="nowhere.png"), "nowhere.png: no such file"),
        ("inpaint", Options(mask="random:0.8"), "made by invdiff degrade"),
        ("inpaint", Options(mask="alpha", kernel="disk:3"), "--kernel is for deblur; inpaint takes --mask"),
        ("inpaint", Options(mask="alpha", mask_keep="wite"), "--mask-keep.*Did you mean 'white'"),
        ("deblur", Options(), "deblur needs --kernel gaussian:1.6"),
        ("deblur", Options(kernel="gausian:2"), "Did you mean 'gaussian:STD'"),
        ("deblur", Options(kernel="gaussian"), "expected gaussian:STD"),
        ("deblur", Options(kernel="gaussian:-1"), "expected gaussian:STD"),
        ("deblur", Options(kernel="motion:5,10,3"), "expected motion:LENGTH,ANGLE"),
        ("deblur", Options(kernel="nowhere.npy"), "nowhere.npy: no such file"),
        ("deblur", Options(kernel="disk:3", border="reflet"), "Did you mean 'reflect'"),
        ("deblur", Options(kernel="disk:3", scale=2), "--scale is for sr"),
        ("sr", Options(), "sr needs --scale"),
        ("sr", Options(scale=1), "from 2 to 16, got 1"),
        ("sr", Options(scale=2, sr_kernel="cubic"), "Did you mean 'bicubic'"),
        ("sr", Options(scale=2, mask="alpha"), "--mask is for inpaint"),
        ("denoise", Options(), "denoise needs --noise"),
        ("denoise", Options(noise="0"), "nothing to do"),
        ("denoise", Options(noise="-0.1"), r"8-bit 25 is 0.098\), got -0.1"),
        ("denoise", Options(noise="25"), r"8-bit 25 is 0.098\), got 25"),
        ("denoise", Options(noise="nan"), "got nan"),
        ("denoise", Options(noise="loud"), "expected auto, or a standard deviation"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(task: str, options: Options, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        check(task, options)
    assert "\n" not in str(caught.value)


def test_a_method_the_task_cannot_use_names_those_that_can() -> None:
    with pytest.raises(RequestError, match=r"repaint.*needs a mask.*dps"):
        check("sr", Options(scale=2), method="repaint")
    with pytest.raises(RequestError, match="singular values"):
        check("deblur", Options(kernel="disk:2", noise=0.1), method="ddnm")
    check("deblur", Options(kernel="disk:2", noise=0.1, border="circular"), method="ddnm")
    check("deblur", Options(kernel="gaussian:2", noise=0.1), method="ddnm")  # separable


@pytest.mark.parametrize("task", ["inpaint", "deblur", "sr", "denoise"])
def test_each_task_builds_its_operator_and_a_measurement_that_fits_it(task: str, mask: str) -> None:
    problem = check(task, options_for(task, mask)).measurement(picture()).problem(3)
    kind = {"inpaint": Mask, "deblur": Blur, "sr": Downsample, "denoise": Identity}[task]
    assert isinstance(problem.operator, kind)
    assert problem.operator.out_shape == tuple(problem.y.shape[1:])
    assert problem.y.shape[0] == 1


@pytest.mark.parametrize("border", ["valid", "circular"])
@pytest.mark.parametrize("task", ["inpaint", "deblur", "sr", "denoise"])
def test_a_task_promises_what_its_operator_can_do(task: str, border: str, mask: str) -> None:
    options = options_for(task, mask)
    if task == "deblur":
        options = Options(kernel="disk:1", border=border)
    checked = check(task, options)
    operator = checked.measurement(picture()).problem(3).operator
    assert checked.abilities == abilities(operator)
    assert isinstance(operator, CircularBlur) == (task == "deblur" and border == "circular")


@pytest.mark.parametrize(
    "given",
    [
        "gaussian:1.6",
        "gaussian:0.5",
        "disk:3",
        "disk:2.6",
        "motion:9",
        "motion:0.5",
        "motion:9,90",
        "motion:9.5,180",
    ]
    + [f"motion:{length},{angle}" for length in (2, 5, 15) for angle in (-20, 20, 45, 70, 200)],
)
def test_the_size_of_a_kernel_is_known_without_building_it(given: str) -> None:
    kernel = parse_kernel(given)
    assert tuple(kernel.tensor().shape) == kernel.size


def test_a_kernel_file_is_used_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", [[0.0, 0.5], [0.25, 0.25]])
    kernel = parse_kernel(str(tmp_path / "k.npy"))
    assert np.array_equal(kernel.tensor().numpy(), read_kernel(tmp_path / "k.npy"))


def test_a_kernel_larger_than_the_picture_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"photo.png: the kernel gaussian:2 \(17×17\) is larger.*\(10×12\)"
    ):
        check("deblur", Options(kernel="gaussian:2")).measurement(picture())


@pytest.mark.parametrize(
    "holes, message",
    [
        (np.zeros((12, 11)), r"the mask is 11×12, the picture photo.png is 10×12"),
        (np.full((12, 10), 255), "everything is to be filled in .* add --mask-keep white"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path, holes: Any, message: str) -> None:
    Image.fromarray(holes.astype(np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(RequestError, match=message):
        check("inpaint", Options(mask=str(tmp_path / "m.png"))).measurement(picture())


def test_a_mask_with_nothing_to_fill_warns_and_goes_on(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(tmp_path / "m.png")
    measured = check("inpaint", Options(mask=str(tmp_path / "m.png"))).measurement(picture())
    assert "nothing to fill in" in measured.notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measured.problem(3).operator.out_shape == (3, 12, 10)


def test_what_a_picture_holds_in_its_holes_is_not_part_of_the_measurement(mask: str) -> None:
    problem = check("inpaint", Options(mask=mask)).measurement(picture()).problem(3)
    assert float(problem.y[:, :, 3:6, 2:9].abs().max()) == 0
    assert float(problem.y[:, :, :3].min()) > 0


def test_masks_in_a_folder_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("masks/a.png", "masks/b_mask.png", "masks/c.png", "masks/c_mask.png"):
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / name)
    masks = tasks.parse_masks(str(tmp_path / "masks"), None, making=False)
    found = {stem: masks.path_for(Path(f"{stem}.jpg")).name for stem in "abc"}
    assert found == {"a": "a.png", "b": "b_mask.png", "c": "c_mask.png"}
    with pytest.raises(RequestError, match=r"d.jpg: no mask for it in .*masks; expected d\.\* or d_mask\.\*"):
        masks.path_for(Path("d.jpg"))


def test_a_picture_is_never_its_own_mask(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(RequestError, match="no mask for it"):
        tasks.parse_masks(str(tmp_path), None, making=False).path_for(tmp_path / "a.png")


def test_alpha_is_a_mask_only_where_asked() -> None:
    alpha = np.ones((12, 10), np.float32)
    alpha[2:5, 2:5] = 0.2
    clear = Picture(array=picture().array, alpha=alpha, path=Path("photo.png"))
    measured = check("inpaint", Options(mask="alpha")).measurement(clear)
    assert measured.mask is not None
    assert np.array_equal(measured.mask.keep, alpha >= 0.5)
    assert measured.picture.alpha is not None
    assert measured.picture.alpha.min() == 1  # what was filled in is there now
    with pytest.raises(RequestError, match="alpha channel"):
        check("inpaint", Options(mask="alpha")).measurement(picture())


def test_a_grey_picture_meets_a_colour_prior_as_three_channels_that_count_once() -> None:
    problem = check("denoise", Options(noise=0.1)).measurement(picture(channels=1)).problem(3)
    assert problem.y.shape == (1, 3, 12, 10)
    assert problem.sigma_y == pytest.approx(0.1 * 3**0.5)
    samples = torch.randn(2, 1, 3, 12, 10)
    expected = samples.mean(dim=2).permute(0, 2, 3, 1)
    assert problem.pictures(samples).shape == (2, 12, 10, 1)
    np.testing.assert_allclose(problem.pictures(samples), expected, rtol=1e-5, atol=1e-6)


def test_a_colour_picture_meets_a_grey_prior_channel_by_channel() -> None:
    photo = picture()
    problem = check("denoise", Options(noise=0.1)).measurement(photo).problem(1)
    assert problem.y.shape == (3, 1, 12, 10)
    assert problem.operator.in_shape == (1, 12, 10)
    assert problem.sigma_y == 0.1
    assert np.array_equal(problem.pictures(problem.y[None])[0], photo.array)


@pytest.mark.parametrize("channels", [None, 3])
def test_a_colour_picture_and_a_colour_prior_need_nothing(channels: int | None) -> None:
    photo = picture()
    problem = check("denoise", Options(noise=0.1)).measurement(photo).problem(channels)
    assert np.array_equal(problem.pictures(problem.y[None])[0], photo.array)


def test_a_prior_of_other_channels_is_refused() -> None:
    with pytest.raises(RequestError, match="got one of 4"):
        check("denoise", Options(noise=0.1)).measurement(picture()).problem(4)


@pytest.mark.parametrize("kernel", ["[[0, 0, 1]]", "[[1, 0]]", "[[1], [0], [0], [0]]"])
def test_the_margin_of_a_valid_blur_is_cut_off_where_the_kernels_middle_says(
    tmp_path: Path, kernel: str
) -> None:
    import json

    values = np.array(json.loads(kernel), float)
    np.save(tmp_path / "k.npy", values)
    task = check("deblur", Options(kernel=str(tmp_path / "k.npy")))
    measured = task.measurement(picture())
    problem = measured.problem(3)
    x = torch.rand(1, *problem.operator.in_shape)
    # A kernel of a single 1 moves the picture; moved to the kernel's middle it is the picture itself.
    middle = np.zeros_like(values)
    middle[values.shape[0] // 2, values.shape[1] // 2] = 1
    still = Blur(torch.from_numpy(middle), problem.operator.in_shape, "valid").A(x)[0].permute(1, 2, 0)
    np.testing.assert_allclose(problem.pictures(x[None])[0], still, atol=1e-6)
    assert task.measured_size(task.unknown_size((12, 10))) == (12, 10)


def test_a_reference_is_cut_to_the_result_or_refused() -> None:
    deblur, sr = check("deblur", Options(kernel="disk:1")), check("sr", Options(scale=4))
    array = picture(14, 12).array
    assert tasks.align_reference(array, (12, 10), deblur) is not None
    assert np.array_equal(tasks.align_reference(array, (12, 10), deblur), array[1:-1, 1:-1])  # type: ignore[arg-type]
    assert tasks.align_reference(array, (14, 12), deblur) is array
    assert tasks.align_reference(array, (16, 12), sr) is array
    assert tasks.align_reference(array, (12, 12), sr) is None
    assert tasks.align_reference(array, (20, 12), sr) is None


def test_a_blur_not_told_its_noise_estimates_it_and_has_at_least_the_rounding_of_its_file() -> None:
    task = check("deblur", Options(kernel="disk:1"))
    smooth = replace(picture(), array=np.full_like(picture().array, 0.5))
    assert task.measurement(smooth).sigma_y == pytest.approx(1 / 255 / 12**0.5)
    noise = np.random.default_rng(0).normal(0, 0.05, (64, 64, 3)).astype(np.float32)
    assert task.measurement(replace(smooth, array=0.5 + noise)).sigma_y == pytest.approx(0.05, rel=0.15)
    assert check("deblur", Options(kernel="disk:1", noise="0")).measurement(picture()).sigma_y == 0
    assert check("sr", Options(scale=2)).measurement(picture()).sigma_y == 0


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_is_estimated_on_a_photograph(shared_data: Path, sigma: float) -> None:
    clean = read_image(shared_data / "eval" / "set5" / "baby_GT.bmp")
    noise = np.random.default_rng(0).normal(0, sigma, clean.array.shape)
    noisy = Picture(array=(clean.array + noise).astype(np.float32))
    keep: Array = np.ones(clean.size, np.float32)
    keep[: clean.size[0] // 2] = 0
    assert tasks.estimate_noise(noisy) == pytest.approx(sigma, rel=0.15)
    assert tasks.estimate_noise(noisy, keep) == pytest.approx(sigma, rel=0.25)
    assert check("denoise", Options(noise="auto")).measurement(noisy).sigma_y == tasks.estimate_noise(noisy)


def test_noise_of_pure_noise_is_its_standard_deviation() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (300, 300, 3)).astype(np.float32)
    assert tasks.estimate_noise(Picture(array=noise)) == pytest.approx(0.05, rel=0.02)


def test_noise_in_the_holes_of_a_mask_does_not_count() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (200, 200, 1)).astype(np.float32)
    noise[80:] *= 8
    keep: Array = np.ones((200, 200), np.float32)
    keep[80:] = 0
    assert tasks.estimate_noise(Picture(array=noise), keep) == pytest.approx(0.05, rel=0.05)


def test_noise_is_not_estimated_from_scattered_pixels() -> None:
    with pytest.raises(RequestError, match="leaves too little for --noise auto"):
        tasks.estimate_noise(picture(64, 64), make_mask("random:0.8", (64, 64)))


@pytest.mark.parametrize("how", ["random:0.3", "box:8", "scratch", "scratch:3", "text", "text:0.2"])
def test_a_made_up_mask_is_fixed_by_its_seed(how: str) -> None:
    first, again, other = (make_mask(how, (40, 50), seed) for seed in (0, 0, 1))
    assert first.shape == (40, 50)
    assert set(np.unique(first)) == {0, 1}
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == how.startswith("box")


def test_made_up_masks_lose_what_they_say() -> None:
    assert 1 - make_mask("random:0.8", (200, 200)).mean() == pytest.approx(0.8, abs=0.01)
    box = make_mask("box:8", (40, 50))
    assert box[16:24, 21:29].max() == 0
    assert (1 - box).sum() == 64


@pytest.mark.parametrize("how", ["random:1.5", "random:x", "box", "box:0", "scratches"])
def test_a_mask_that_cannot_be_made_is_refused(how: str) -> None:
    with pytest.raises(RequestError, match="expected"):
        make_mask(how, (40, 50))


def test_a_degraded_picture_is_the_operator_plus_noise_fixed_by_seed_and_picture() -> None:
    task = check("denoise", Options(noise=0.1))
    photo = picture(100, 100)
    first, words = tasks.degrade(task, photo, None, seed=0)
    again, other = tasks.degrade(task, photo, None, seed=0)[0], tasks.degrade(task, photo, None, seed=1)[0]
    assert "Identity" in words
    assert np.array_equal(first, again)
    assert (first - photo.array).std() == pytest.approx(0.1, rel=0.02)
    assert np.corrcoef((first - photo.array).ravel(), (other - photo.array).ravel())[0, 1] < 0.05


def test_a_picture_too_small_to_be_measured_is_refused() -> None:
    for task in (check("sr", Options(scale=12)), check("deblur", Options(kernel="gaussian:1"))):
        with pytest.raises(RequestError, match="expected 2×2 or more"):
            tasks.check_degradable(task, picture(10, 9))
