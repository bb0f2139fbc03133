"""`invdiff restore`: requests refused before torch is needed, results and records, folders that go on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from invdiff import images, restore
from invdiff.cli import main as cli
from invdiff.errors import RequestError

Run = Callable[..., tuple[int, str, str]]
FAST = ("--steps", "2", "--device", "cpu")


@pytest.fixture
def run(folder: Path, tiny_prior: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("photo.png", "--task", ...) → exit code, standard output, standard error."""

    def run(*arguments: str, prior: str = tiny_prior) -> tuple[int, str, str]:
        code = cli.run(["restore", *arguments, "--prior", prior, *FAST])
        return code, *capsys.readouterr()

    return run


def record(name: str, out: str = "restored") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, f"{name}.json").read_text("utf-8"))
    return found


def pixels(path: str | Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


INPAINT = ("--task", "inpaint", "--mask", "m.png")

WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "missing file": (("nowhere.png", *INPAINT), "nowhere.png: no such file"),
    "folder without pictures": (("empty", *INPAINT), "no pictures in this folder"),
    "not a picture": (("notes.txt", *INPAINT), "notes.txt: not a picture"),
    "truncated": (("half.png", *INPAINT), "half.png: the picture is truncated"),
    "empty file": (("zero.png", *INPAINT), "zero.png: the file is empty"),
    "one pixel": (("dot.png", *INPAINT), "dot.png: expected a picture of at least 2×2"),
    "mask of another size": (
        ("photo.png", "--task", "inpaint", "--mask", "dot2.png"),
        "expected the same size",
    ),
    "mask missing": (("photo.png", "--task", "inpaint"), "inpaint needs --mask"),
    "mask not there": (("photo.png", "--task", "inpaint", "--mask", "x.png"), "x.png: no such file"),
    "all to fill": (
        ("photo.png", "--task", "inpaint", "--mask", "white.png"),
        "everything is to be filled in",
    ),
    "kernel too large": (
        ("photo.png", "--task", "deblur", "--kernel", "disk:40"),
        "is larger than the picture",
    ),
    "kernel of zeros": (("photo.png", "--task", "deblur", "--kernel", "zeros.npy"), "sum other than zero"),
    "kernel of NaN": (("photo.png", "--task", "deblur", "--kernel", "nan.npy"), "NaN or infinity"),
    "NaN in an array": (("nan.npy", *INPAINT), "nan.npy: expected finite numbers"),
    "negative noise": (("photo.png", "--task", "denoise", "--noise", "-1"), "8-bit 25 is 0.098"),
    "absurd noise": (("photo.png", "--task", "denoise", "--noise", "25"), "8-bit 25 is 0.098"),
    "unknown task": (("photo.png", "--task", "debur"), "Did you mean 'deblur'?"),
    "unknown method": (("photo.png", *INPAINT, "--method", "dpss"), "Did you mean 'dps'?"),
    "impossible method": (
        ("photo.png", "--task", "sr", "--scale", "2", "--method", "repaint"),
        "can do this: dps",
    ),
    "unused option": (("photo.png", *INPAINT, "--scale", "2"), "--scale is for sr"),
    "no steps": (("photo.png", *INPAINT, "--steps", "0"), "--steps: expected a whole number of at least 1"),
    "no samples": (
        ("photo.png", *INPAINT, "--samples", "0"),
        "--samples: expected a whole number of at least 1",
    ),
    "device": (("photo.png", *INPAINT, "--device", "gpu"), "unknown device 'gpu'"),
    "setting": (("photo.png", *INPAINT, "--set", "zeta"), "expected NAME=VALUE"),
    "unknown setting": (
        ("photo.png", *INPAINT, "--method", "dps", "--set", "zetta=1"),
        "Did you mean 'zeta'?",
    ),
    "steps twice": (("photo.png", *INPAINT, "--steps", "3", "--set", "steps=4"), "give one of them"),
    "output is the folder": (("album", *INPAINT, "--out", "album"), "results need one of their own"),
    "truncated prior": (("photo.png", *INPAINT, "--prior", "short.safetensors"), "not a prior, or cut off"),
    "folder that is no prior": (("photo.png", *INPAINT, "--prior", "empty"), "not a prior"),
    "output is a file": (("photo.png", *INPAINT, "--out", "notes.txt"), "expected a folder"),
    "output unwritable": (("photo.png", *INPAINT, "--out", "/proc/nothing"), "cannot write there"),
    "output is the input": (("photo.png", *INPAINT, "--out", "."), "would replace its own input"),
    "neither task nor operator": (("photo.png",), "give --task (inpaint, outpaint, deblur"),
    "task and operator": (("photo.png", *INPAINT, "--operator", "clip"), "give one of them"),
    "unknown operator": (("photo.png", "--operator", "{clp: {}}"), "Did you mean 'clip'?"),
    "unknown key": (
        ("photo.png", "--operator", "bad.yaml"),
        "bad.yaml: clip: unknown key gian. Did you mean 'gain'?",
    ),
    "operator file not there": (
        ("photo.png", "--operator", "x.py:MyOp"),
        "--operator x.py:MyOp: no such file",
    ),
    "picture for numbers": (
        ("photo.png", "--operator", "phase_retrieval"),
        "what this operator measures is no picture",
    ),
    "numbers without a shape": (("y.npy", "--operator", "phase_retrieval"), "--shape 3x256x256"),
    "numbers of another shape": (
        ("y.npy", "--operator", "phase_retrieval", "--shape", "3x8x8"),
        "has shape 3x4, expected 3x16x16",
    ),
    "empty braces for an operator": (("photo.png", "--operator", "{}"), "got nothing"),
    "an empty operator": (("photo.png", "--operator", ""), "got nothing"),
    "a box larger than the picture": (
        ("photo.png", "--operator", "{mask: {pattern: box, height: 29}}"),
        "height: expected a whole number from 1 to 28, got 29",
    ),
    "a shape that does not fit": (
        ("photo.png", "--operator", "clip", "--shape", "3x8x8"),
        "is that the shape it had?",
    ),
    "weights of another size": (
        ("photo.png", "--operator", "{diagonal: {file: zeros.npy}}"),
        "not all zero",
    ),
    "NaN in numbers": (
        ("nan.npy", "--operator", "phase_retrieval", "--shape", "3x8x8"),
        "expected finite numbers",
    ),
    "no mosaic": (("photo.png", "--task", "demosaic"), "photo.png: expected a grey picture"),
    "not a JPEG file": (("photo.png", "--task", "dejpeg"), "give --quality"),
    "unknown noise": (("photo.png", *INPAINT, "--noise", "poison:5"), "Did you mean 'poisson'?"),
    "reference missing": (("photo.png", *INPAINT, "--reference", "x.png"), "--reference x.png: no such file"),
    "reference of another size": (
        ("photo.png", *INPAINT, "--reference", "dot2.png"),
        "expected the size of the result",
    ),
    "unknown prior": (("photo.png", *INPAINT, "--prior", "naturel"), "Did you mean 'natural'?"),
    "missing prior file": (
        ("photo.png", *INPAINT, "--prior", "x.safetensors"),
        "x.safetensors: no such file",
    ),
    "foreign prior file": (("photo.png", *INPAINT, "--prior", "notes.txt"), "notes.txt: not a prior"),
}


@pytest.fixture
def wrong_files(folder: Path, tiny_prior: str) -> None:
    Path("empty").mkdir()
    Path("album").mkdir()
    shutil.copy("photo.png", "album/photo.png")
    Path("short.safetensors").write_bytes(Path(tiny_prior).read_bytes()[:-100])
    Path("bad.yaml").write_text("operator: {clip: {gian: 2}}")
    np.save("y.npy", np.zeros((3, 4)))
    Path("notes.txt").write_text("these are notes, not pixels")
    Path("zero.png").touch()
    Path("half.png").write_bytes(Path("photo.png").read_bytes()[:900])
    Image.new("RGB", (1, 1)).save("dot.png")
    Image.new("L", (2, 2)).save("dot2.png")
    Image.new("L", (32, 28), 255).save("white.png")
    np.save("zeros.npy", np.zeros((3, 3)))
    np.save("nan.npy", np.full((28, 32), np.nan))


@pytest.mark.usefixtures("wrong_files")
def test_a_wrong_request_is_one_line_exit_code_2_nothing_written_and_torch_not_imported(
    folder: Path, tiny_prior: str
) -> None:
    cases = [["restore", "--prior", tiny_prior, *arguments] for arguments, _ in WRONG.values()]
    before = sorted(p.name for p in folder.rglob("*"))
    program = (
        "import json, sys, io, contextlib\n"
        "from invdiff.cli.main import run\n"
        "found = []\n"
        "for case in json.loads(sys.argv[1]):\n"
        "    error = io.StringIO()\n"
        "    with contextlib.redirect_stderr(error):\n"
        "        found.append((run(case), error.getvalue()))\n"
        "heavy = [m for m in ('torch', 'deepinv', 'skimage', 'lpips', 'scipy') if m in sys.modules]\n"
        "print(json.dumps([found, heavy]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(cases)], capture_output=True, text=True, check=True
    )
    found, heavy = json.loads(done.stdout)
    for (name, (_, message)), (code, said) in zip(WRONG.items(), found, strict=True):
        assert message in said, name
        assert (code, said.count("\n")) == (2, 1), name
    assert heavy == []
    assert sorted(p.name for p in folder.rglob("*")) == before


def test_filling_in_keeps_every_known_pixel_and_writes_picture_panel_and_record(run: Run) -> None:
    code, out, err = run("photo.png", *INPAINT)
    assert (code, out) == (0, "restored/photo.png\n"), err
    assert sorted(p.name for p in Path("restored").iterdir()) == [
        "photo.json",
        "photo.png",
        "photo_panel.png",
    ]
    before, after, hole = pixels("photo.png"), pixels("restored/photo.png"), pixels("m.png") > 0
    assert np.array_equal(before[~hole], after[~hole])
    assert not np.array_equal(before[hole], after[hole])
    found = record("photo")
    assert found["inputs"]["picture"]["sha256"] == images.read_image("photo.png").checksum
    assert set(found) >= {
        "method",
        "reason",
        "config",
        "seed",
        "versions",
        "device",
        "seconds",
        "evaluations",
    }
    assert found["prior"]["checksum"] == found["inputs"]["prior"]["sha256"]


def test_several_samples_give_each_their_mean_and_their_deviation(run: Run) -> None:
    code, _, err = run("photo.png", *INPAINT, "--samples", "3")
    assert code == 0, err
    every = np.stack([pixels(f"restored/photo_sample{k}.png").astype(float) for k in (1, 2, 3)])
    hole = pixels("m.png") > 0
    np.testing.assert_allclose(pixels("restored/photo.png")[hole], every.mean(0)[hole], atol=1)
    std = pixels("restored/photo_std.png") / 65535 * images.STD_WHITE
    expected = np.sqrt((every / 255).var(0, ddof=1).mean(-1))
    assert std[~hole].max() == 0
    unclipped = hole & (every.min((0, 3)) > 0) & (every.max((0, 3)) < 255) & (expected < images.STD_WHITE)
    np.testing.assert_allclose(std[unclipped], expected[unclipped], rtol=0.05, atol=0.001)
    assert unclipped.sum() > 5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_picture_comes_out_as_it_went_in(run: Run, mode: str) -> None:
    photo = Image.open("photo.png").convert("RGBA")
    photo.putalpha(Image.open("photo.png").convert("L"))
    given = photo.convert("RGB").quantize(200) if mode == "P" else photo.convert(mode)
    given.save("given.png")
    assert run("given.png", *INPAINT)[0] == 0
    hole = pixels("m.png") > 0
    with Image.open("restored/given.png") as after:
        assert after.mode == mode
        assert np.array_equal(
            np.asarray(after.convert("RGBA"))[~hole], np.asarray(given.convert("RGBA"))[~hole]
        )


def test_super_resolution_writes_the_larger_size_with_its_alpha(run: Run) -> None:
    photo = Image.open("photo.png").convert("RGBA")
    photo.save("clear.png")
    assert run("clear.png", "--task", "sr", "--scale", "3")[0] == 0
    with Image.open("restored/clear.png") as after:
        assert (after.mode, after.size) == ("RGBA", (96, 84))


def test_deblurring_a_photograph_keeps_its_size(run: Run) -> None:
    assert run("photo.png", "--task", "deblur", "--kernel", "motion:5,20")[0] == 0
    assert pixels("restored/photo.png").shape == (28, 32, 3)
    assert "valid" in record("photo")["operator"]


def test_a_restoration_is_what_the_api_gives(run: Run, tiny_prior: str) -> None:
    from invdiff.tasks import Options, check

    assert run("photo.png", "--task", "sr", "--scale", "2", "--seed", "5")[0] == 0
    problem = check("sr", Options(scale=2)).measurement(images.read_image("photo.png")).problem(3)
    result = restore(problem.y, problem.operator, tiny_prior, steps=2, seed=5)
    expected = np.rint(problem.pictures(result.samples)[0].clip(0, 1) * 255)
    assert np.array_equal(pixels("restored/photo.png"), expected)


def test_an_operator_in_words_is_recorded_and_recognised(run: Run) -> None:
    asked = ("photo.png", "--operator", "{clip: {gain: 3}}")
    assert run(*asked)[0] == 0
    found = record("photo")
    assert found["request"]["operator"] == {"clip": {"gain": 3.0}}
    assert found["operator"] == "Clip(gain 3, 3x28x32)"
    assert "done before" in run(*asked)[2]
    changed = run("photo.png", "--operator", "{clip: {gain: 2.5}}")[2]
    assert "kept the result made with operator" in changed


def test_code_of_the_users_is_run_after_a_warning_and_its_errors_are_one_line(run: Run) -> None:
    Path("own.py").write_text(
        "from invdiff.operators import Identity\n"
        "def same(shape):\n    return Identity(shape)\n"
        "def breaks(shape):\n    return 1 / 0\n"
    )
    code, out, err = run("photo.png", "--operator", "own.py:same", "--noise", "0.1", "--quiet")
    assert (code, out) == (0, "restored/photo.png\n"), err
    assert err == "warning: --operator own.py:same runs the code in that file\n"
    code, _, err = run("photo.png", "--operator", "own.py:breaks")
    assert code == 2
    assert err.splitlines()[1:] == [
        "invdiff: photo.png: own.py:5: ZeroDivisionError for a picture 3x28x32: division by zero"
    ]


def test_code_of_the_users_can_neither_end_the_run_nor_print_into_its_json(run: Run) -> None:
    Path("own.py").write_text(
        "from invdiff.operators import Identity\n"
        "class Loud(Identity):\n    def A(self, x):\n        print('loud')\n        return super().A(x)\n"
        "class Ends(Identity):\n    def A(self, x):\n"
        "        if x.element_size() == 4:  # not when it is checked, in float64\n            raise SystemExit(0)\n"
        "        return super().A(x)\n"
    )
    asked = ("--noise", "0.1", "--method", "dps", "--json")
    code, out, err = run("photo.png", "--operator", "own.py:Loud", *asked)
    assert code == 0, err
    assert json.loads(out)["exit_code"] == 0
    assert "loud" in err
    code, out, err = run("photo.png", "--operator", "own.py:Ends", *asked, "--out", "other")
    assert code == json.loads(out)["exit_code"] == 1
    assert err.splitlines()[-1].endswith("the operator's code asked to exit: SystemExit 0")
    assert cli.run(["degrade", "photo.png", "--operator", "own.py:Ends"]) == 1


def test_a_grey_jpeg_file_is_restored_in_grey(run: Run) -> None:
    Image.open("photo.png").convert("L").save("grey.jpg", quality=20)
    code, out, err = run("grey.jpg", "--task", "dejpeg")
    assert (code, out) == (0, "restored/grey.png\n"), err
    with Image.open("restored/grey.png") as after:
        assert after.mode == "L"
        off = np.asarray(after, float) - pixels("grey.jpg")
    assert np.abs(off).mean() < 25  # within the steps of such a file


def test_a_jpeg_file_is_restored_as_it_was_compressed_and_becomes_a_png(run: Run) -> None:
    Image.open("photo.png").save("photo.jpg", quality=20)
    code, out, err = run("photo.jpg", "--task", "dejpeg")
    assert (code, out) == (0, "restored/photo.png\n"), err
    assert "tables of a file, 4:2:0" in record("photo")["operator"]


def test_colours_come_out_of_a_grey_picture_whatever_its_file_could_hold(run: Run) -> None:
    for mode in ("1", "L", "LA", "P"):
        grey = Image.open("photo.png").convert("L")
        (grey.quantize(9) if mode == "P" else grey.convert(mode)).save("grey.png")
        assert run("grey.png", "--task", "colorize", "--overwrite")[0] == 0
        with Image.open("restored/grey.png") as after:
            assert after.mode == ("RGBA" if mode == "LA" else "RGB")


def test_tones_are_not_put_back_into_a_file_of_few(run: Run) -> None:
    Image.open("photo.png").convert("1").save("few.png")
    assert run("few.png", "--task", "dequantize", "--bits", "1")[0] == 0
    assert len(np.unique(pixels("restored/few.png"))) > 5


def test_noise_of_another_kind_is_recorded(run: Run) -> None:
    assert run("photo.png", *INPAINT, "--noise", "poisson:50")[0] == 0
    found = record("photo")
    assert found["request"]["noise"] == "poisson:50"
    assert "Poisson" in found["config"]["noise"]


def test_noise_is_estimated_and_recorded(run: Run) -> None:
    assert run("photo.png", "--task", "denoise", "--noise", "auto")[0] == 0
    assert 0.02 < record("photo")["sigma_y"] < 0.3
    assert record("photo")["request"]["noise"] == "auto"


def test_a_reference_gives_scores_of_the_result_and_of_each_sample(run: Run) -> None:
    shutil.copy("photo.png", "truth.png")
    code, _, err = run("photo.png", *INPAINT, "--reference", "truth.png", "--samples", "2")
    assert code == 0, err
    found = record("photo")["scores"]
    error = (pixels("restored/photo.png").astype(float) - pixels("truth.png")) / 255
    assert found["restored"]["psnr"] == pytest.approx(-10 * np.log10((error**2).mean()), abs=0.05)
    assert len(found["samples"]) == 2
    assert all(0 < score["ssim"] < 1 for score in found["samples"])
    assert "PSNR" in err


def test_profile_says_where_the_time_went_and_the_record_has_it(run: Run) -> None:
    said = run("photo.png", *INPAINT, "--profile")[2]
    for word in ("network forward", "operator", "sampler", "TFLOP", "MiB at most", "reading", "writing"):
        assert word in said
    profile = json.loads(Path("restored/photo.json").read_text())["profile"]
    assert profile["forward"] + profile["backward"] + profile["operator"] < profile["seconds"]


def test_json_is_one_document_on_standard_output_and_nothing_else(run: Run) -> None:
    code, out, _ = run("photo.png", "nowhere.png", *INPAINT, "--json", "--quiet")
    document = json.loads(out)
    assert code == document["exit_code"] == 1
    assert [r["outputs"]["restored"] for r in document["results"]] == ["photo.png"]
    assert "nowhere.png: no such file" in document["failed"][0]["error"]
    code, out, _ = run("nowhere.png", *INPAINT, "--json")
    assert (code, json.loads(out)["exit_code"]) == (2, 2)


def test_quiet_says_nothing_when_all_is_well(run: Run) -> None:
    assert run("photo.png", *INPAINT, "--quiet") == (0, "restored/photo.png\n", "")


def test_a_mask_with_nothing_to_fill_warns_and_goes_on(run: Run) -> None:
    Image.new("L", (32, 28)).save("black.png")
    code, _, err = run("photo.png", "--task", "inpaint", "--mask", "black.png", "--quiet")
    assert code == 0
    assert "warning: black.png: nothing to fill in" in err
    assert np.array_equal(pixels("restored/photo.png"), pixels("photo.png"))


def test_a_setting_the_method_does_not_have_names_the_nearest(run: Run) -> None:
    code, _, err = run("photo.png", *INPAINT, "--method", "diffpir", "--set", "zetta=0.5")
    assert code == 2
    assert "Did you mean 'zeta'?" in err
    assert not Path("restored").exists()


def test_a_wrong_setting_is_said_once_and_not_for_every_picture(run: Run) -> None:
    shutil.copy("photo.png", "second.png")
    code, _, err = run("photo.png", "second.png", *INPAINT, "--set", "zetta=0.5")
    assert (code, err.count("zetta")) == (2, 1)


def test_a_truncated_prior_is_a_wrong_request(run: Run, tiny_prior: str) -> None:
    Path("short.safetensors").write_bytes(Path(tiny_prior).read_bytes()[:-100])
    code, _, err = run("photo.png", *INPAINT, prior="short.safetensors")
    assert (code, err.count("invdiff: ")) == (2, 1)
    assert "short.safetensors" in err
    assert not Path("restored").exists()


@pytest.mark.parametrize("setting", ["iterations=1.5", "eta=abc", "clip=abc", "sigma_max=1e9"])
def test_a_setting_of_a_wrong_kind_is_a_wrong_request(run: Run, setting: str) -> None:
    code, _, err = run("photo.png", *INPAINT, "--method", "mmps", "--set", setting)
    assert (code, err.count("invdiff: ")) == (2, 1)
    assert setting.partition("=")[0] in err
    assert not Path("restored").exists()


def test_the_folder_of_a_training_run_is_a_prior(run: Run, tiny_prior: str) -> None:
    Path("trained").mkdir()
    shutil.copy(tiny_prior, "trained/prior.safetensors")
    assert run("photo.png", *INPAINT, prior="trained")[0] == 0


# ------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def album(folder: Path) -> Path:
    """Three pictures and a mask for each, in one folder."""
    (folder / "album").mkdir()
    for name in "abc":
        values = np.random.default_rng(ord(name)).integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(values).save(folder / "album" / f"{name}.png")
        mask = np.zeros((16, 16), np.uint8)
        mask[4:8, 4 + ord(name) - ord("a") :] = 255
        Image.fromarray(mask).save(folder / "album" / f"{name}_mask.png")
    return folder / "album"


MASKED = ("album", "--task", "inpaint", "--mask", "album")


@pytest.mark.usefixtures("album")
def test_a_folder_is_restored_with_a_mask_each(run: Run) -> None:
    code, out, err = run(*MASKED)
    assert code == 0, err
    assert out.split() == ["restored/a.png", "restored/b.png", "restored/c.png"]
    for name in "abc":
        hole = pixels(f"album/{name}_mask.png") > 0
        changed = (pixels(f"album/{name}.png") != pixels(f"restored/{name}.png")).any(-1)
        assert not changed[~hole].any()
        assert changed[hole].mean() > 0.9


@pytest.mark.usefixtures("album")
def test_a_bad_file_is_reported_and_the_others_go_on(run: Run) -> None:
    Path("album/b.png").write_bytes(Path("album/b.png").read_bytes()[:200])
    code, out, err = run(*MASKED)
    assert code == 1
    assert out.split() == ["restored/a.png", "restored/c.png"]
    assert "error: album/b.png: the picture is truncated" in err
    assert "2 restored, 1 failed" in err


@pytest.mark.usefixtures("album")
def test_a_folder_where_all_are_bad_is_a_wrong_request(run: Run) -> None:
    for name in "abc":
        Path(f"album/{name}_mask.png").unlink()
    Path("masks").mkdir()
    shutil.copy("m.png", "masks/z.png")
    code, _, err = run("album", "--task", "inpaint", "--mask", "masks")
    assert code == 2
    assert err.count("no mask for it") == 3
    assert not Path("restored").exists()


@pytest.mark.usefixtures("album")
def test_a_run_that_was_stopped_continues_where_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from invdiff.cli import restore as command

    real, calls = command.restore_one, []

    def stopped_at_the_second(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(command, "restore_one", stopped_at_the_second)
    code, out, err = run(*MASKED)
    assert (code, out.split()) == (130, ["restored/a.png"])
    assert "1 of 3 done and kept" in err
    before = Path("restored/a.png").stat().st_mtime_ns
    monkeypatch.setattr(command, "restore_one", real)
    code, out, err = run(*MASKED)
    assert (code, out.split()) == (0, ["restored/b.png", "restored/c.png"])
    assert "album/a.png: done before" in err
    assert Path("restored/a.png").stat().st_mtime_ns == before


def test_a_killed_write_is_done_again(run: Run) -> None:
    assert run("photo.png", *INPAINT)[0] == 0
    Path("restored/photo.json").rename("old.json")
    assert "no record says how it was made; kept" in run("photo.png", *INPAINT)[2]
    Path("restored/.photo.part").mkdir()  # what a killed run leaves while it moves its files
    assert run("photo.png", *INPAINT)[1] == "restored/photo.png\n"
    assert Path("restored/photo.json").exists()
    assert not Path("restored/.photo.part").exists()


def test_what_a_killed_write_left_does_not_let_another_request_replace_a_result(run: Run) -> None:
    assert run("photo.png", *INPAINT)[0] == 0
    Path("restored/.photo.part").mkdir()
    assert "--overwrite replaces it" in run("photo.png", *INPAINT, "--seed", "7")[2]
    assert record("photo")["seed"] == 0


def test_existing_results_are_kept_and_the_difference_named_unless_told_to_overwrite(run: Run) -> None:
    assert run("photo.png", *INPAINT)[0] == 0
    before = Path("restored/photo.png").read_bytes()
    code, out, err = run("photo.png", *INPAINT, "--seed", "7")
    assert (code, out) == (0, "")
    assert "kept the result made with seed 0 (now 7); --overwrite replaces it" in err
    assert Path("restored/photo.png").read_bytes() == before
    assert run("photo.png", *INPAINT, "--seed", "7", "--overwrite")[1] == "restored/photo.png\n"
    assert Path("restored/photo.png").read_bytes() != before
    assert record("photo")["seed"] == 7


def test_a_changed_picture_is_not_taken_for_done(run: Run) -> None:
    assert run("photo.png", *INPAINT)[0] == 0
    Image.open("photo.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("photo.png")
    assert "kept the result made with picture" in run("photo.png", *INPAINT)[2]


def test_a_foreign_file_of_the_same_name_is_kept(run: Run) -> None:
    Path("restored").mkdir()
    Path("restored/photo.png").write_text("precious")
    code, _, err = run("photo.png", *INPAINT)
    assert code == 0
    assert "kept, --overwrite replaces it" in err
    assert Path("restored/photo.png").read_text() == "precious"


def test_a_disk_that_fills_up_ends_the_run_and_keeps_what_was_finished(
    run: Run, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from invdiff.cli import restore as command

    real = command.write_results

    def full_at_b(folder: Path, job: Any, *rest: Any) -> None:
        real(folder, job, *rest)
        if job.name == "b":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_results", full_at_b)
    code, out, err = run(*MASKED)
    assert (code, out.split()) == (1, ["restored/a.png"])
    assert "album/b.png: could not be written (No space left on device)" in err
    assert "1 pictures are left" in err
    assert sorted(p.name for p in Path("restored").iterdir()) == ["a.json", "a.png", "a_panel.png"]


def test_inputs_of_one_stem_do_not_collide(run: Run) -> None:
    Image.open("photo.png").save("photo.bmp")
    Path("other").mkdir()
    shutil.copy("photo.png", "other/photo.png")
    shutil.copy("photo.png", "photo_std.png")
    code, out, _ = run(
        "photo.png", "photo.bmp", "other/photo.png", "photo_std.png", *INPAINT, "--samples", "2"
    )
    assert code == 0
    names = [Path(line).name for line in out.split()]
    assert len(set(names)) == 4
    assert "photo_bmp.bmp" in names
    assert "other_photo_png.png" in names


def test_one_failure_inside_the_restoration_leaves_the_others(
    run: Run, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from invdiff.cli import restore as command

    real = command.restore_one

    def failing_at_b(request: Any, task: Any, job: Any, *rest: Any) -> dict[str, Any]:
        if job.name == "b":
            raise RuntimeError("something\nlong")
        return real(request, task, job, *rest)

    monkeypatch.setattr(command, "restore_one", failing_at_b)
    code, out, err = run(*MASKED)
    assert (code, out.split()) == (1, ["restored/a.png", "restored/c.png"])
    assert "error: album/b.png: something\n" in err


def test_settings_are_numbers_truths_or_words() -> None:
    from invdiff.cli.restore import parse_settings

    assert parse_settings(["a=0.5", "b=3", "c=true", "d=karras"]) == {
        "a": 0.5,
        "b": 3,
        "c": True,
        "d": "karras",
    }
    with pytest.raises(RequestError, match="NAME=VALUE"):
        parse_settings(["=3"])


@pytest.fixture
def plain(
    folder: Path, tiny_prior: str, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """plain(...) fills in photo.png at its own number of steps → exit code, standard error."""

    def plain(*arguments: str, prior: str = tiny_prior) -> tuple[int, str]:
        code = cli.run(["restore", "photo.png", *INPAINT, "--prior", prior, "--device", "cpu", *arguments])
        return code, capsys.readouterr().err

    return plain


def test_an_effort_is_in_the_record_and_another_one_is_another_result(
    plain: Callable[..., tuple[int, str]],
) -> None:
    assert plain("--fast", "--quiet")[0] == 0
    found = record("photo")
    assert (found["evaluations"], found["request"]["effort"]) == (13, "fast")
    assert "kept the result made with" in plain("--best")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fast", "--best"], "--fast, --best and --budget: give one of them"),
        (["--fast", "--steps", "4"], "with them auto chooses the steps"),
        (["--best", "--method", "dps"], "with them auto chooses the steps"),
        (["--budget", "soon"], "--budget: expected seconds for a picture, as 20s or 2min, got 'soon'"),
        (["--budget", "fast"], "--budget: expected seconds"),
        (["--budget=-3s"], "--budget: expected seconds for a picture"),
        (["--fast", "--set", "sigma_min=5"], "expected 0 < sigma_min ≤ sigma_max, got 5.0 and 3.0"),
    ],
)
def test_an_effort_that_cannot_be_is_one_line(
    plain: Callable[..., tuple[int, str]], words: list[str], said: str
) -> None:
    code, err = plain(*words)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_settings_that_an_effort_cannot_have_are_refused_before_any_weight_is_loaded(
    plain: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invdiff.priors.load_prior", lambda *given, **more: pytest.fail("loaded"))
    assert "expected fewer levels than the 8 steps, got 9" in plain("--fast", "--set", "jump=9")[1]
    assert "unknown key zeta" in plain("--budget", "9s", "--set", "zeta=1")[1]


def test_with_json_an_option_of_no_sense_is_json_too(run: Run) -> None:
    for words in (["--budget", "soon"], ["--fast", "--best"], ["--set", "zeta"]):
        code, out, _ = run("photo.png", *INPAINT, "--json", *words)
        assert code == json.loads(out)["exit_code"] == 2


def test_a_conditional_model_has_no_effort(plain: Callable[..., tuple[int, str]]) -> None:
    code, err = plain("--fast", prior="natural-sr4")
    assert code == 2
    assert "is a conditional model" in err
