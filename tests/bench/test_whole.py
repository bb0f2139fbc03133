"""FID and KID of a run: of all pictures of a method, kept until another row is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff import images
from invdiff.bench import engines, whole
from invdiff.bench.definition import load
from invdiff.bench.scores import whole_run
from invdiff.bench.store import Row, Store
from invdiff.errors import RequestError


def colours(pictures: Tensor) -> Tensor:
    """(B, 3): their mean colours, in place of Inception's features."""
    return pictures.double().mean(dim=(2, 3))


def read(path: Path) -> Tensor:
    return torch.from_numpy(images.read_image(path).array.transpose(2, 0, 1))


def test_a_run_keeps_them_of_the_first_samples_until_a_row_is_written(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "inception_file", lambda: tmp_path)
    monkeypatch.setattr(whole, "inception", lambda: colours)
    benchmark = load(write(metrics=["psnr", "fid"]))
    engines.run(benchmark, tmp_path / "run", only=["task=sr"])
    with Store.open(tmp_path / "run", benchmark.record()) as store:
        found = store.whole() or []
        assert [(one["task"], one["method"]) for one in found] == [("sr", "ddnm"), ("sr", "dps")]
        rows = list(store.rows(method="dps"))
        truths, samples = (
            [read(store.folder / row.files[role]) for row in rows] for role in ("truth", "sample_1")
        )
        assert found[1]["metrics"] == whole_run(["fid"], truths, samples, extractor=colours)
        assert found[1]["metrics"] != found[0]["metrics"]
        store.write("other", [Row(**{**vars(rows[0]), "unit": "other", "seed": 9})])
        assert store.whole() is None


def test_a_run_without_the_weights_does_not_begin(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVDIFF_FID_WEIGHTS", str(tmp_path / "none.pth"))
    with pytest.raises(RequestError, match=r"none\.pth.*leave them out of metrics"):
        engines.run(load(write(metrics=["psnr", "kid"])), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_they_need_the_pictures(write: Callable[..., Any]) -> None:
    with pytest.raises(RequestError, match=r"metrics\.1: fid is of the pictures that are kept"):
        load(write(metrics=["psnr", "fid"], pictures=False))
