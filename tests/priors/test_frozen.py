"""Frozen convolutions: torch's values and derivatives, without what torch keeps for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.priors import NetworkPrior
from invdiff.priors.nets.blocks import Conv2d

HOW: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
]


def kept(run: Any) -> list[Tensor]:
    """What autograd keeps of a forward pass."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return found


@pytest.mark.parametrize("how", HOW)
def test_it_is_torchs_in_value_and_in_both_derivatives(how: dict[str, Any]) -> None:
    ours = Conv2d(4, 6, **how).double().requires_grad_(False)
    theirs = nn.Conv2d(4, 6, **how).double().requires_grad_(False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 4, 9, 7, dtype=torch.float64, requires_grad=True)
    assert torch.equal(ours(x), theirs(x))
    slopes = [torch.autograd.grad(layer(x).square().sum(), x)[0] for layer in (ours, theirs)]
    assert torch.equal(*slopes)
    assert torch.autograd.gradcheck(ours, x)
    assert torch.autograd.gradgradcheck(ours, x)


def test_it_keeps_no_input_where_the_weights_are_frozen_and_does_where_they_are_trained() -> None:
    layer, x = Conv2d(4, 4, 3, padding=1), torch.rand(2, 4, 8, 8, requires_grad=True)
    assert any(tensor is x for tensor in kept(lambda: layer(x)))
    layer.requires_grad_(False)
    assert not any(tensor.shape == x.shape for tensor in kept(lambda: layer(x)))
    assert kept(lambda: layer(x.detach())) == []


@pytest.mark.parametrize("trained", ["weight", "bias"])
def test_trained_weights_get_their_derivatives(trained: str) -> None:
    ours, theirs = (kind(2, 3, 3, padding=1).requires_grad_(False) for kind in (Conv2d, nn.Conv2d))
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 2, 6, 6, requires_grad=True)
    slopes = []
    for layer in (ours, theirs):
        values = getattr(layer, trained).requires_grad_()
        slopes.append(torch.autograd.grad(layer(x).square().sum(), (x, values)))
    for one, other in zip(*slopes, strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # of torch.func, in torch's own words
def test_torch_func_goes_through_it() -> None:
    layer = Conv2d(2, 3, 3, padding=1).requires_grad_(False)
    x, v = torch.rand(2, 2, 5, 5).requires_grad_(), torch.rand(2, 2, 5, 5)
    product = F.conv2d(v, layer.weight, padding=1)
    torch.testing.assert_close(torch.func.jvp(layer, (x,), (v,))[1], product)
    each = torch.func.vmap(torch.func.grad(lambda one: layer(one).square().sum()))(x[:, None])[:, 0]
    torch.testing.assert_close(each, torch.autograd.grad(layer(x).square().sum(), x)[0])


def test_under_autocast_the_slope_is_of_xs_type() -> None:
    layer = Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    x = torch.rand(1, 4, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype is torch.bfloat16
    (slope,) = torch.autograd.grad(y.float().sum(), x)
    assert slope.dtype is torch.float32
    torch.testing.assert_close(slope, torch.autograd.grad(layer(x).sum(), x)[0], rtol=0.05, atol=0.02)


def test_a_prior_keeps_half_of_what_torch_would(prior: NetworkPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(1, 3, 64, 64, requires_grad=True)

    def held() -> int:
        tensors = kept(lambda: prior(x, 0.3))
        weights = {values.data_ptr() for values in prior.network.parameters()}
        storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
        return sum(size for place, size in storages.items() if place not in weights)

    ours = held()
    monkeypatch.setattr(Conv2d, "forward", nn.Conv2d.forward)
    assert ours < 0.6 * held()
