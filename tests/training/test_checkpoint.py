"""A checkpoint is complete or absent, and the older one stays until it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.priors.files import write_durably
from invdiff.training import checkpoint


def tensors(value: float = 0.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "network.weight": value + torch.randn(300, 40, generator=generator),
        "network.strided": torch.randn(4, 3, 5, 5, generator=generator).to(memory_format=torch.channels_last),
        "ema.n_averaged": torch.tensor(7),
        "optimiser.0.step": torch.tensor(3.0),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def test_what_is_saved_comes_back_bit_for_bit(folder: Path) -> None:
    path = checkpoint.save(folder, 12, tensors(), {"seconds": 1.5})
    assert checkpoint.newest(folder) == path
    loaded, state = checkpoint.load(path)
    assert same(loaded, tensors())
    assert (state["step"], state["seconds"]) == (12, 1.5)


@pytest.mark.parametrize("part_mib", [0.01, 0.02, 1.0])
def test_no_part_is_larger_than_its_limit_even_where_a_tensor_is(folder: Path, part_mib: float) -> None:
    path = checkpoint.save(folder, 1, tensors(), {}, part_mib)
    sizes = [p.stat().st_size for p in path.glob("part-*")]
    assert max(sizes) <= part_mib * 2**20
    assert len(sizes) == -(-sum(sizes) // int(part_mib * 2**20))
    assert same(checkpoint.load(path)[0], tensors())


def test_the_newest_replaces_the_older_ones(folder: Path) -> None:
    checkpoint.save(folder, 9, tensors(1), {})
    newest = checkpoint.save(folder, 10, tensors(2), {})
    assert list(folder.iterdir()) == [newest]
    assert same(checkpoint.load(newest)[0], tensors(2))


@pytest.mark.parametrize("survives", [0, 1, 2])
def test_a_write_that_is_interrupted_leaves_the_older_one_usable(
    folder: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    older = checkpoint.save(folder, 5, tensors(1), {})
    written = 0
    truly = write_durably

    def fails(path: Path, data: bytes) -> None:
        nonlocal written
        if written == survives:
            path.write_bytes(data[:10])
            raise OSError(28, "No space left on device")
        written += 1
        truly(path, data)

    monkeypatch.setattr(checkpoint, "write_durably", fails)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(folder, 6, tensors(2), {}, 0.03)
    assert checkpoint.newest(folder) == older
    assert same(checkpoint.load(older)[0], tensors(1))
    monkeypatch.undo()
    newer = checkpoint.save(folder, 6, tensors(2), {})
    assert list(folder.iterdir()) == [newer]


def test_saving_a_step_again_never_takes_away_what_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint.save(folder, 5, tensors(), {})
    monkeypatch.setattr("shutil.rmtree", lambda *a, **k: pytest.fail("removed"))
    assert checkpoint.save(folder, 5, tensors(), {}) == path


def test_an_unfinished_or_absent_checkpoint_is_none(folder: Path) -> None:
    assert checkpoint.newest(folder) is None
    (folder / ".000000003.77.part").mkdir(parents=True)
    (folder / "000000004").mkdir()
    assert checkpoint.newest(folder) is None


def test_a_damaged_checkpoint_is_named(folder: Path) -> None:
    path = checkpoint.save(folder, 5, tensors(), {}, 0.02)
    parts, state = sorted(path.glob("part-*")), path / "state.json"
    whole, told = parts[-1].read_bytes(), state.read_bytes()
    damages = [
        (parts[-1], whole[:-7]),
        (parts[-1], None),
        (state, b"{"),
        (state, b"[]"),
        (state, b'{"step": 5}'),
    ]
    for file, data in damages:
        file.write_bytes(data) if data is not None else file.unlink()
        with pytest.raises(RequestError, match="000000005: damaged checkpoint; remove it"):
            checkpoint.load(path)
        parts[-1].write_bytes(whole)
        state.write_bytes(told)
    assert same(checkpoint.load(path)[0], tensors())


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_others_may_read_a_checkpoint_as_the_umask_says(folder: Path) -> None:
    before = os.umask(0o022)
    try:
        path = checkpoint.save(folder, 5, tensors(), {})
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in path.iterdir()} == {0o644}
