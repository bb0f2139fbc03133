"""experiments/figures/gallery.py end to end with a prior that is a formula, and the page it wrote."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

import invdiff
from invdiff.catalog import METHODS
from invdiff.errors import RequestError
from invdiff.methods.defaults import DEFAULTS
from invdiff.priors import GaussianPrior
from invdiff.restore import choose_method


@pytest.fixture
def gallery(repository: Path) -> ModuleType:
    file = repository / "experiments" / "figures" / "gallery.py"
    spec = importlib.util.spec_from_file_location("figures_gallery", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(gallery: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """main() with two tasks, two photographs of 16², three methods, a white Gaussian prior, and no LPIPS."""
    monkeypatch.setattr(invdiff, "load_prior", lambda name, **given: GaussianPrior.white())
    for name, keys in {
        "TASKS": ("inpaint80", "denoise"), "PHOTOS": ("chelsea", "rocket"), "METHODS": ("mmps", "ddnm", "ancestral"),
    }.items():  # fmt: skip
        monkeypatch.setattr(gallery, name, {key: getattr(gallery, name)[key] for key in keys})

    def no_lpips(net: str, weights: Path | None) -> None:
        raise RequestError("no weights")

    monkeypatch.setattr(gallery, "Lpips", no_lpips)
    folders = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "docs")]
    return lambda *words: gallery.main(["--size", "16", *folders, *words])


def rows(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tmp_path / "runs" / "rows.jsonl").read_text().splitlines()]


def test_a_run_restores_every_pair_and_writes_a_page_that_shows_them(
    run: Callable[..., int], tmp_path: Path
) -> None:
    assert run() == 0
    done = {(row["task"], row["method"], row["photo"]) for row in rows(tmp_path)}
    pairs = {("inpaint80", name) for name in ("auto", "mmps", "ddnm")}
    pairs |= {("denoise", name) for name in ("auto", "mmps", "ddnm", "ancestral")}
    assert done == {(*pair, photo) for pair in pairs for photo in ("chelsea", "rocket")}
    page = (tmp_path / "docs" / "gallery.md").read_text()
    for task in ("inpaint80", "denoise"):
        assert f"(gallery/{task}.jpg)" in page
        assert Image.open(tmp_path / "docs" / "gallery" / f"{task}.jpg").format == "JPEG"
    tables = page.split("\n## ")[2:]
    assert [re.findall(r"^\| ([a-z]\w+)", text, re.M) for text in tables] == [
        ["method", *order(tables[0])], ["method", *order(tables[1])],
    ]  # fmt: skip
    assert "| auto |" in tables[0]  # which travels, where mmps does not
    assert "| auto |" in tables[1]
    assert [line.split("|")[-2].strip() for line in tables[0].splitlines() if "| mmps" in line] == ["1"]
    assert "Not for this: ancestral." in tables[0]


def test_what_auto_is_to_the_last_bit_shares_its_column(gallery: ModuleType) -> None:
    one, other = torch.rand(3, 4, 4), torch.rand(3, 4, 4)
    assert gallery._twin({"auto": {"a": one}, "dps": {"a": other}, "mmps": {"a": one.clone()}}) == "mmps"
    assert gallery._twin({"auto": {"a": one}, "dps": {"a": other}}) == ""


def order(table: str) -> list[str]:
    """Methods of a table, the best PSNR first."""
    lines = re.findall(r"^\| (\w+)(?: = auto)? \| ([\d.]+) \|", table, re.M)
    return [name for name, _ in sorted(lines, key=lambda line: -float(line[1]))]


def test_a_second_run_restores_only_what_has_other_settings_now(
    run: Callable[..., int], gallery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run() == 0
    log = tmp_path / "runs" / "rows.jsonl"
    log.write_text("\n".join(log.read_text().splitlines()[:-1]) + '\n{"task": "den')  # killed while it wrote
    before = len(log.read_text().splitlines())
    assert run() == 0
    assert len(log.read_text().splitlines()) == before + 1
    monkeypatch.setitem(DEFAULTS, "ddnm", {"mask": {"steps": 7}})
    assert run() == 0
    anew = [json.loads(line) for line in log.read_text().splitlines()[before + 1 :]]
    assert [(row["task"], row["method"]) for row in anew] == [("inpaint80", "ddnm")] * 2
    assert {row["evaluations"] for row in anew} == {7}
    monkeypatch.setattr(gallery, "restored", None)
    assert run() == 0


def test_the_page_is_written_only_when_nothing_is_missing(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--only", "mmps,denoise") == 0
    assert {(row["task"], row["method"]) for row in rows(tmp_path)} == {("denoise", "mmps")}
    assert (tmp_path / "runs" / "denoise.jpg").exists()
    assert not (tmp_path / "docs").exists()


def test_an_unknown_name_is_refused_before_anything_is_done(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--only", "mmsp") == 2
    assert "Did you mean 'mmps'?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_task_has_exactly_the_methods_of_any_prior_that_restore_would_take(gallery: ModuleType) -> None:
    noisy = gallery.Task(title="", operator=gallery.TASKS["box"].operator, sigma_y=0.1)
    for task in (*gallery.TASKS.values(), noisy):
        op = task.operator(32)
        taken = set()
        for name in gallery.walkers():
            try:
                choose_method(op, name, task.sigma_y)
            except RequestError:
                continue
            taken.add(name)
        assert set(gallery.methods_for(task)) == {"auto", *taken}


def test_what_it_will_cost_is_counted_as_it_is_spent(gallery: ModuleType) -> None:
    assert gallery.evaluations("sr4", "mmps", (("steps", 7),)) == 7
    assert gallery.evaluations("sr4", "smc", (("steps", 3), ("particles", 5))) == 15
    assert gallery.evaluations("denoise", "auto") == 1


def test_every_line_of_a_sheet_begins_with_the_truth(gallery: ModuleType) -> None:
    def column(value: float) -> object:
        return gallery.Column(title="", pictures={"a": torch.full((1, 3, 96, 96), value)}, captions={})

    drawn = gallery.sheet([column(k / 10) for k in range(6)], 96, across=3)  # 0 | 1 2, 0 | 3 4, 0 | 5
    step, line = 100, 18 + 96 + 15 + 4
    tones = [[drawn.getpixel((4 + j * step + 48, i * line + 18 + 48))[0] for j in range(3)] for i in range(3)]
    assert tones == [[0, 26, 51], [0, 76, 102], [0, 128, 255]]


def test_a_sheet_is_written_at_the_quality_its_limit_allows(
    gallery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    gallery.write_jpeg(noise, tmp_path / "a.jpg")
    monkeypatch.setattr(gallery, "LARGEST", 15_000)
    gallery.write_jpeg(noise, tmp_path / "b.jpg")
    assert (tmp_path / "b.jpg").stat().st_size <= 15_000 < (tmp_path / "a.jpg").stat().st_size


def test_the_photographs_are_there_in_colour(gallery: ModuleType) -> None:
    for name in gallery.PHOTOS:
        x = gallery.photograph(name, 128)
        assert x.shape == (1, 3, 128, 128)
        assert 0 <= x.min() < 0.2 < 0.5 < x.max() <= 1
        assert (x[:, 0] - x[:, 2]).abs().max() > 0.1


def test_what_one_sees_is_said_of_every_method(gallery: ModuleType) -> None:
    assert list(gallery.SEEN) == ["auto", *gallery.walkers()]
    assert set(METHODS) - set(gallery.walkers()) == {"sr3"}
    for name, words in gallery.SEEN.items():
        assert words.endswith("."), name
        assert len(words) > 30, name


def test_the_gallery_names_every_method_and_its_pictures_are_there(
    gallery: ModuleType, repository: Path
) -> None:
    page = (repository / "docs" / "gallery.md").read_text(encoding="utf-8")
    for task in gallery.TASKS.values():
        (part,) = [part for part in page.split("\n## ") if part.startswith(task.title)]
        for name in gallery.methods_for(task):
            assert re.search(rf"\| (\w+ = )?{name}\b", part), f"{task.title}: {name}"
    for name, words in gallery.SEEN.items():
        assert f"**`{name}`** {words}" in page
    pictures = re.findall(r"\]\((gallery/[^)]+)\)", page)
    assert sorted(pictures) == sorted(f"gallery/{task}.jpg" for task in gallery.TASKS)
    for picture in pictures:
        assert (repository / "docs" / picture).stat().st_size <= gallery.LARGEST
