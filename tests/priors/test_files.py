"""A prior's file: it comes back as it was written, and a bad one is named and never run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from invdiff import catalog, load_prior
from invdiff.errors import RequestError
from invdiff.priors import EDM, Card, NetworkPrior, save_prior
from invdiff.priors.files import read_about
from invdiff.priors.nets.unet import UNet

Change = Callable[[dict[str, Any], dict[str, Tensor]], object]

CARD = Card(
    name="tiny",
    channels=3,
    sigma_min=0.002,
    sigma_max=40.0,
    data_mean=0.45,
    data_std=0.3,
    licence="Apache-2.0",
    training_data="noise, with a ü",
    images_seen=12,
    summary="A test's.",
)


@pytest.fixture
def file(tmp_path: Path, network: UNet) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_prior(path, network, EDM(sigma_data=0.6), CARD)
    return path


def load(path: str | Path) -> NetworkPrior:
    prior = load_prior(path, precision="float32")
    assert isinstance(prior, NetworkPrior)
    return prior


def rewritten(file: Path, change: Change) -> Path:
    """The same file with its card and tensors changed behind our back."""
    about = read_about(file)
    tensors = {k: v.half().contiguous() for k, v in load(file).network.state_dict().items()}
    change(about, tensors)
    save_file(tensors, file, metadata={"invdiff": "1", "about": json.dumps(about)})
    return file


def test_weights_come_back_as_their_float16_values_and_the_card_as_it_was(file: Path, network: UNet) -> None:
    prior = load(file)
    written = network.state_dict()
    for name, value in prior.network.state_dict().items():
        assert value.dtype is torch.float32
        assert torch.equal(value, written[name].half().float())
    assert prior.precondition == EDM(sigma_data=0.6)
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    made = {"multiple": 4, "checksum": checksum, "format": "invdiff safetensors, unet, edm"}
    assert prior.card == dataclasses.replace(CARD, **made)


def test_d_comes_back_bit_for_bit_in_float32(tmp_path: Path, network: UNet) -> None:
    path = tmp_path / "exact.safetensors"
    save_prior(path, network, EDM(), CARD, dtype=torch.float32)
    x = torch.rand(2, 3, 9, 6)
    assert torch.equal(load(path)(x, 0.3), NetworkPrior(network, EDM(), CARD)(x, 0.3))


def test_a_network_of_another_shape_comes_back_by_its_card(
    tmp_path: Path, make_network: Callable[..., UNet]
) -> None:
    network = make_network(channels=1, widths=[4, 6, 8], blocks=[1, 2, 1], fold=1)
    path = tmp_path / "grey.safetensors"
    save_prior(path, network, EDM(), Card(name="grey", channels=1))
    prior = load(path)
    assert prior.card.multiple == 4
    assert prior.network.config == network.config


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_others_may_read_the_file_as_the_umask_says(
    tmp_path: Path, network: UNet, umask: int, mode: int
) -> None:
    path, before = tmp_path / "shared.safetensors", os.umask(umask)
    try:
        save_prior(path, network, EDM(), CARD)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_weights_that_float16_cannot_hold_are_refused_and_the_older_file_stays(
    file: Path, network: UNet
) -> None:
    before = file.read_bytes()
    network.stem.weight.data[0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match=r"stem\.weight .* not finite in torch\.float16"):
        save_prior(file, network, EDM(), CARD)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_older_file_and_no_litter(
    file: Path, network: UNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_prior(file, network, EDM(), dataclasses.replace(CARD, name="newer"))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_of_a_training_run_is_its_prior(tmp_path: Path, file: Path) -> None:
    file.rename(tmp_path / "prior.safetensors")
    assert load(tmp_path).card.name == "tiny"


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.999])
def test_a_truncated_file_is_named(file: Path, share: float) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(RequestError, match=r"tiny\.safetensors: .*(not a readable|truncated)") as caught:
        load_prior(file)
    assert "expected one written by" not in str(caught.value)  # it may be somebody else's


def test_a_file_with_a_damaged_header_is_named(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[20:60] = bytes(40)
    file.write_bytes(data)
    with pytest.raises(RequestError, match=r"tiny\.safetensors: not a readable safetensors file"):
        load_prior(file)


def test_a_safetensors_file_of_someone_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(RequestError, match="without an invdiff card"):
        load_prior(path)


def test_a_damaged_card_is_named(tmp_path: Path) -> None:
    path = tmp_path / "card.safetensors"
    for about in ("not json", "[]", '{"network": {}}', '{"network": 3, "precondition": {}, "card": {}}'):
        save_file({"weight": torch.zeros(3)}, path, metadata={"invdiff": "1", "about": about})
        with pytest.raises(RequestError, match="its card is damaged"):
            load_prior(path)


def poisoned(value: float) -> Change:
    def change(about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors["head.bias"][1] = value

    return change


def changed(part: str, key: str, value: object) -> Change:
    return lambda about, tensors: about[part].update({key: value})


CHANGES: dict[str, tuple[Change, str]] = {
    "NaN": (poisoned(float("nan")), r"head\.bias holds values that are not finite"),
    "infinity": (poisoned(float("inf")), r"head\.bias holds values that are not finite"),
    "a tensor less": (lambda a, t: t.pop("head.bias"), r"head\.bias: expected \(12,\), got nothing"),
    "a tensor more": (lambda a, t: t.update(extra=torch.zeros(2)), r"extra: expected nothing, got \(2,\)"),
    "another shape": (lambda a, t: t.update({"head.bias": torch.zeros(5)}), r"expected \(12,\), got \(5,\)"),
    "wider": (changed("network", "widths", [8, 24]), "not what its card says"),
    "enormous": (changed("network", "widths", [2**20, 2**20]), "cannot build .larger than the file"),
    "endless": (changed("network", "blocks", [1, 2**40]), "cannot build .larger than the file"),
    "no levels": (changed("network", "widths", []), "cannot build"),
    "unknown kind": (changed("network", "kind", "vit"), "cannot build .*vit"),
    "unknown argument": (changed("network", "heads", 4), "cannot build .*heads"),
    "words for numbers": (changed("network", "fold", "two"), "cannot build"),
    "negative": (changed("network", "fold", -1), "cannot build"),
    "other precondition": (changed("precondition", "kind", "elsewhere"), "cannot build .*elsewhere"),
    "no spread": (changed("precondition", "sigma_data", 0), "cannot build .*sigma_data"),
    "card's type": (changed("card", "channels", "many"), r"card: channels: expected a valid integer.*'many'"),
    "card's key": (changed("card", "chanels", 3), "Did you mean 'channels'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_is_not_what_its_card_says_is_named(file: Path, name: str) -> None:
    change, said = CHANGES[name]
    rewritten(file, change)
    with pytest.raises(RequestError, match=said) as caught:
        load_prior(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_rewriting_alone_changes_nothing_so_the_test_above_could_fail(file: Path) -> None:
    before = load(file)
    after = load(rewritten(file, lambda about, tensors: None))
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(before(x, 0.1), after(x, 0.1))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("naturel", r"unknown prior 'naturel', expected one of natural.* Did you mean 'natural'\?"),
        ("missing.safetensors", "no such file"),
        ("nowhere/at/all", "no such file"),
        ("", "prior: expected a name, a file or a folder, got an empty name"),
        (" ", "got an empty name"),
    ],
)
def test_a_prior_that_is_not_there_is_named_with_the_nearest(source: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        load_prior(source)


def test_a_folder_without_a_prior_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"a folder with prior\.safetensors or a diffusers model.* found none"
    ):
        load_prior(tmp_path)


def test_a_built_in_prior_is_the_file_that_was_shipped(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = hashlib.sha256(file.read_bytes()).hexdigest()
    info = dataclasses.replace(catalog.PRIORS["natural"], name="ours", file=str(file), sha256=true)
    monkeypatch.setitem(catalog.PRIORS, "ours", info)
    assert load("ours").card.checksum == true
    monkeypatch.setitem(catalog.PRIORS, "ours", dataclasses.replace(info, sha256="0" * 64))
    with pytest.raises(RequestError, match="not the file that was shipped; reinstall"):
        load_prior("ours")
    file.unlink()
    with pytest.raises(RequestError, match="missing from this installation"):
        load_prior("ours")


def test_an_unknown_precision_or_device_is_named_before_the_file_is_read() -> None:
    with pytest.raises(RequestError, match=r"unknown precision 'bflot16'.*'bfloat16'"):
        load_prior("missing.safetensors", precision="bflot16")
    with pytest.raises(RequestError, match="unknown device 'cdua'"):
        load_prior("missing.safetensors", device="cdua")


def test_options_say_what_a_card_does_not_and_a_misspelt_one_is_named(file: Path) -> None:
    prior = load_prior(file, options={"data_std": 0.2, "name": "mine"})
    assert (prior.card.data_std, prior.card.name, prior.card.licence) == (0.2, "mine", "Apache-2.0")
    with pytest.raises(RequestError, match=r"unknown option data_sdt\. Did you mean 'data_std'"):
        load_prior(file, options={"data_sdt": 0.2})
    with pytest.raises(RequestError, match=r"options: data_std: expected a valid number.*'wide'"):
        load_prior(file, options={"data_std": "wide"})


def test_a_function_takes_options_of_its_card_too() -> None:
    prior = load_prior(lambda x, sigma: x, options={"size": 32, "name": "same"})
    assert (prior.card.size, prior.card.name, prior.card.format) == (32, "same", "a function D(x, sigma)")


def test_options_beside_a_file_of_ours_apply_and_an_argument_goes_before(file: Path) -> None:
    beside = file.with_name("tiny.safetensors.yaml")
    beside.write_text("data_std: 0.2\nlicence: MIT\n")
    prior = load_prior(file, options={"licence": "CC0"})
    assert (prior.card.data_std, prior.card.licence, prior.card.name) == (0.2, "CC0", "tiny")
    beside.write_text("prediction: epsilon\n")  # its card says what it predicts
    with pytest.raises(RequestError, match=r"tiny\.safetensors: unknown option prediction\."):
        load_prior(file)


def test_options_in_a_training_run_s_folder_apply(file: Path) -> None:
    file.rename(file.with_name("prior.safetensors"))
    file.with_name("prior.safetensors.yaml").write_text("licence: MIT\n")
    assert load_prior(file.parent).card.licence == "MIT"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": -3}, "classes: expected 0, as it knows no labels, got -3"),
        ({"classes": 20}, "classes: expected 0, as it knows no labels, got 20"),
        ({"size": 0}, "size: expected a positive number, or null for any size, got 0"),
        ({"sigma_min": -1}, "expected 0 < sigma_min < sigma_max, got -1 and 40"),
        ({"sigma_min": 0}, "expected 0 < sigma_min < sigma_max, got 0 and 40"),
        ({"sigma_min": 50}, "expected 0 < sigma_min < sigma_max, got 50 and 40"),
        ({"sigma_max": float("inf")}, "expected 0 < sigma_min < sigma_max, got 0.002 and inf"),
        ({"sigma_max": float("nan")}, "expected 0 < sigma_min < sigma_max, got 0.002 and nan"),
        ({"data_std": 0}, "data_std: expected a positive number, got 0"),
        ({"data_mean": float("nan")}, "data_mean: expected a finite number, got nan"),
    ],
)
def test_options_out_of_their_range_are_named(file: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(f"{file}: options: {said}")):
        load_prior(file, options=options)
    with pytest.raises(RequestError, match=re.escape(said.split(" got ")[0])):
        load_prior(lambda x, sigma: x, options={"sigma_max": 40.0, **options})


def test_options_within_their_range_are_taken(tmp_path: Path, make_network: Callable[..., UNet]) -> None:
    path = tmp_path / "ten.safetensors"
    card = dataclasses.replace(CARD, classes=10, size=8)
    save_prior(path, make_network(classes=10), EDM(), card)
    for classes in (0, 10):
        said = {"classes": classes, "size": 16, "sigma_min": 0.01, "sigma_max": 30.0}
        prior = load_prior(path, options=said)
        assert {key: getattr(prior.card, key) for key in said} == said
        assert prior(torch.rand(1, 3, 16, 16), 0.3).isfinite().all()
    for classes in (-1, 11):
        with pytest.raises(RequestError, match=f"classes: expected 0 to 10, which it knows, got {classes}"):
            load_prior(path, options={"classes": classes})
