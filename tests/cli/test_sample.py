"""`invdiff sample`: what it writes, goes on with, leaves alone and refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import invdiff
from invdiff import images
from invdiff.cli import main as cli
from invdiff.cli.sample import batches, contact_sheet, side_of
from invdiff.methods import grid
from invdiff.priors import EDM, Card
from invdiff.priors.files import save_prior
from invdiff.priors.nets.unet import UNet

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path, tiny_prior: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.chdir(tmp_path)
    common = (
        "--prior",
        tiny_prior,
        "--size",
        "10x8",
        "--steps",
        "3",
        "--device",
        "cpu",
        "--precision",
        "float32",
    )

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["sample", *common, *arguments])
        return code, *capsys.readouterr()

    return run


def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("samples/samples.json").read_text("utf-8"))
    return found


def contents() -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path("samples").iterdir())}


def test_it_writes_the_samples_a_contact_sheet_and_a_record(run: Run, tiny_prior: str) -> None:
    code, out, err = run("--count", "5", "--integrator", "heun", "--grid", "karras:3", "--seed", "2")
    assert (code, out) == (0, "samples/sheet.png\n")
    assert "5 samples of 10×8, 5 evaluations each" in err
    assert list(contents()) == [*(f"000{k}.png" for k in range(5)), "samples.json", "sheet.png"]
    expected = invdiff.sample(
        tiny_prior, (3, 8, 10), integrator="heun", grid="karras:3", steps=3, samples=5, seed=2
    )
    for k in range(5):
        written = images.to_tensor(images.read_image(f"samples/000{k}.png"))[0]
        torch.testing.assert_close(written, expected.samples[k].clamp(0, 1), rtol=0, atol=0.51 / 255)
    with Image.open("samples/sheet.png") as sheet:
        assert sheet.size == (3 * (120 + 4) + 4, 2 * (96 + 4) + 4)
    found = record()
    assert found["request"]["integrator"] == found["config"]["integrator"] == "heun"
    assert found["request"]["prior"] == found["prior"]["checksum"]
    assert found["config"]["shape"] == [3, 8, 10]
    assert (found["seed"], found["evaluations"], found["device"]) == (2, 5, "cpu")
    assert found["versions"]["torch"]
    assert [entry["file"] for entry in found["samples"].values()] == [f"000{k}.png" for k in range(5)]
    assert found["seconds"] == pytest.approx(sum(e["seconds"] for e in found["samples"].values()), abs=1e-3)


def test_the_same_command_makes_what_is_missing_and_no_more(run: Run) -> None:
    run("--count", "4", "--batch", "4")
    whole = contents()
    Path("samples/0001.png").unlink()
    before = Path("samples/0000.png").stat().st_mtime_ns
    code, _, err = run("--count", "4")
    assert code == 0
    assert "3 samples were done before" in err
    assert contents()["0001.png"] == whole["0001.png"]
    assert Path("samples/0000.png").stat().st_mtime_ns == before
    run("--count", "4")
    assert record()["samples"].keys() == {"0", "1", "2", "3"}


def test_a_larger_count_adds_and_a_smaller_one_takes_nothing_away(run: Run) -> None:
    run("--count", "2")
    two = contents()
    run("--count", "3")
    three = contents()
    assert {name: three[name] for name in ("0000.png", "0001.png")} == {
        name: two[name] for name in ("0000.png", "0001.png")
    }
    code, _, _ = run("--count", "1")
    assert code == 0
    assert contents() == three


def test_a_run_that_fails_on_the_way_keeps_what_was_finished(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    run("--count", "1")
    module = sys.modules["invdiff.sample"]
    original, calls = vars(module)["sample"], []

    def failing(*given: Any, **how: Any) -> Any:
        calls.append(how["first"])
        if len(calls) == 3:
            raise invdiff.InvdiffError("the lights went out")
        return original(*given, **how)

    with monkeypatch.context() as patch:
        patch.setattr(module, "sample", failing)
        code, _, err = run("--count", "5")
    assert (code, calls) == (1, [1, 2, 3])
    assert "the lights went out" in err
    assert record()["samples"].keys() == {"0", "1", "2"}
    code, _, err = run("--count", "5")
    assert code == 0
    assert "3 samples were done before" in err


def test_samples_of_another_kind_are_left_alone_unless_told(run: Run) -> None:
    run("--count", "3")
    there = contents()
    code, out, err = run("--count", "3", "--seed", "1")
    assert (code, out) == (2, "")
    assert "seed 0 (now 1); --overwrite replaces them" in err
    assert contents() == there
    code, _, err = run("--count", "2", "--seed", "1", "--overwrite", "--integrator", "heun:churn=3")
    assert code == 2
    assert contents() == there
    assert run("--count", "2", "--seed", "1", "--overwrite")[0] == 0
    assert list(contents()) == ["0000.png", "0001.png", "samples.json", "sheet.png"]
    assert all(contents()[name] != there[name] for name in contents())


@pytest.mark.parametrize("name", ["0001.png", "sheet.png", "samples.json"])
def test_a_file_of_unknown_origin_is_not_overwritten(run: Run, name: str) -> None:
    Path("samples").mkdir()
    Path("samples", name).write_text("mine")
    code, _, err = run("--count", "2")
    assert code == 2
    assert f"samples/{name} exists and no record says how it was made" in err
    assert Path("samples", name).read_text() == "mine"
    assert run("--count", "2", "--overwrite")[0] == 0


def test_json_is_one_document_with_the_record_and_what_was_kept(run: Run) -> None:
    _, out, _ = run("--count", "2", "--json")
    assert json.loads(out) == {"results": [record()], "kept": [], "failed": [], "exit_code": 0}
    _, out, _ = run("--count", "2", "--json")
    document = json.loads(out)
    assert document["results"] == []
    assert [entry["sample"] for entry in document["kept"]] == ["0000.png", "0001.png"]
    _, out, _ = run("--seed", "1", "--json")
    assert json.loads(out)["exit_code"] == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--integrator", "ddim:eta=2"), "eta: expected a number in [0, 1]"),
        (("--integrator", "dpmpp_2m:order=3"), "unknown setting order. Settings of dpmpp_2m: none"),
        (("--grid", "karras:-1"), "karras:RHO"),
        (("--sigma-max", "50"), "knows noise up to 20, got 50"),
        (("--sigma-min", "0"), "0 < sigma_min"),
        (("--size", "0x8"), "--size 0x8: expected WIDTHxHEIGHT"),
        (("--size", "8x8x8"), "expected WIDTHxHEIGHT"),
        (("--seed", "-1"), "--seed: expected"),
        (("--batch", "0"), "--batch: expected"),
        (("--precision", "float8"), "unknown precision 'float8'"),
        (("--device", "gpu"), "unknown device 'gpu'"),
        (("--jump", "5", "--repeats", "2"), "jump: expected fewer levels"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(run: Run, wrong: tuple[str, ...], said: str) -> None:
    code, out, err = run(*wrong)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not Path("samples").exists()


def test_a_value_out_of_range_is_refused_before_the_weights_are_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*given: object, **how: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("invdiff.priors.load_prior", load)
    code, _, err = run("--integrator", "heun:churn=2")
    assert code == 2
    assert "churn: expected" in err


def sized(path: Path, size: int | None) -> Path:
    """An untrained prior whose card says its size."""
    network = UNet(channels=3, widths=(8,), blocks=(1,), embedding=16)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_prior(path, network, EDM(), Card(name="sized", channels=3, size=size))
    return path


def diffusers_folder(path: Path, size: int) -> Path:
    """An untrained diffusers model and its scheduler."""
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=size, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8,),
        norm_num_groups=4, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    unet.save_pretrained(path)
    diffusers.DDPMScheduler().save_config(path)
    return path


def drawn(prior: Path, *words: str) -> dict[str, Any]:
    """The record of a sample of which no size was said."""
    given = [
        "--prior",
        str(prior),
        "--count",
        "1",
        "--steps",
        "2",
        "--device",
        "cpu",
        "--precision",
        "float32",
    ]
    assert cli.run(["sample", *given, "-q", *words]) == 0
    return record()


@pytest.mark.parametrize("place", ["sized.safetensors", "run/prior.safetensors"])
@pytest.mark.parametrize("size", [16, None])
def test_a_file_says_the_size_of_its_samples(
    place: str, size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = sized(tmp_path / place, size)
    prior = path if place.startswith("sized") else path.parent
    side = size or 64
    assert side_of(str(prior)) == side
    found = drawn(prior)
    assert found["request"]["size"] == f"{side}×{side}"
    assert found["config"]["shape"] == [3, side, side]
    assert images.read_image("samples/0000.png").array.shape == (side, side, 3)

    def load(*given: object, **how: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("invdiff.priors.load_prior", load)
    assert drawn(prior) == found


def test_a_size_that_is_asked_for_goes_before_the_priors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert drawn(sized(tmp_path / "sized.safetensors", 16), "--size", "24x20")["config"]["shape"] == [
        3,
        20,
        24,
    ]


def test_a_diffusers_folder_says_the_size_of_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import invdiff.priors

    monkeypatch.chdir(tmp_path)
    folder = diffusers_folder(tmp_path / "unet", 16)
    calls: list[object] = []
    real = invdiff.priors.load_prior

    def load(source: Any, **how: Any) -> Any:
        calls.append(source)
        return real(source, **how)

    monkeypatch.setattr("invdiff.priors.load_prior", load)
    assert side_of(str(folder)) is None
    found = drawn(folder)
    assert calls == [str(folder)]
    assert (found["request"]["size"], found["config"]["shape"]) == ("16×16", [3, 16, 16])
    assert drawn(folder) == found
    monkeypatch.setattr("invdiff.priors.load_prior", lambda *given, **how: pytest.fail("loaded"))
    code = cli.run(["sample", "--prior", str(folder), "--device", "cpu", "--integrator", "heun:churn=2"])
    assert code == 2


def test_options_beside_a_file_may_say_its_size(tmp_path: Path) -> None:
    path = sized(tmp_path / "sized.safetensors", 16)
    (tmp_path / "sized.safetensors.yaml").write_text("size: 8\n")
    assert side_of(str(path)) is None


def test_what_cannot_be_parsed_is_said_in_whole_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--label", "seven"], ["--nope"], ["--steps"]):
        assert cli.run(["sample", *words]) == 2
        err = capsys.readouterr().err
        assert err.endswith(". See invdiff --help.\n")
        assert ".. See" not in err


def test_batches_are_runs_without_a_gap() -> None:
    assert list(batches([0, 1, 2, 5, 6, 8], 2)) == [[0, 1], [2], [5, 6], [8]]
    assert list(batches([], 3)) == []


def test_a_contact_sheet_shows_every_picture_in_its_place() -> None:
    values = [0.0, 0.2, 0.4, 0.6, 0.8]
    sheet = contact_sheet([np.full((64, 64, 3), v, np.float32) for v in values])
    assert sheet.shape == (2 * 132 + 4, 3 * 132 + 4, 3)
    centres = [sheet[66 + 132 * (k // 3), 66 + 132 * (k % 3), 0] for k in range(5)]
    assert centres == pytest.approx(values)
    assert (sheet[:4] == 1).all()
    large = contact_sheet([np.zeros((512, 1024, 1), np.float32)])
    assert large.shape == (128 + 8, 256 + 8, 1)


def test_the_command_knows_the_grids_there_are() -> None:
    from invdiff.cli.listings import GRIDS

    assert tuple(GRIDS) == grid.GRIDS
