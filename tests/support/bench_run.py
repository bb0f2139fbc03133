"""A run as `invdiff bench` leaves it, written row by row: for tests of what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from invdiff.bench.store import Row, Store
from invdiff.images import write_std

DEFINITION: dict[str, Any] = {
    "name": "small",
    "summary": "Two tasks on a few pictures.",
    "reproduces": "",
    "datasets": {"set": {"path": "pictures"}},
    "tasks": {"sr4": {"noise": 0.0}, "deblur": {"noise": 0.01}},
    "priors": {"natural": "0123"},
    "methods": {"mmps": {"samples": 4}, "dps": {"samples": 4}, "bicubic": {"peer": "bicubic"}},
    "seeds": [0],
    "metrics": ["psnr", "lpips_squeeze", "consistency"],
    "colour": "rgb",
    "border": 0,
}

# method → (mean PSNR, mean LPIPS, seconds, evaluations); dps is a tenth of a dB behind mmps, which is chance
LEVELS: dict[str, tuple[float, float, float, int]] = {
    "mmps": (27.4, 0.21, 4.0, 20),
    "dps": (27.3, 0.19, 12.0, 100),
    "bicubic": (24.0, 0.4, 0.01, 0),
}


def rows(
    task: str,
    pictures: Sequence[str],
    *,
    levels: Mapping[str, tuple[float, float, float, int]] = LEVELS,
    prior: str = "natural",
    seed: int = 0,
    noise: float = 0.3,
) -> list[Row]:
    """A row for each method and picture: all methods find the same pictures hard, up to noise (dB)."""
    draws = np.random.default_rng(len(task))
    hard = draws.normal(size=len(pictures))
    found = []
    for method, (psnr, lpips, seconds, evaluations) in levels.items():
        own = draws.normal(size=len(pictures))
        for picture, a, b in zip(pictures, hard, own, strict=True):
            found.append(
                Row(
                    unit=f"{task}-{method}-{prior}-{seed}",
                    dataset="set",
                    picture=picture,
                    task=task,
                    prior=prior,
                    method=method,
                    seed=seed,
                    metrics={
                        "psnr": psnr + 2 * float(a) + noise * float(b),
                        "lpips_squeeze": lpips - 0.03 * float(a),
                        "consistency": 1 + 0.01 * float(b),
                    },
                    seconds=seconds,
                    evaluations=evaluations,
                    peak_mib=100.0 + evaluations,
                )
            )
    return found


def with_pictures(
    folder: Path, given: Sequence[Row], side: int, draw: Callable[[str], Image.Image]
) -> list[Row]:
    """The same rows with files for each, made of `draw`: blurred for the methods, a quarter of the size measured."""
    found = []
    Store.open(folder, DEFINITION).close()
    for place, row in enumerate(given):
        files = {role: f"pictures/{place}-{role}.png" for role in ("truth", "measured", "restored", "std")}
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        truth = draw(row.picture).resize((side, side))
        coarse = truth.resize((side // 4, side // 4), Image.Resampling.BOX)
        restored = truth.resize((side // 2, side // 2)) if row.method != "bicubic" else coarse
        restored = restored.resize((side, side), Image.Resampling.BICUBIC)
        truth.save(folder / files["truth"])
        coarse.save(folder / files["measured"])
        restored.save(folder / files["restored"])
        if row.method == "bicubic":
            del files["std"]
        else:
            error = np.abs(np.asarray(truth, float) - np.asarray(restored, float)).mean(axis=2)
            write_std(folder / files["std"], error / 255)
        found.append(Row(**{**vars(row), "files": files}))
    return found


def write(folder: Path, given: Sequence[Row], definition: Mapping[str, Any] = DEFINITION) -> Path:
    """A run of these rows in `folder`."""
    with Store.open(folder, definition) as store:
        store.begin({"device": "cpu", "versions": {"invdiff": "0.1", "torch": "2.6"}, "workers": 2})
        units: dict[str, list[Row]] = {}
        for row in given:
            units.setdefault(row.unit, []).append(row)
        for unit, of_it in units.items():
            store.write(unit, of_it)
    return folder


def failed(row: Row, reason: str) -> Row:
    """The row as one that failed."""
    return Row(**{**vars(row), "status": "failed", "reason": reason, "metrics": {}, "files": {}})
