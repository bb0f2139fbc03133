from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from invdiff.errors import RequestError
from invdiff.evaluation.lpips import VARIABLE, Lpips, available, find_weights


@pytest.fixture(autouse=True)
def _nothing_here_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, an empty cache, and a download fails the test."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture(scope="module")
def squeeze() -> dict[str, torch.Tensor]:
    """A state dict of the right shape; its values are random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.squeezenet1_1(weights=None).state_dict()


def two_batches() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(42)
    return torch.rand(2, 3, 100, 100, generator=generator), torch.rand(2, 3, 100, 100, generator=generator)


def test_squeeze_gives_the_published_example_for_images_between_0_and_1(shared_data: Path) -> None:
    # torchmetrics' example is stated on [-1, 1]; these are its pictures in image units, a score for each.
    lpips = Lpips("squeeze", weights=shared_data / "weights")
    assert lpips(*two_batches()).tolist() == pytest.approx([0.1024, 0.0938], abs=5e-5)


def test_each_image_of_a_batch_scores_as_it_does_alone(
    squeeze: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(squeeze, tmp_path / "w.pth")
    lpips = Lpips("squeeze", weights=tmp_path / "w.pth")
    x, y = two_batches()
    assert lpips(x[1], y[1]).shape == ()
    assert lpips(x[1], y[1]).item() == pytest.approx(lpips(x, y)[1].item(), rel=1e-4)
    assert lpips(x, x).tolist() == [0, 0]


def test_an_npz_and_a_state_dict_of_the_same_weights_agree(
    squeeze: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(squeeze, tmp_path / "w.pth")
    np.savez(tmp_path / "w.npz", **{k: v.numpy() for k, v in squeeze.items()})
    scores = [Lpips("squeeze", weights=tmp_path / name)(*two_batches()) for name in ("w.pth", "w.npz")]
    assert torch.equal(*scores)


def test_the_variable_may_name_a_file_or_a_folder_and_the_argument_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other.npz"
    folder.mkdir()
    file = folder / "squeezenet1_1_features.npz"
    file.touch()
    other.touch()
    for given in (folder, file):
        monkeypatch.setenv(VARIABLE, str(given))
        assert find_weights("squeeze") == file
        assert find_weights("squeeze", other) == other


def test_a_variable_for_another_backbone_leaves_the_cache_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "squeezenet1_1.npz"
    cached = tmp_path / "hub" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    cached.parent.mkdir(parents=True)
    file.touch()
    cached.touch()
    monkeypatch.setenv(VARIABLE, str(file))
    assert available() == {"squeeze": file, "alex": cached}


def test_alex_takes_torchvisions_cached_file(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alex = torchvision.models.alexnet(weights=None).features
    cache = tmp_path / "hub" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save({f"features.{k}": v for k, v in alex.state_dict().items()}, cache / "alexnet-owt-7be5be79.pth")
    lpips = Lpips("alex")
    loaded = {k.split(".", 1)[1]: v for k, v in lpips._model.net.state_dict().items()}
    assert lpips.weights.parent == cache
    assert loaded.keys() == alex.state_dict().keys()
    assert all(torch.equal(loaded[k], v) for k, v in alex.state_dict().items())


@pytest.mark.parametrize("net", ["squeeze", "alex", "vgg"])
def test_missing_weights_are_an_error_with_the_remedy_and_no_download(net: str) -> None:
    with pytest.raises(RequestError, match=rf"{net}.*not on this machine.*{VARIABLE}.*torchvision"):
        Lpips(net)


def test_weights_that_are_named_but_not_there_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone.npz"))
    with pytest.raises(RequestError, match=rf"no .*gone\.npz \(from {VARIABLE}\)"):
        Lpips("squeeze")
    with pytest.raises(RequestError, match=r"vgg.*no vgg16"):
        Lpips("vgg", weights=tmp_path)


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="Did you mean 'squeeze'"):
        Lpips("squeezenet")


def test_weights_of_another_backbone_are_named(squeeze: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save(squeeze, file)
    with pytest.raises(RequestError, match=r"w\.pth: not the weights of LPIPS' alex"):
        Lpips("alex", weights=file)


@pytest.mark.parametrize("name", ["w.npz", "w.pth"])
def test_a_file_that_is_something_else_is_one_line_of_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(RequestError, match=rf"{name}: cannot be read") as error:
        Lpips("squeeze", weights=tmp_path / name)
    assert "\n" not in str(error.value)


class Payload:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, (os.environ["PAYLOAD"],)


@pytest.mark.parametrize("name", ["w.npz", "w.pth"])
def test_loading_runs_no_code_from_the_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYLOAD", str(tmp_path / "ran"))
    if name == "w.npz":
        np.savez(tmp_path / name, **{"features.0.weight": np.array([Payload()], dtype=object)})
    else:
        (tmp_path / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(RequestError):
        Lpips("squeeze", weights=tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_making_and_using_it_leaves_the_callers_random_numbers_alone(
    squeeze: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(squeeze, tmp_path / "w.pth")
    before = torch.random.get_rng_state()
    Lpips("squeeze", weights=tmp_path / "w.pth")(*two_batches())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_grey_images_are_refused_with_a_remedy(squeeze: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(squeeze, tmp_path / "w.pth")
    with pytest.raises(RequestError, match="repeat a grey image"):
        Lpips("squeeze", weights=tmp_path / "w.pth")(torch.zeros(1, 64, 64), torch.zeros(1, 64, 64))
