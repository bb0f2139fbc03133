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

from invdiff import measurements, tasks
from invdiff.catalog import TASKS
from invdiff.errors import RequestError
from invdiff.images import Array, Numbers, Picture, read_image, read_kernel
from invdiff.masks import make_mask, parse_masks
from invdiff.noise import estimate_noise
from invdiff.operators import JPEG, OPERATORS, Blur, CircularBlur, PoissonNoise
from invdiff.restore import abilities
from invdiff.tasks import Options, check, check_request, parse_kernel, parse_shape


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
        "outpaint": Options(margin=3),
        "deblur": Options(kernel="motion:5,30"),
        "sr": Options(scale=2),
        "denoise": Options(noise=0.1),
        "colorize": Options(),
        "demosaic": Options(pattern="bggr"),
        "dejpeg": Options(quality=30),
        "hdr": Options(gain=3),
        "dequantize": Options(bits=3),
    }[task]


def picture_for(task: str) -> Picture:
    return picture(channels=1 if task in ("colorize", "demosaic") else 3)


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
        (
            "deblur",
            Options(kernel="gaussian:-1"),
            "expected gaussian:STD; std: .*above 0, up to 1000, got -1",
        ),
        ("deblur", Options(kernel="gaussian:0"), "expected gaussian:STD; std: .*above 0, up to 1000, got 0"),
        ("deblur", Options(kernel="random:1,8"), "random:SEED,SIZE,INTENSITY; size: expected an odd number"),
        ("deblur", Options(kernel="motion:5,10,3"), "expected motion:LENGTH,ANGLE"),
        ("deblur", Options(kernel="nowhere.npy"), "nowhere.npy: no such file"),
        ("deblur", Options(kernel="disk:3", border="reflet"), "Did you mean 'reflect'"),
        ("deblur", Options(kernel="disk:3", scale=2), "--scale is for sr"),
        ("sr", Options(), "sr needs --scale"),
        ("sr", Options(scale=1), "from 2 to 16, got 1"),
        ("sr", Options(scale=2, sr_kernel="cubic"), "Did you mean 'bicubic'"),
        ("sr", Options(scale=2, mask="alpha"), "--mask is for inpaint"),
        (
            "sr",
            Options(scale=2, shape="3x4x4"),
            "--shape is for --operator; sr takes --scale, --sr-kernel, --noise",
        ),
        ("deblur", Options(kernel="random:1.5"), "expected random:SEED,SIZE,INTENSITY"),
        ("deblur", Options(kernel="random:1,9,2"), "expected random:SEED,SIZE,INTENSITY"),
        ("outpaint", Options(), "outpaint needs --margin 32"),
        ("outpaint", Options(margin=0), "from 1 to 4096, got 0"),
        ("demosaic", Options(pattern="rgbg"), "Did you mean 'rggb'"),
        ("dejpeg", Options(quality=0), "from 1 to 100, got 0"),
        ("dejpeg", Options(quality=50, subsampling="4:2:1"), "expected one of 4:4:4, 4:2:2, 4:2:0"),
        ("dejpeg", Options(subsampling="4:2:0"), "--subsampling goes with --quality"),
        ("hdr", Options(gain=-2), "--gain: expected a number above 0"),
        ("dequantize", Options(), "dequantize needs --bits"),
        ("dequantize", Options(bits=17), "from 1 to 16, got 17"),
        ("denoise", Options(noise="poison:3"), "Did you mean 'poisson'"),
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


@pytest.mark.parametrize("task", TASKS)
def test_each_task_builds_its_operator_and_a_measurement_that_fits_it(task: str, mask: str) -> None:
    measured = check(task, options_for(task, mask)).measurement(picture_for(task))
    problem = measured.problem(3)
    assert isinstance(problem.operator, OPERATORS[TASKS[task].operator])
    assert problem.operator.out_shape == tuple(problem.y.shape[1:])
    assert problem.operator.in_shape == measured.shape
    assert problem.y.shape[0] == 1
    assert problem.pictures(torch.rand(1, 1, *measured.shape)).shape == (1, *measured.size, 3)


@pytest.mark.parametrize("border", ["valid", "circular"])
@pytest.mark.parametrize("task", TASKS)
def test_a_task_promises_what_its_operator_can_do(task: str, border: str, mask: str) -> None:
    options = options_for(task, mask)
    if task == "deblur":
        options = Options(kernel="disk:1", border=border)
    checked = check(task, options)
    operator = checked.measurement(picture_for(task)).problem(3).operator
    assert checked.spec.abilities() == abilities(operator)
    assert TASKS[task].abilities <= abilities(operator)
    assert isinstance(operator, CircularBlur) == (task == "deblur" and border == "circular")


def test_every_task_is_made_here() -> None:
    assert set(tasks.MAKERS) == set(TASKS)


def test_one_of_task_and_operator_is_asked_for() -> None:
    with pytest.raises(RequestError, match=r"give --task \(inpaint, .*\) or --operator"):
        check_request(None, None, Options())
    with pytest.raises(RequestError, match="give one of them"):
        check_request("sr", "identity", Options(scale=2))
    with pytest.raises(RequestError, match="--scale is for sr; --operator takes --shape, --noise"):
        check_request(None, "identity", Options(scale=2))
    with pytest.raises(RequestError, match="needs a linear operator; methods that can do this: dps, diffpir"):
        check_request(None, "{jpeg: {quality: 20}}", Options(noise=0.1), method="ddnm")


@pytest.mark.parametrize("given", ["3x4", "x", "3x0x4", "3,4,4", "-1x4x4"])
def test_a_shape_is_three_numbers(given: str) -> None:
    assert parse_shape("3x4x5") == (3, 4, 5)
    with pytest.raises(RequestError, match="as 3x256x256"):
        parse_shape(given)


def test_records_of_before_are_recognised(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "m.png")
    mask = str(tmp_path / "m.png")
    found = [
        check(task, options).describe()
        for task, options in {
            "inpaint": Options(mask=mask),
            "deblur": Options(kernel="motion:15,45"),
            "sr": Options(scale=4),
            "denoise": Options(noise=0.1),
        }.items()
    ]
    assert found == [
        {"task": "inpaint", "noise": 0.0, "mask_keep": "black"},
        {
            "task": "deblur", "noise": "auto", "kernel": "motion:15,45", "kernel_sha256": "", "border": "valid",
        },
        {"task": "sr", "noise": 0.0, "scale": 4, "sr_kernel": "bicubic"},
        {"task": "denoise", "noise": 0.1},
    ]  # fmt: skip


def test_a_colour_picture_is_turned_to_grey_to_be_coloured() -> None:
    photo = picture()
    measured = check("colorize", Options()).measurement(photo)
    np.testing.assert_allclose(measured.values[0], photo.array @ [0.299, 0.587, 0.114], rtol=1e-6)
    assert "turned to grey" in measured.notes[0]
    assert check("colorize", Options()).measurement(picture(channels=1)).notes == ()


def test_a_mosaic_is_grey_whatever_its_file_says() -> None:
    task = check("demosaic", Options())
    with pytest.raises(RequestError, match=r"photo.png: expected a grey picture"):
        task.measurement(picture())
    grey = picture(channels=1)
    three = replace(grey, array=grey.array.repeat(3, axis=2))
    assert np.array_equal(task.measurement(three).values, task.measurement(grey).values)


def test_a_task_that_mixes_channels_needs_a_prior_in_colour() -> None:
    with pytest.raises(
        RequestError, match="channels of a picture unlike, so one of 3 needs a prior of as many"
    ):
        check("colorize", Options()).measurement(picture(channels=1)).problem(1)
    with pytest.raises(RequestError, match="one of 3 needs a prior of as many, got one of 1"):
        check("dejpeg", Options(quality=50)).measurement(picture()).problem(1)


def test_outpainting_adds_a_margin_to_be_filled_in() -> None:
    photo = picture()
    measured = check("outpaint", Options(margin=3)).measurement(photo)
    problem = measured.problem(3)
    assert measured.size == (18, 16)
    np.testing.assert_array_equal(problem.y[0, :, 3:-3, 3:-3], photo.array.transpose(2, 0, 1))
    assert float(problem.y.abs().sum()) == pytest.approx(float(photo.array.sum()), rel=1e-5)


def test_a_quantised_file_is_put_back_on_its_levels() -> None:
    task = check("dequantize", Options(bits=3))
    levels = np.random.default_rng(0).integers(0, 8, (12, 10, 3)) / 7
    rounded = replace(picture(), array=(np.rint(levels * 255) / 255).astype(np.float32))
    y = task.measurement(rounded).problem(3).y[0].permute(1, 2, 0)
    np.testing.assert_allclose(y, levels, atol=1e-6)


@pytest.mark.parametrize("quality", [10, 50, 95])
@pytest.mark.parametrize("chroma, subsampling", [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_a_jpeg_file_says_how_it_was_compressed(
    tmp_path: Path, quality: int, chroma: int, subsampling: str
) -> None:
    path = tmp_path / "photo.jpg"
    smooth = Image.fromarray((picture(48, 40).array * 255).astype(np.uint8)).resize((80, 96))
    smooth.save(path, quality=quality, subsampling=chroma)
    problem = check("dejpeg", Options()).measurement(read_image(path)).problem(3)
    told = check("dejpeg", Options(quality=quality, subsampling=subsampling)).measurement(read_image(path))
    original = torch.from_numpy(np.asarray(smooth, np.float32) / 255).permute(2, 0, 1)[None]
    torch.testing.assert_close(problem.operator.A(original), problem.y)
    torch.testing.assert_close(told.problem(3).operator.A(original), problem.y)


def test_negative_magnitudes_can_be_looked_at() -> None:
    asked = check_request(None, "phase_retrieval", Options(shape="1x8x8", noise=0.1))
    array = np.random.default_rng(0).normal(0, 1, (1, 16, 16)).astype(np.float32)
    seen = asked.measurement(Numbers(array=array, path=Path("y.npy"), checksum="")).problem(1).seen()
    assert seen is not None
    assert np.isfinite(seen[1]).all()
    assert seen[1].max() == pytest.approx(1)


def test_a_grey_mask_in_yaml_is_noted_as_that_of_inpaint_is(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 255, 120).reshape(12, 10).astype(np.uint8)).save(tmp_path / "m.png")
    mask = str(tmp_path / "m.png")
    plain = check("inpaint", Options(mask=mask)).measurement(picture()).notes
    assert "of the mask is grey; cut at one half" in plain[0]
    node = f"{{mask: {{file: {mask}}}}}"
    for given in (node, f"[{{clip: {{gain: 2}}}}, {node}, {{scale: 2}}]"):
        assert check_request(None, given, Options()).measurement(picture()).notes == plain
    assert check_request(None, f"{{stack: [{node}, identity]}}", Options()).spec.notes((3, 12, 10)) == plain


def test_a_shape_that_was_given_is_not_asked_for_again() -> None:
    asked = check_request(None, "identity", Options(shape="3x4x4"))
    with pytest.raises(RequestError, match=r"expected 3x4x4 for a picture 3x4x4; is that the shape it had\?"):
        asked.measurement(picture())


def test_a_grey_jpeg_file_has_one_table(tmp_path: Path) -> None:
    path = tmp_path / "grey.jpg"
    Image.fromarray((picture(16, 16, 1).array[:, :, 0] * 255).astype(np.uint8)).save(path, quality=30)
    measured = check("dejpeg", Options()).measurement(read_image(path))
    alone, three = measured.problem(1), measured.problem(3)
    assert alone.operator.in_shape == (1, 16, 16)
    assert isinstance(three.operator, JPEG)
    torch.testing.assert_close(three.y, alone.y.expand(-1, 3, -1, -1))
    torch.testing.assert_close(three.operator.A(three.y), alone.operator.A(alone.y).expand(-1, 3, -1, -1))
    # What is drawn in colour is led back to the grey that compresses to the file.
    x = three.operator.prox(torch.rand(1, 3, 16, 16), three.y, 1e9)
    assert float((x - x.mean(dim=1, keepdim=True)).abs().max()) < 0.03
    grey = torch.from_numpy(three.pictures(x[None])[0]).permute(2, 0, 1)[None]
    assert float(alone.operator.consistent(grey, alone.y)) > 0.99


def test_a_jpeg_file_that_was_turned_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 16)).save(path, exif=exif)
    with pytest.raises(RequestError, match="turned by its EXIF"):
        check("dejpeg", Options()).measurement(read_image(path))


def test_noise_of_another_kind_reaches_the_problem() -> None:
    measured = check("denoise", Options(noise="poisson:50")).measurement(picture(channels=1))
    assert measured.sigma_y == pytest.approx(0.1)
    colour, grey = measured.problem(3), measured.problem(1)
    assert (colour.sigma_y, grey.sigma_y) == (0, 0)
    assert isinstance(grey.noise, PoissonNoise)
    assert isinstance(colour.noise, PoissonNoise)
    assert (grey.noise.peak, colour.noise.peak) == (50, pytest.approx(50 / 3))
    assert check("denoise", Options(noise=0.1)).measurement(picture()).problem(3).noise is None


def test_numbers_that_are_no_picture_need_their_pictures_shape(tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    np.save(path, np.zeros((3, 32), np.float32))
    spec = "{compressed_sensing: {ratio: 0.5}}"
    task = check_request(None, spec, Options())
    with pytest.raises(RequestError, match=r"y.npy: compressed_sensing: .* --shape 3x256x256"):
        task.measurement(task.read(path))
    task = check_request(None, spec, Options(shape="3x8x4"))
    with pytest.raises(RequestError, match="has shape 3x32, expected 3x16 for a picture 3x8x4"):
        task.measurement(task.read(path))
    task = check_request(None, spec, Options(shape="3x8x8"))
    assert task.measurement(task.read(path)).size == (8, 8)
    with pytest.raises(RequestError, match="--noise auto is for measurements that are pictures"):
        check_request(None, spec, Options(shape="3x8x8", noise="auto")).measurement(task.read(path))
    with pytest.raises(RequestError, match=r"photo.png: what this operator measures is no picture"):
        task.read(tmp_path / "photo.png")


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
        "random:3",
        "random:3,9",
        "random:3,9,0.7",
    ]
    + [f"motion:{length},{angle}" for length in (2, 5, 15) for angle in (-20, 20, 45, 70, 200)],
)
def test_the_size_of_a_kernel_is_known_without_building_it(given: str) -> None:
    kernel = parse_kernel(given)
    assert tuple(kernel.tensor().shape) == kernel.kernel_size
    assert kernel.kernel_name == given


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
    masks = parse_masks(str(tmp_path / "masks"), "black", making=False)
    found = {stem: masks.path_for(Path(f"{stem}.jpg")).name for stem in "abc"}
    assert found == {"a": "a.png", "b": "b_mask.png", "c": "c_mask.png"}
    with pytest.raises(RequestError, match=r"d.jpg: no mask for it in .*masks; expected d\.\* or d_mask\.\*"):
        masks.path_for(Path("d.jpg"))


def test_a_picture_is_never_its_own_mask(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(RequestError, match="no mask for it"):
        parse_masks(str(tmp_path), "black", making=False).path_for(tmp_path / "a.png")


def test_alpha_is_a_mask_only_where_asked() -> None:
    alpha = np.ones((12, 10), np.float32)
    alpha[2:5, 2:5] = 0.2
    clear = Picture(array=picture().array, alpha=alpha, path=Path("photo.png"))
    measured = check("inpaint", Options(mask="alpha")).measurement(clear)
    assert measured.mask is not None
    assert np.array_equal(measured.mask.keep, alpha >= 0.5)
    assert measured.source.alpha is not None
    assert measured.source.alpha.min() == 1  # what was filled in is there now
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
    assert measured.size == (12, 10)


def test_a_reference_is_cut_to_the_result_or_refused() -> None:
    deblur, sr = check("deblur", Options(kernel="disk:1")).spec, check("sr", Options(scale=4)).spec
    array = picture(14, 12).array
    assert measurements.align_reference(array, (12, 10), deblur) is not None
    assert np.array_equal(measurements.align_reference(array, (12, 10), deblur), array[1:-1, 1:-1])  # type: ignore[arg-type]
    assert measurements.align_reference(array, (14, 12), deblur) is array
    assert measurements.align_reference(array, (16, 12), sr) is array
    assert measurements.align_reference(array, (12, 12), sr) is None
    assert measurements.align_reference(array, (20, 12), sr) is None


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
    assert estimate_noise(noisy) == pytest.approx(sigma, rel=0.15)
    assert estimate_noise(noisy, keep) == pytest.approx(sigma, rel=0.25)
    assert check("denoise", Options(noise="auto")).measurement(noisy).sigma_y == estimate_noise(noisy)


def test_noise_of_pure_noise_is_its_standard_deviation() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (300, 300, 3)).astype(np.float32)
    assert estimate_noise(Picture(array=noise)) == pytest.approx(0.05, rel=0.02)


def test_noise_in_the_holes_of_a_mask_does_not_count() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, (200, 200, 1)).astype(np.float32)
    noise[80:] *= 8
    keep: Array = np.ones((200, 200), np.float32)
    keep[80:] = 0
    assert estimate_noise(Picture(array=noise), keep) == pytest.approx(0.05, rel=0.05)


def test_noise_is_not_estimated_from_scattered_pixels() -> None:
    with pytest.raises(RequestError, match="leaves too little for --noise auto"):
        estimate_noise(picture(64, 64), make_mask("random:0.8", (64, 64)))


@pytest.mark.parametrize(
    "how", ["random:0.3", "box:8", "scratch", "scratch:3", "text", "text:0.2", "strokes", "strokes:0.4"]
)
def test_a_made_up_mask_is_fixed_by_its_seed(how: str) -> None:
    first, again, other = (make_mask(how, (40, 50), seed) for seed in (0, 0, 1))
    assert first.shape == (40, 50)
    assert set(np.unique(first)) == {0, 1}
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == how.startswith("box")


def test_made_up_masks_lose_what_they_say() -> None:
    assert 1 - make_mask("random:0.8", (200, 200)).mean() == pytest.approx(0.8, abs=0.01)
    assert 1 - make_mask("strokes:0.3", (40, 50)).mean() == pytest.approx(0.3)
    assert make_mask("lines:2", (40, 50)).sum(1).tolist() == [50, 0] * 20
    assert make_mask("stripes:2,5", (10, 4))[:, 0].tolist() == [1, 1, 1, 0, 0] * 2
    assert make_mask("border:3", (10, 8)).sum() == 4 * 2
    box = make_mask("box:8", (40, 50))
    assert box[16:24, 21:29].max() == 0
    assert (1 - box).sum() == 64


@pytest.mark.parametrize(
    "how", ["random:1.5", "random:x", "box", "box:0", "scratches", "stripes:3", "lines:1", "strokes:2"]
)
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
    original = photo.array.transpose(2, 0, 1)
    assert (first - original).std() == pytest.approx(0.1, rel=0.02)
    assert np.corrcoef((first - original).ravel(), (other - original).ravel())[0, 1] < 0.05


def test_a_picture_too_small_to_be_measured_is_refused() -> None:
    for task, options in {"sr": Options(scale=9), "deblur": Options(kernel="gaussian:1")}.items():
        with pytest.raises(RequestError, match=r"photo.png: 9×10 pixels would leave .*expected 2×2 or more"):
            tasks.check_degradable(check(task, options), picture(10, 9))
    with pytest.raises(RequestError, match=r"photo.png: .*cannot be reduced by 12"):
        tasks.check_degradable(check("sr", Options(scale=12)), picture(10, 9))
