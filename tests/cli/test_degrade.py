"""`invdiff degrade`: measurements that `invdiff restore` can take back, and wrong requests."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from invdiff import catalog
from invdiff.cli import main as cli

Run = Callable[..., tuple[int, str, str]]
LOUD = """
from invdiff.operators import Identity
class Loud(Identity):
    def A(self, x):
        print("loud")
        return super().A(x)
"""


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        return cli.run(["degrade", *arguments]), *capsys.readouterr()

    return run


def pixels(path: str | Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--task", "inpaint", "--mask", "random:0.5"),
        ("--task", "inpaint", "--mask", "m.png", "--noise", "0.02"),
        ("--task", "deblur", "--kernel", "gaussian:0.8", "--noise", "0.01"),
        ("--task", "deblur", "--kernel", "motion:5,30", "--border", "circular"),
        ("--task", "sr", "--scale", "2", "--sr-kernel", "box"),
        ("--task", "denoise", "--noise", "0.1"),
        ("--task", "inpaint", "--mask", "strokes:0.3"),
        ("--task", "outpaint", "--margin", "4"),
        ("--task", "deblur", "--kernel", "random:3,9", "--noise", "poisson:100"),
        ("--task", "colorize"),
        ("--task", "demosaic", "--pattern", "gbrg"),
        ("--task", "dejpeg", "--quality", "20", "--subsampling", "4:4:4"),
        ("--task", "hdr", "--gain", "3"),
        ("--task", "dequantize", "--bits", "3"),
        ("--task", "denoise", "--noise", "salt-pepper:0.1"),
        ("--operator", "[{blur: {kernel: gaussian, std: 1}}, {downsample: {factor: 2}}]", "--noise", "0.01"),
        ("--operator", "{blur: {kernel: motion, length: 5, border: valid}}", "--noise", "laplace:0.02"),
        ("--operator", "{mask: {pattern: random, missing: 0.5, per_channel: true}}"),
        ("--operator", "{compressed_sensing: {ratio: 0.5, transform: dct}}"),
        ("--operator", "[phase_retrieval, {scale: 0.5}]"),
        ("--operator", "phase_retrieval"),
        ("--operator", "{stack: [{blur: {kernel: gaussian, std: 1}}, {downsample: {factor: 2}}]}"),
    ],
    ids=" ".join,
)
def test_the_command_it_prints_restores_what_it_made(
    run: Run, tiny_prior: str, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run("photo.png", *arguments)
    assert code == 0, err
    words = shlex.split(out)
    assert words[:2] == ["invdiff", "restore"]
    code = cli.run([*words[1:], "--prior", tiny_prior, "--steps", "2", "--device", "cpu"])
    assert code == 0, capsys.readouterr().err
    record = json.loads(Path("restored/photo.json").read_text("utf-8"))
    made = json.loads(Path("degraded/photo.json").read_text("utf-8"))
    assert record["operator"].split(",")[:2] == made["operator"].split(",")[:2]
    assert record["scores"]["restored"]["psnr"] > 3
    assert pixels("restored/photo.png").shape == size_of_result(made)


def size_of_result(made: dict[str, Any]) -> tuple[int, ...]:
    """The result's shape: the picture's, but that a valid blur's border is lost."""
    valid = "valid" in made["operator"]
    width, height = map(int, made["size"]["measurement" if valid else "picture"].split("×"))
    return height, width, 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("--operator", "{compressed_sensing: {ratio: 0.5, transform: dct}}"),
        ("--operator", "{stack: [{blur: {kernel: gaussian, std: 1}}, {downsample: {factor: 2}}]}"),
        ("--operator", "{clip: {gain: 2}}"),
        ("--task", "hdr", "--noise", "poisson:50"),
    ],
    ids=" ".join,
)
def test_a_grey_picture_meets_a_colour_prior_by_other_operators_too(
    run: Run, tiny_prior: str, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.open("photo.png").convert("L").save("grey.png")
    code, out, err = run("grey.png", *arguments)
    assert code == 0, err
    code = cli.run([*shlex.split(out)[1:], "--prior", tiny_prior, "--steps", "2", "--device", "cpu"])
    assert code == 0, capsys.readouterr().err
    assert pixels("restored/grey.png").shape == (28, 32)


TASKS: dict[str, tuple[str, ...]] = {
    "inpaint": ("--mask", "random:0.5"),
    "outpaint": ("--margin", "4"),
    "deblur": ("--kernel", "gaussian:0.8"),
    "sr": ("--scale", "2"),
    "denoise": ("--noise", "0.05"),
    "colorize": (),
    "demosaic": (),
    "dejpeg": ("--quality", "30"),
    "hdr": (),
    "dequantize": ("--bits", "3"),
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("task", catalog.TASKS)
def test_every_task_takes_grey_and_colour_or_says_why_not(
    run: Run, tiny_prior: str, task: str, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.open("photo.png").convert(mode).save("picture.png")
    code, out, err = run("picture.png", "--task", task, *TASKS[task])
    if mode == "L" and task in ("colorize", "demosaic"):
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "expected a colour picture" in err
        return
    assert code == 0, err
    code = cli.run([*shlex.split(out)[1:], "--prior", tiny_prior, "--steps", "2", "--device", "cpu"])
    assert code == 0, capsys.readouterr().err
    with Image.open("restored/picture.png") as after:
        assert after.mode == mode


def test_much_that_is_clipped_is_a_warning(run: Run) -> None:
    asked = ("photo.png", "--task", "denoise", "--noise", "0.5", "--quiet", "--overwrite")
    warned = r"warning: photo.png: \d\d\.\d% of the measurement's values are clipped .*; --bits 32 keeps them"
    assert re.match(warned, run(*asked)[2])
    assert json.loads(Path("degraded/photo.json").read_text("utf-8"))["clipped"] > 0.1
    assert run(*asked, "--bits", "32")[2] == ""
    assert run("photo.png", "--task", "sr", "--scale", "2", "--quiet", "--overwrite")[2] == ""


def test_a_grey_mask_of_a_spec_is_noted(run: Run) -> None:
    Image.linear_gradient("L").resize((32, 28)).save("grey_mask.png")
    noted = run("photo.png", "--operator", "{mask: {file: grey_mask.png}}", "--quiet")[2]
    assert "of the mask is grey; cut at one half" in noted
    assert noted == run("photo.png", "--task", "inpaint", "--mask", "grey_mask.png", "-q", "--overwrite")[2]


def test_what_an_operators_code_prints_is_not_in_the_json(run: Run) -> None:
    Path("loud.py").write_text(LOUD)
    code, out, err = run("photo.png", "--operator", "loud.py:Loud", "--json", "--quiet")
    assert code == 0, err
    assert json.loads(out)["exit_code"] == 0
    assert "loud" in err


def test_a_measurement_that_is_no_picture_is_written_as_computed(run: Run) -> None:
    import torch

    from invdiff import operators

    asked = "{compressed_sensing: {ratio: 0.5, transform: dct, seed: 3}}"
    code, _, err = run("photo.png", "--operator", asked)
    assert code == 0, err
    assert "written as computed" in err
    x = torch.from_numpy(pixels("photo.png").copy()).permute(2, 0, 1)[None] / 255
    expected = operators.CompressedSensing((3, 28, 32), 0.5, "dct", 3).A(x)[0]
    np.testing.assert_allclose(np.load("degraded/photo.npy"), expected, atol=1e-6)
    assert yaml.safe_load(Path("degraded/photo_operator.yaml").read_text("utf-8")) == {
        "operator": {"compressed_sensing": {"ratio": 0.5, "transform": "dct", "seed": 3}},
        "shape": [3, 28, 32],
    }


def test_a_spec_file_is_complete_wherever_it_lies(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("k.npy", np.ones((3, 3)))
    (folder / "op.py").write_text(
        "from invdiff.operators import Identity\ndef same(shape):\n    return Identity(shape)\n"
    )
    code, _, err = run(
        "photo.png", "--operator", "[{blur: {kernel: k.npy}}, {op.py:same: {}}]", "--noise", "0.01"
    )
    assert code == 0, err
    assert err.startswith("warning: --operator op.py:same runs the code in that file")
    made = yaml.safe_load(Path("degraded/photo_operator.yaml").read_text("utf-8"))
    assert made["operator"] == [{"blur": {"kernel": str(folder / "k.npy")}}, {f"{folder / 'op.py'}:same": {}}]
    assert made["noise"] == 0.01


def test_noise_of_another_kind_is_drawn(run: Run) -> None:
    assert run("photo.png", "--task", "denoise", "--noise", "salt-pepper:0.2")[0] == 0
    changed = pixels("degraded/photo.png") != pixels("photo.png")
    assert 0.15 < changed.mean() < 0.25
    assert set(np.unique(pixels("degraded/photo.png")[changed])) == {0, 255}


def test_missing_pixels_are_black_and_the_others_untouched(run: Run) -> None:
    assert run("photo.png", "--task", "inpaint", "--mask", "random:0.5")[0] == 0
    hole = pixels("degraded/photo_mask.png") > 0
    assert 0.4 < hole.mean() < 0.6
    assert pixels("degraded/photo.png")[hole].max() == 0
    assert np.array_equal(pixels("degraded/photo.png")[~hole], pixels("photo.png")[~hole])


def test_a_photographs_blur_loses_the_border(run: Run) -> None:
    assert run("photo.png", "--task", "deblur", "--kernel", "gaussian:1")[0] == 0
    assert np.load("degraded/photo_kernel.npy").shape == (9, 9)
    assert pixels("degraded/photo.png").shape == (20, 24, 3)


@pytest.mark.parametrize("bits, step", [(8, 1 / 255), (16, 1 / 65535), (32, 0)])
def test_a_measurement_is_rounded_to_the_bits_asked_for_and_says_so(run: Run, bits: int, step: float) -> None:
    from invdiff.images import read_image

    code, _, err = run("photo.png", "--task", "sr", "--scale", "4", "--sr-kernel", "box", "--bits", str(bits))
    assert code == 0
    assert ("written as computed" if bits == 32 else f"rounded to {bits} bits") in err
    expected = (pixels("photo.png") / 255).reshape(7, 4, 8, 4, 3).mean((1, 3))
    found = read_image(f"degraded/photo.{'npy' if bits == 32 else 'png'}")
    assert found.bits == bits
    assert np.abs(found.array - expected).max() < step / 2 + 1e-6
    assert np.abs(found.array - expected).max() > step / 8


def test_numbers_beyond_black_and_white_are_kept_in_32_bits(run: Run) -> None:
    Image.open("photo.png").convert("RGBA").save("clear.png")
    assert run("clear.png", "--task", "denoise", "--noise", "0.5", "--bits", "32")[0] == 0
    found = np.load("degraded/clear.npy")
    assert found.shape == (28, 32, 3)
    assert found.min() < -0.2
    assert found.max() > 1.2


def test_a_palette_picture_is_measured_in_full_colour(run: Run) -> None:
    Image.open("photo.png").quantize(5).save("few.png")
    assert run("few.png", "--task", "denoise", "--noise", "0.05")[0] == 0
    with Image.open("degraded/few.png") as made:
        assert made.mode == "RGB"


def test_the_noise_is_fixed_by_the_seed_and_asks_for_overwrite(run: Run) -> None:
    noisy = ("photo.png", "--task", "denoise", "--noise", "0.1")
    assert run(*noisy)[0] == 0
    first = pixels("degraded/photo.png")
    code, out, err = run(*noisy, "--seed", "1")
    assert (code, out) == (0, "")
    assert "kept, --overwrite replaces it" in err
    assert run(*noisy, "--overwrite")[0] == 0
    assert np.array_equal(pixels("degraded/photo.png"), first)
    assert run(*noisy, "--seed", "1", "--overwrite")[0] == 0
    assert not np.array_equal(pixels("degraded/photo.png"), first)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("nowhere.png", "--task", "denoise", "--noise", "0.1"), "nowhere.png: no such file"),
        (("photo.png", "--task", "denoise"), "needs --noise, the standard deviation to add"),
        (("photo.png", "--task", "denoise", "--noise", "auto"), "--noise auto is for invdiff restore"),
        (("photo.png", "--task", "inpaint", "--mask", "randm:0.8"), "or one of random:0.8, box:64"),
        (("photo.png", "--task", "inpaint", "--mask", "box:100"), "everything is to be filled in"),
        (("photo.png", "--task", "inpaint", "--mask", "random:2"), "a number from 0.001 to 0.999"),
        (("photo.png", "--task", "deblur", "--kernel", "disk:20"), "larger than the picture"),
        (("photo.png", "--task", "sr", "--scale", "2", "--bits", "12"), "expected 8, 16 or 32"),
        (("photo.png", "--task", "sr", "--scale", "2", "--out", "."), "would replace its own input"),
        (("photo.png",), "give --task"),
        (("photo.png", "--task", "inpaint", "--mask", "stripes:4"), "2 numbers from 1 to"),
        (("photo.png", "--task", "inpaint", "--mask", "stripes:4,4"), "photo.png: width"),
        (("photo.png", "--task", "outpaint", "--margin", "14"), "would leave"),
        (("photo.png", "--task", "dequantize"), "dequantize needs --bits"),
        (("photo.png", "--operator", "{blur: {kernel: disk, radius: 20}}"), "larger than the picture"),
        (("photo.png", "--operator", "{compressed_sensing: {ratio: 0.5}}"), "use transform: dct"),
        (("photo.png", "--operator", "{operator: clip, shape: [3, 4, 4]}"), "expected 3x4x4"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(
    run: Run, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert sorted(p.name for p in folder.iterdir()) == ["m.png", "photo.png"]


def test_json_is_one_document_and_a_bad_file_leaves_the_others(run: Run) -> None:
    code, out, _ = run("photo.png", "nowhere.png", "--task", "sr", "--scale", "2", "--json")
    document = json.loads(out)
    assert code == document["exit_code"] == 1
    assert document["results"][0]["size"] == {"picture": "32×28", "measurement": "16×14"}
    assert len(document["failed"]) == 1
