"""Hub names: from the cache without a network, with one clear line where it is not, and no more than is needed."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from invdiff import catalog, load_prior
from invdiff.errors import InvdiffError, RequestError
from invdiff.priors import hub

diffusers = pytest.importorskip("diffusers")
huggingface_hub = pytest.importorskip("huggingface_hub")

Make = Callable[..., Any]
NAME = "someone/ddpm-tiny"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, and no network but a port where nobody answers."""
    from huggingface_hub import constants

    for variable in hub.OFFLINE:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


@pytest.fixture
def repository(make_unet: Make, save: Make) -> Path:
    """The files of a model on the hub: both kinds of weights, and things that nobody asked for."""
    folder = save(make_unet(), diffusers.DDPMScheduler())
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for name in (
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.fp16.safetensors",
        "flax_model.msgpack",
    ):
        shutil.copy(weights, weights.with_name(name))
    (folder / "samples.png").write_bytes(b"...")
    return folder


def cached(cache: Path, repository: Path, keep: Callable[[Path], bool] = lambda path: True) -> Path:
    """Files of a repository in the cache as the client lays them out."""
    model = cache / "models--someone--ddpm-tiny"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("a" * 40)
    snapshot = model / "snapshots" / ("a" * 40)
    for file in repository.rglob("*"):
        if file.is_file() and keep(file):
            (snapshot / file.relative_to(repository)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, snapshot / file.relative_to(repository))
    return snapshot


@pytest.mark.parametrize("how", ["argument", "INVDIFF_OFFLINE", "HF_HUB_OFFLINE", "no network"])
def test_a_model_in_the_cache_needs_no_network(
    cache: Path, repository: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached(cache, repository)
    if how in hub.OFFLINE:
        monkeypatch.setenv(how, "1")
    prior = load_prior(NAME, offline=how == "argument", precision="float32")
    assert prior.card.name == NAME
    x = torch.rand(1, 3, 16, 16)
    assert torch.allclose(prior(x, 0.3), load_prior(snapshot, precision="float32")(x, 0.3), atol=1e-6)


@pytest.mark.parametrize("how", ["argument", "INVDIFF_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_and_not_in_the_cache_is_one_line_that_says_what_to_put_where(
    cache: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how in hub.OFFLINE:
        monkeypatch.setenv(how, "true")
    with pytest.raises(
        RequestError,
        match=r"no such folder here, and the model is not in the cache; .*`hf download someone/ddpm-tiny`",
    ) as caught:
        load_prior(NAME, offline=how == "argument")
    assert str(cache) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_descriptions_without_weights_name_the_file_of_weights(cache: Path, repository: Path) -> None:
    cached(cache, repository, lambda path: path.suffix == ".json")
    with pytest.raises(RequestError, match=r"gets unet/diffusion_pytorch_model\.safetensors: bring"):
        load_prior(NAME, offline=True)


def test_without_a_network_it_is_one_line_that_says_what_to_put_where(cache: Path) -> None:
    with pytest.raises(
        InvdiffError,
        match=r"no such folder here, and the hub cannot be reached; .*`hf download someone/ddpm-tiny`",
    ) as caught:
        load_prior(NAME)
    assert not isinstance(caught.value, RequestError)
    assert str(cache) in str(caught.value)
    assert "\n" not in str(caught.value)


class Hub:
    """A hub with one repository, that writes down which files it was asked for."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache, self.sent = repository, cache, set[str]()

    def download(self, name: str, *, allow_patterns: Sequence[str], **how: Any) -> str:
        for file in sorted(self.repository.rglob("*")):
            inside = file.relative_to(self.repository).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(inside, pattern) for pattern in allow_patterns):
                (self.cache / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, self.cache / inside)
                self.sent.add(inside)
        return str(self.cache)


DESCRIPTIONS = {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json"}


@pytest.mark.parametrize(
    ("missing", "sent"),
    [
        ((), "diffusion_pytorch_model.safetensors"),
        (("diffusion_pytorch_model.safetensors",), "diffusion_pytorch_model.fp16.safetensors"),
    ],
)
def test_only_descriptions_and_safetensors_are_fetched(
    cache: Path, repository: Path, missing: tuple[str, ...], sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in missing:
        (repository / "unet" / name).unlink()
    there = Hub(repository, cache)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", there.download)
    load_prior(NAME)
    assert there.sent == DESCRIPTIONS | {f"unet/{sent}"}


def test_pickled_tensors_are_fetched_where_there_is_nothing_else(
    cache: Path, repository: Path, make_unet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (repository / "unet").glob("*.safetensors"):
        file.unlink()
    torch.save(make_unet().state_dict(), repository / "unet" / "diffusion_pytorch_model.bin")
    there = Hub(repository, cache)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", there.download)
    load_prior(NAME)
    assert there.sent == DESCRIPTIONS | {"unet/diffusion_pytorch_model.bin"}


def test_a_latent_model_is_refused_before_its_weights_are_fetched(
    cache: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = repository / "model_index.json"
    index.write_text(index.read_text().replace('"unet"', '"vae": ["diffusers", "AutoencoderKL"], "unet"'))
    there = Hub(repository, cache)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", there.download)
    with pytest.raises(RequestError, match=f"prior {NAME}: a latent diffusion model"):
        load_prior(NAME)
    assert there.sent == DESCRIPTIONS


def test_a_repository_of_something_else_and_one_that_is_not_there_are_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "repository"
    empty.mkdir()
    cache.mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", Hub(empty, cache).download)
    with pytest.raises(RequestError, match="holds no diffusers model"):
        load_prior(NAME)

    def not_there(name: str, **how: Any) -> str:
        import httpx2
        from huggingface_hub import errors

        request = httpx2.Request("GET", "http://127.0.0.1:9")
        raise errors.RepositoryNotFoundError("404\nNot Found", response=httpx2.Response(404, request=request))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", not_there)
    with pytest.raises(RequestError, match=r"no such file or folder here, and no such model") as caught:
        load_prior(NAME)
    assert "\n" not in str(caught.value)


def test_what_looks_like_a_path_is_none_of_the_hub_s_names(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for path in ("runs/mnist", "someone/weights.pt", "a/b/c", "./someone", "/someone", "natural", "~/x"):
        assert not catalog.is_hub_name(path), path
    for name in (NAME, f"{NAME}@v1.0", "google/ddpm-cat-256", "someone/model-v1.5"):
        assert catalog.is_hub_name(name), name


def test_a_revision_is_passed_on(cache: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, asked = Hub(repository, cache), set[tuple[str, Any]]()

    def download(name: str, *, revision: str | None, **how: Any) -> str:
        asked.add((name, revision))
        return there.download(name, **how)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_prior(f"{NAME}@v2").card.name == f"{NAME}@v2"
    assert asked == {(NAME, "v2")}
