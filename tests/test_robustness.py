"""experiments/quality/robustness.py, small: every method stays finite, and one that does not is found."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff.catalog import METHODS
from invdiff.methods.defaults import DEFAULTS
from invdiff.priors import EDM, Card, GaussianPrior, NetworkPrior
from invdiff.priors.nets.unet import UNet


@pytest.fixture
def robustness(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    file = repository / "experiments" / "quality" / "robustness.py"
    spec = importlib.util.spec_from_file_location("quality_robustness", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


def small_network(name: str, precision: str) -> NetworkPrior:
    """A random one, not far from linear: D ≈ c_skip·x."""
    draws = torch.Generator().manual_seed(0)
    network = UNet(widths=(8,), blocks=(1,), embedding=8)
    for weights in network.parameters():
        weights.data.normal_(0, 0.05, generator=draws)
    return NetworkPrior(network, EDM(), Card(name=name), precision=getattr(torch, precision))


class Broken(GaussianPrior):
    """NaN where σ is small."""

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        answer = super().__call__(x, sigma)
        return answer * float("nan") if torch.as_tensor(sigma).max() < 0.1 else answer


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_method_stays_finite_in_both_precisions(
    robustness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invdiff, "load_prior", small_network)
    monkeypatch.setitem(DEFAULTS, "daps", {"mask": {"langevin": 20}})
    out = tmp_path / "rows.jsonl"
    for only in ("inpaint80", "denoise,ancestral"):
        assert robustness.main(["--size", "16", "--steps", "10,30", "--only", only, "--out", str(out)]) == 0
    found = rows(out)
    done = {(row["cell"]["method"], row["cell"]["steps"], row["cell"]["precision"]) for row in found}
    names = [name for name, info in METHODS.items() if not info.conditional]
    assert done == {(name, n, p) for name in names for n in (10, 30) for p in ("float32", "bfloat16")}
    assert all(-20 < row["low"] < row["high"] < 20 for row in found)
    assert "Not finite, or not done: 0 of 4." in out.with_suffix(".md").read_text()


def test_what_is_not_finite_is_reported_and_the_rest_is_done(
    robustness: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(name: str, precision: str) -> GaussianPrior:
        return (Broken if precision == "bfloat16" else GaussianPrior).white()

    monkeypatch.setattr(invdiff, "load_prior", load)
    out = tmp_path / "rows.jsonl"
    words = ["--size", "16", "--steps", "5,10", "--only", "ddnm,sr4", "--out", str(out)]
    assert robustness.main(words) == 1
    assert [bool(row["error"]) for row in rows(out)].count(True) == 2
    assert len(rows(out)) == 4
    printed = capsys.readouterr().out
    assert "Not finite, or not done: 2 of 4." in printed
    assert "ddnm diverged" in printed
    monkeypatch.setattr(robustness, "tried", None)  # a second run does nothing, and knows what it found
    assert robustness.main(words) == 1


def test_what_repeats_within_a_step_repeats_less_where_steps_are_many(robustness: ModuleType) -> None:
    assert robustness.affordable("sr4", "mmps", 1000) == {}
    assert robustness.affordable("sr4", "smc", 100) == {}
    for task, method in (("sr4", "smc"), ("sr4", "daps"), ("inpaint80", "repaint")):
        options = robustness.affordable(task, method, 1000)
        assert len(options) == 1, method
        assert 500 < robustness.needed(task, method, 1000, options) <= robustness.EVALUATIONS, method


def test_a_travel_longer_than_the_walk_is_made_shorter(
    robustness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEFAULTS, "repaint", {"mask": {"steps": 60, "jump": 10}})
    assert robustness.affordable("inpaint80", "repaint", 10) == {"jump": 5}
    assert robustness.affordable("inpaint80", "repaint", 30) == {}
