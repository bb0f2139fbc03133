"""experiments/quality: the scripts run end to end on small pictures, with a prior that is a formula."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import invdiff
from invdiff.priors.analytic import GaussianPrior


def script(repository: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"quality_{name}", repository / "experiments" / "quality" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """set5 and cbsd68 with few and small pictures."""
    rng = np.random.default_rng(0)
    for folder, count in (("set5", 2), ("cbsd68", 12)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            smooth = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).resize(
                (41, 37), Image.Resampling.BICUBIC
            )
            smooth.save(tmp_path / folder / f"{i:04}.png")
    return tmp_path


def fake_lpips(image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return (image - reference).abs().mean(dim=(-3, -2, -1))


@pytest.fixture
def bench(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """main() of baselines.py at 32², with a Gaussian prior and without a perceptual network."""
    module = script(repository, "baselines")
    monkeypatch.setattr(module, "SIZE", 32)
    monkeypatch.setattr(module, "Lpips", lambda net, weights: fake_lpips)
    monkeypatch.setattr(invdiff, "load_prior", lambda name, device: GaussianPrior.white())

    def run(data: Path, out: Path, *more: str) -> int:
        return module.main(["--data", str(data), "--out", str(out), "--samples", "2", "--steps", "3", *more])

    run.module = module  # type: ignore[attr-defined]
    return run


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_task_scores_the_baseline_one_sample_and_the_mean(
    bench: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    assert bench(data, out, "--images", "2") == 0
    found = rows(out)
    assert [(r["task"], r["image"]) for r in found] == [
        (task, f"set5/{i:04}")
        for task in ("inpaint80", "scratch", "sr2", "sr4", "deblur", "denoise")
        for i in (0, 1)
    ]
    for row in found:
        for who in ("baseline", "sample", "mean"):
            assert all(np.isfinite(row[who][score]) for score in ("psnr", "ssim", "lpips"))
        assert row["seconds"] > 0
        if row["task"] != "denoise":  # where the mean is D itself
            assert row["mean"]["psnr"] > row["sample"]["psnr"]
    printed = capsys.readouterr().out
    assert printed.count("\n| ") == 6
    assert out.with_suffix(".md").read_text() == printed


def test_a_stopped_run_goes_on_and_measures_nothing_twice(
    bench: Callable[..., int], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, module = tmp_path / "rows.jsonl", bench.module  # type: ignore[attr-defined]
    assert bench(data, out, "--images", "3", "--tasks", "sr2") == 0
    whole, text = out.read_text(), out.with_suffix(".md").read_text()
    lines = whole.splitlines(keepends=True)
    out.write_text(lines[0] + lines[1][:50])  # killed within the second line
    measured = []
    compare = module.compare
    monkeypatch.setattr(module, "compare", lambda *a: measured.append(a[1]) or compare(*a))
    assert bench(data, out, "--images", "3", "--tasks", "sr2") == 0
    assert measured == ["set5/0001", "cbsd68/0000"]

    def scores(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key != "seconds"}

    settings = json.loads(lines[0])["settings"]
    again = module.read_rows(out, settings).values()
    assert [scores(r) for r in again] == [scores(json.loads(line)) for line in lines]
    assert (
        text.splitlines()[2].rsplit("|", 2)[0]
        == out.with_suffix(".md").read_text().splitlines()[2].rsplit("|", 2)[0]
    )


def test_rows_of_other_settings_are_kept_but_not_used(
    bench: Callable[..., int], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    for more in ("--seed=0", "--seed=1", "--seed=1"):
        assert bench(data, out, "--images", "1", "--tasks", "denoise", more) == 0
    assert [r["settings"]["seed"] for r in rows(out)] == [0, 1]
    assert bench(data, out, "--images", "1", "--tasks", "denoise", "--fresh") == 0
    assert [r["settings"]["seed"] for r in rows(out)] == [0]


def test_the_pictures_are_centre_crops_of_set5_and_ten_of_cbsd68(
    bench: Callable[..., int], data: Path
) -> None:
    found = dict(bench.module.pictures(data))  # type: ignore[attr-defined]
    assert list(found) == [f"set5/{i:04}" for i in range(2)] + [f"cbsd68/{i:04}" for i in range(10)]
    whole = np.asarray(Image.open(data / "cbsd68" / "0003.png")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(found["cbsd68/0003"].numpy(), whole[:, 2:34, 4:36], atol=1e-6)


def test_the_table_pairs_by_picture_and_says_by_how_much_a_target_is_missed(
    bench: Callable[..., int],
) -> None:
    def row(image: str, baseline: float, mean: float) -> dict[str, Any]:
        def score(psnr: float, lpips: float) -> dict[str, float]:
            return {"psnr": psnr, "ssim": 0.9, "lpips": lpips}

        return {
            "task": "sr4", "image": image, "method": "mmps", "seconds": 3.0,
            "baseline": score(baseline, 0.3), "sample": score(20.0, 0.2), "mean": score(mean, 0.25),
        }  # fmt: skip

    text = bench.module.table([row("a", 20, 20.6), row("b", 30, 30.8)])  # type: ignore[attr-defined]
    assert "+0.70 ± 0.10 (+0.8: **missed by 0.10**)" in text
    assert "-0.100 ± 0.000 (< 0: met)" in text


def test_an_unknown_task_or_a_folder_without_pictures_is_one_line(
    bench: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(data, tmp_path / "rows.jsonl", "--tasks", "sr3") == 2
    assert "expected one of inpaint80, scratch, sr2" in capsys.readouterr().err
    assert bench(tmp_path / "nowhere", tmp_path / "rows.jsonl") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_denoising_adds_the_stated_noise_unclipped_and_prints_the_published_figures(
    repository: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script(repository, "denoising")
    seen: list[tuple[torch.Tensor, float]] = []

    class Recording:
        def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
            seen.append((x, sigma))
            return x

    monkeypatch.setattr(invdiff, "load_prior", lambda name, device: Recording())
    assert module.main(["--data", str(data), "--images", "2", "--seed", "3"]) == 0
    assert [round(255 * sigma) for _, sigma in seen] == [15, 25, 50] * 2
    clean = torch.from_numpy(
        np.asarray(Image.open(data / "cbsd68" / "0001.png")).transpose(2, 0, 1)[None] / 255
    ).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3001))
    torch.testing.assert_close(seen[5][0], clean + 50 / 255 * noise)
    printed = capsys.readouterr().out
    assert "33.5 | 30.7 | 27.4" in printed
    assert "natural (2 images)" in printed
