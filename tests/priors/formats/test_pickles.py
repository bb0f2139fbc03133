"""No pickle is ever executed: a malicious one is refused, by every name it may bear, and what it names does not run."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from invdiff import load_prior
from invdiff.errors import RequestError
from invdiff.priors.formats.base import read_tensors


class Malicious:
    """Unpickled, it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.marker,)


def bare(marker: Path) -> bytes:
    return pickle.dumps(Malicious(marker))


def zipped(marker: Path) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", bare(marker))
        archive.writestr("archive/version", "3")
    return data.getvalue()


def saved(marker: Path) -> bytes:
    data = io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(3)}, "hook": Malicious(marker)}, data)
    return data.getvalue()


def saved_of_old(marker: Path) -> bytes:
    data = io.BytesIO()
    content = {"model": {"weight": torch.zeros(3)}, "hook": Malicious(marker)}
    torch.save(content, data, _use_new_zipfile_serialization=False)
    return data.getvalue()


WRITERS = [bare, zipped, saved, saved_of_old]


@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt", ".bin", ".pkl", ".safetensors", ""])
@pytest.mark.parametrize("write", WRITERS)
def test_a_malicious_pickle_is_refused_and_nothing_in_it_runs(
    tmp_path: Path, ending: str, write: Callable[[Path], bytes]
) -> None:
    marker, path = tmp_path / "it_ran", tmp_path / f"weights{ending}"
    path.write_bytes(write(marker))
    with pytest.raises(RequestError) as caught:
        load_prior(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("write", WRITERS)
def test_the_same_bytes_do_run_where_they_are_trusted_so_the_test_above_could_fail(
    tmp_path: Path, write: Callable[[Path], bytes]
) -> None:
    marker = tmp_path / "it_ran"
    data = write(marker)
    if write is bare:
        pickle.loads(data)
    elif write is zipped:
        pickle.loads(zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl"))
    else:
        torch.load(io.BytesIO(data), weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("write", WRITERS)
def test_a_malicious_pickle_in_a_diffusers_folder_is_refused_too(
    tmp_path: Path, write: Callable[[Path], bytes], make_unet: Callable[..., Any]
) -> None:
    marker, folder = tmp_path / "it_ran", tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**make_unet().config, "_class_name": "UNet2DModel"}))
    (folder / "diffusion_pytorch_model.bin").write_bytes(write(marker))
    with pytest.raises(RequestError, match=r"diffusion_pytorch_model\.bin"):
        load_prior(folder)
    assert not marker.exists()


@pytest.mark.parametrize("ending", [".pkl", ".pt"])
def test_a_pickled_network_is_refused_with_a_recipe(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"edm-ffhq{ending}"
    torch.save({"ema": torch.nn.Linear(2, 2)}, path)
    with pytest.raises(
        RequestError, match=r"more than weights.*torch\.nn.*nothing was run: convert it to safe"
    ):
        load_prior(path)
    path.write_bytes(pickle.dumps({"ema": torch.nn.Linear(2, 2)}))
    with pytest.raises(RequestError, match=r'more than weights.*docs/priors\.md, section "Converting EDM'):
        load_prior(path)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"weights{ending}"
    torch.save({"weight": torch.rand(3000)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(RequestError, match=rf"weights\{ending}: truncated or corrupt") as caught:
        load_prior(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [2, 20, 1000])
def test_a_truncated_checkpoint_of_the_old_kind_is_named_without_empty_brackets(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.rand(3000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RequestError, match=r"weights\.pt: truncated or corrupt( \(.+\))?$"):
        load_prior(path)


@pytest.mark.parametrize("name", ["weights.pt", "weights.ckpt", "weights.safetensors", "weights"])
def test_an_empty_file_is_called_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(RequestError, match=rf"{name}: an empty file$"):
        load_prior(tmp_path / name)


@pytest.mark.parametrize("name", ["notes.txt", "weights.pt", "weights.bin"])
@pytest.mark.parametrize("text", ["hello, this is text", "# notes", "<!DOCTYPE html>"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(
        RequestError, match=rf"{name}: not a checkpoint: neither safetensors nor of torch\.save$"
    ):
        load_prior(path)


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_a_raw_pickle_is_refused_in_our_words_and_not_in_torch_s(tmp_path: Path, protocol: int) -> None:
    marker, path = tmp_path / "it_ran", tmp_path / "raw.pkl"
    path.write_bytes(pickle.dumps(Malicious(marker), protocol=protocol))
    named = "an old-style pickle" if protocol > 2 else "getattr"
    with pytest.raises(RequestError, match=rf"\({named}\); nothing was run: convert it") as caught:
        load_prior(path)
    assert "PyTorch" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("content", [[1, 2], {"steps": 3}, {}, torch.zeros(3)])
def test_a_checkpoint_without_weights_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(RequestError, match=r"weights\.pt: expected a dict of tensors"):
        load_prior(path)


WEIGHTS = {"stem.weight": torch.arange(3.0), "head.bias": torch.ones(2)}
MODULE = {f"module.{name}": value for name, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3},
        {"model": WEIGHTS, "optimizer": {"state": {}}},
        {"model": {"head.bias": torch.zeros(2)}, "ema": WEIGHTS},
        {"params_ema": WEIGHTS, "params": {"head.bias": torch.zeros(2)}},
        {"state_dict": MODULE},
        {"checkpoint": 1, "model": {"ema": MODULE}},
    ],
)
def test_the_weights_are_found_in_what_training_scripts_save(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    found = read_tensors(path)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)
