"""`invdiff priors`, `invdiff priors check`, and what --prior, --label, --guidance and --offline accept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff import catalog
from invdiff.catalog import FORMATS, PRIORS
from invdiff.cli import main as cli
from invdiff.cli.restore import check_prior
from invdiff.errors import RequestError
from invdiff.priors import EDM, Card, load_prior
from invdiff.priors.files import save_prior
from invdiff.priors.nets.unet import UNet


@pytest.fixture
def optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> catalog.PriorInfo:
    """A known prior with classes whose file does not come with the package, and is not here."""
    info = dataclasses.replace(
        PRIORS["natural"], name="ten", file="ten.safetensors", packaged=False, classes=10, size=32, sha256=""
    )
    monkeypatch.setitem(PRIORS, "ten", info)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(catalog.PRIORS_VARIABLE, str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    return info


def test_the_listing_says_what_is_here_and_what_prior_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, optional: catalog.PriorInfo
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run(["priors"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for word in ("MiB", "colour", "any", "0.002 to 40", PRIORS["natural"].sha256[:12]):
        assert word in rows["natural"]
    assert "32×32" in rows["ten"]
    assert " 10 " in rows["ten"]
    assert " no " in rows["ten"]
    assert PRIORS["natural"].licence in out
    assert str(optional.places()[-1]) in out
    assert all(how.split()[0] in out for how, _ in FORMATS)


def test_the_listing_as_json_has_size_rule_sigma_licence_checksum_and_bytes(
    capsys: pytest.CaptureFixture[str], optional: catalog.PriorInfo
) -> None:
    assert cli.run(["priors", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["natural"]["available"] is True
    assert rows["natural"]["bytes"] == PRIORS["natural"].path.stat().st_size
    assert rows["natural"]["size_rule"] == "any, padded to multiples of 8"
    assert (rows["ten"]["available"], rows["ten"]["bytes"], rows["ten"]["classes"]) == (False, None, 10)
    assert {"sigma_min", "sigma_max", "licence", "sha256", "channels", "path"} <= rows["ten"].keys()


@pytest.mark.parametrize("prior", PRIORS)
def test_the_catalog_says_of_a_prior_what_its_file_does(prior: str) -> None:
    info = PRIORS[prior]
    if not info.packaged and not info.path.is_file():
        pytest.skip(info.missing())
    card = load_prior(prior).card
    for name in ("channels", "multiple", "size", "classes", "sigma_min", "sigma_max"):
        assert getattr(info, name) == getattr(card, name)
    condition = card.condition
    assert (info.tasks, info.noise) == ((condition.tasks, condition.noise) if condition else ((), 0.0))
    assert bool(info.instead_of) == bool(condition)


def test_optional_weights_are_found_where_they_may_be_put(
    optional: catalog.PriorInfo, tmp_path: Path
) -> None:
    package, checkout, mine, cache = optional.places()
    assert (mine, cache) == (
        tmp_path / "mine" / "ten.safetensors",
        tmp_path / "cache/invdiff/priors/ten.safetensors",
    )
    assert checkout.parent.parts[-2:] == ("experiments", "weights")
    assert package.parent.name == "weights"
    for place in (cache, mine):
        place.parent.mkdir(parents=True)
        place.touch()
        assert optional.path == place


def test_weights_that_are_not_here_are_told_with_the_place_to_put_them(
    optional: catalog.PriorInfo, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["sample", "--prior", "ten", "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert "put it at" in err
    assert str(optional.places()[-1]) in err


# ------------------------------------------------------------------------------------------------ priors check


def natural(*words: str) -> list[str]:
    return ["priors", "check", "natural", "--device", "cpu", *words]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of one small smooth picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    y, x = np.mgrid[0:16, 0:16] / 16
    picture = np.stack([0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.5 + 0.3 * np.sin(6 * x * y)], axis=2)
    Image.fromarray((255 * picture).astype(np.uint8)).save(folder / "a.png")
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check on few pixels and levels."""
    from invdiff.evaluation import prior_check

    real = prior_check.pictures_for
    monkeypatch.setattr(
        prior_check, "pictures_for", lambda card, folder=None: real(card, folder, side=16 if folder else 32)
    )
    monkeypatch.setattr(prior_check, "SIGMAS", (0.1, 0.5))
    monkeypatch.setattr(prior_check, "TRIED_AT", (0.2,))


def test_a_prior_that_denoises_is_fine_and_the_answer_0(
    small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(natural("--quiet")) == 0
    out = capsys.readouterr().out
    assert "natural behaves as a denoiser in image units." in out
    assert "0.1 " in out


def test_one_in_another_range_is_suspicious_and_the_answer_1(
    pictures: Path, small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prior: Any = load_prior("natural")
    path = tmp_path / "wrong.safetensors"
    save_prior(path, prior.network, EDM(sigma_data=0.25), prior.card)
    words = ["priors", "check", str(path), "--images", str(pictures), "--device", "cpu"]
    assert cli.run([*words, "--quiet"]) == 1
    assert "its sigma_data is 0.5" in capsys.readouterr().out
    assert cli.run([*words, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["mistake"] == "its sigma_data is 0.5"
    assert document["fine"] is False
    assert len(document["levels"]) == 2


def test_photographs_do_not_judge_a_prior_of_another_kind(
    pictures: Path, small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its sigma_data is wrong as it would seem of digits that are right: said of its own pictures, not of others."""
    prior: Any = load_prior("natural")
    path = tmp_path / "sized.safetensors"
    save_prior(path, prior.network, EDM(sigma_data=0.3), dataclasses.replace(prior.card, size=16))
    words = ["priors", "check", str(path), "--device", "cpu", "--quiet"]
    assert cli.run(words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "its convention cannot be judged" in out
    assert "--images DIR" in out
    assert "sigma_data" not in out
    assert cli.run([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["fine"], document["judged"]) == (True, False)
    assert cli.run([*words, "--images", str(pictures)]) == 1
    assert "its sigma_data is 0.6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["naturel"], "'natural'"),
        (["natural", "--images", "nowhere"], "nowhere: no such file or folder"),
        (["natural", "--device", "gpu"], "unknown device"),
        (["natural", "--label", "3"], "knows no labels"),
        (["missing.pt"], "missing.pt: no such file"),
    ],
)
def test_a_check_that_cannot_be_is_a_wrong_request(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["priors", "check", *words]) == 2
    assert said in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- what --prior is


def test_prior_accepts_files_folders_and_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pt").write_bytes(b"whatever")
    Path("unet").mkdir()
    Path("unet/config.json").write_text("{}")
    first = check_prior("unet")["sha256"]
    assert len(check_prior("weights.pt")["sha256"]) == len(first) == 64
    Path("unet/config.json").write_text("{ }")
    assert check_prior("unet")["sha256"] != first
    assert check_prior("google/ddpm-cat-256")["sha256"] == "google/ddpm-cat-256"
    assert check_prior("google/ddpm-cat-256@main")["path"] == "google/ddpm-cat-256@main"
    Path("empty").mkdir()
    Path("notes.txt").write_text("no prior")
    for wrong in ("empty", "notes.txt", "unet/missing", "missing.safetensors", "a/b/c"):
        with pytest.raises(RequestError):
            check_prior(wrong)


# ------------------------------------------------------------------------------------------ labels and guidance


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prior of a network of three classes whose label moves its answer."""
    torch.manual_seed(0)
    network = UNet(channels=3, widths=(8,), blocks=(1,), embedding=16, classes=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("labelled") / "three.safetensors"
    save_prior(path, network, EDM(), Card(name="three", channels=3, classes=3))
    return str(path)


def test_label_and_guidance_reach_the_samples_and_the_records(
    labelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = [
        "sample",
        "--prior",
        labelled,
        "--size",
        "8",
        "--steps",
        "2",
        "--count",
        "1",
        "--device",
        "cpu",
        "-q",
    ]
    assert cli.run([*common, "--label", "2", "--guidance", "3", "--out", "two"]) == 0
    assert cli.run([*common, "--label", "1", "--guidance", "3", "--out", "one"]) == 0
    record = json.loads(Path("two/samples.json").read_text())
    assert (record["request"]["label"], record["request"]["guidance"]) == (2, 3.0)
    assert (record["config"]["label"], record["config"]["guidance"]) == (2, 3.0)
    assert Path("one/0000.png").read_bytes() != Path("two/0000.png").read_bytes()
    assert cli.run([*common, "--label", "1", "--guidance", "3", "--out", "two"]) == 2
    assert "label 2 (now 1)" in capsys.readouterr().err


def test_label_and_guidance_reach_restorations(labelled: str, folder: Path) -> None:
    common = [
        "restore",
        "photo.png",
        "--task",
        "denoise",
        "--noise",
        "0.2",
        "--prior",
        labelled,
        "--device",
        "cpu",
    ]
    assert cli.run([*common, "--label", "1", "--guidance", "2", "-q"]) == 0
    record = json.loads(Path("restored/photo.json").read_text())
    assert (record["request"]["label"], record["config"]["guidance"]) == (1, 2.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label", "3"], "labels 0 to 2"),
        (["--label", "-1"], "labels from 0"),
        (["--guidance", "2"], "needs a label"),
        (["--label", "1", "--guidance", "nan"], "finite number"),
    ],
)
def test_a_label_that_is_none_is_a_wrong_request(
    words: list[str], said: str, labelled: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["sample", "--size", "8"],
        ["restore", "photo.png", "--task", "denoise", "--noise", "0.2"],
    ):
        assert cli.run([*command, "--prior", labelled, "--device", "cpu", *words]) == 2
        assert said in capsys.readouterr().err


def test_offline_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from invdiff import priors

    asked: list[tuple[str, bool]] = []

    def load(source: str, *, offline: bool = False, **rest: object) -> None:
        asked.append((source, offline))
        raise RequestError("not here")

    monkeypatch.setattr(priors, "load_prior", load)
    monkeypatch.chdir(tmp_path)
    assert cli.run(["sample", "--prior", "google/ddpm", "--offline", "--device", "cpu"]) == 2
    assert cli.run(["priors", "check", "google/ddpm", "--offline", "--device", "cpu"]) == 2
    assert asked == [("google/ddpm", True)] * 2
