"""load_prior says what it recognised, and what it did not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from invdiff import load_prior
from invdiff.errors import RequestError
from invdiff.priors import EDM, Card, NetworkPrior, formats, save_prior
from invdiff.priors.formats import base
from invdiff.priors.nets.adm import ADM
from invdiff.priors.nets.unet import UNet
from tests.priors.formats.conftest import randomise

Make = Callable[..., Any]


@pytest.fixture
def adm(tmp_path: Path) -> Path:
    network = ADM(channels=3, outputs=6, width=32, mults=[1, 2], blocks=1, attention=[False, True])
    path = tmp_path / "tiny.pt"
    torch.save({"model": randomise(network).state_dict(), "epoch": 3}, path)
    return path


def test_every_format_of_weights_has_the_parts_that_are_asked_of_it() -> None:
    for name in formats.STATE_DICTS:
        module = formats._module(name)
        assert isinstance(module.NAME, str)
        assert isinstance(module.OPTIONS, tuple)
        assert not module.recognises({"weight": torch.zeros(3)})


def test_our_own_file(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_prior(path, UNet(widths=[8], blocks=[1]), EDM(), Card(name="own", channels=3))
    assert load_prior(path).card.format == "invdiff safetensors, unet, edm"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_of_weights_in_any_type(adm: Path, dtype: torch.dtype) -> None:
    state = torch.load(adm, weights_only=True)["model"]
    torch.save({name: value.to(dtype) for name, value in state.items()}, adm)
    prior = load_prior(adm, precision="float32")
    assert isinstance(prior, NetworkPrior)
    assert prior.card.format.startswith("guided-diffusion (ADM)")
    assert (prior.card.name, len(prior.card.checksum)) == ("tiny", 64)
    assert {value.dtype for value in prior.network.parameters()} == {torch.float32}


def test_the_same_weights_as_safetensors_are_the_same_prior(adm: Path) -> None:
    prior = load_prior(adm, precision="float32")
    other = adm.with_suffix(".safetensors")
    save_file(torch.load(adm, weights_only=True)["model"], other)
    side = prior.card.size
    x = torch.rand(1, 3, side, side)  # type: ignore[arg-type]
    assert torch.equal(load_prior(other, precision="float32")(x, 0.3), prior(x, 0.3))


def test_what_the_weights_do_not_say_stands_beside_them_and_an_argument_goes_before(adm: Path) -> None:
    beside = adm.with_name("tiny.pt.yaml")
    beside.write_text("size: 32\nlicence: MIT\nprediction: x0\n")
    prior = load_prior(adm, options={"licence": "CC0"})
    assert isinstance(prior, NetworkPrior)
    assert (prior.card.size, prior.card.licence, prior.precondition.prediction) == (32, "CC0", "x0")
    beside.write_text("sizes: 32\n")
    with pytest.raises(RequestError, match=r"tiny\.pt: unknown option sizes\. Did you mean 'size'"):
        load_prior(adm)
    beside.write_text("size: wide\n")
    with pytest.raises(RequestError, match=r"tiny\.pt: options: size: .*'wide'"):
        load_prior(adm)


def test_weights_that_do_not_fit_are_named(adm: Path) -> None:
    state = torch.load(adm, weights_only=True)["model"]
    last = "middle_block.0.out_layers.0.bias"
    torch.save({name: value for name, value in state.items() if name != last}, adm)
    with pytest.raises(RequestError, match=r"tiny\.pt: ") as caught:
        load_prior(adm)
    assert last in str(caught.value)
    torch.save({**state, last: state[last] * float("nan")}, adm)
    with pytest.raises(RequestError, match=rf"corrupt: {last} holds values that are not finite"):
        load_prior(adm)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_weights_of_an_unknown_network_are_named_with_what_is_known(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"classifier{ending}"
    weights = {"fc.weight": torch.zeros(10, 4), "fc.bias": torch.zeros(10)}
    if ending == ".pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    with pytest.raises(
        RequestError, match=r"fc\.\w+ \(10.*guided-diffusion \(ADM\), EDM, score_sde"
    ) as caught:
        load_prior(path)
    assert "\n" not in str(caught.value)


def test_a_torch_module_that_is_no_denoiser_of_a_library_is_a_function() -> None:
    class Halve(torch.nn.Module):
        def forward(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
            return x / 2

    prior = load_prior(Halve())
    assert (prior.card.name, prior.card.format) == ("Halve", "a function D(x, sigma)")


def test_a_truncated_safetensors_of_somebody_else_s_is_not_asked_to_be_ours(adm: Path) -> None:
    other = adm.with_suffix(".safetensors")
    save_file(torch.load(adm, weights_only=True)["model"], other)
    data = other.read_bytes()
    for size in (5, 100, len(data) - 100):
        other.write_bytes(data[:size])
        with pytest.raises(RequestError, match=r"tiny\.safetensors: not a readable safetensors") as caught:
            load_prior(other)
        assert "invdiff" not in str(caught.value).removeprefix(str(other))


def test_filled_weights_are_float32_whatever_they_were() -> None:
    network = torch.nn.Linear(2, 2).half()
    weights = {"weight": torch.ones(2, 2, dtype=torch.float64), "bias": torch.ones(2, dtype=torch.float16)}
    filled = base.fill(network, weights, Path("x"), "it holds")
    assert {value.dtype for value in filled.state_dict().values()} == {torch.float32}
