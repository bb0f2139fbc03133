"""Laws 6 and 8: no image feels its batch, and known pixels come back bit for bit, whatever integrates and travels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.likelihood import Measurement
from invdiff.methods import INTEGRATORS, METHODS, Guided, Method, Problem, sample
from invdiff.methods.defaults import defaults
from invdiff.methods.streams import Streams
from invdiff.operators import Operator
from invdiff.priors import EDM, Card, Condition, ConditionalNetwork, ExactConditional, NetworkPrior
from invdiff.priors.analytic import GaussianPrior
from invdiff.priors.nets.unet import UNet

SHAPE = (3, 9, 7)
GUIDED = [name for name, kind in METHODS.items() if issubclass(kind, Guided)]
TRAVELLERS = [name for name in METHODS if name not in ("smc", "ula", "mala")]
"""The others refuse (tests/methods/test_methods.py)."""


def correlated_prior() -> GaussianPrior:
    channels, height, width = SHAPE
    at = torch.cartesian_prod(torch.arange(channels), torch.arange(height), torch.arange(width)).double()
    return GaussianPrior.correlated(0.5, 0.05 * torch.exp(-torch.cdist(at, at) / 3))


def operator_for(name: str) -> Operator:
    if name == "ancestral":
        return operators.Identity(SHAPE)
    return operators.Mask((torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(0)) < 0.5).float())


def noise_for(name: str) -> float:
    return 0.0 if name == "repaint" else 0.1


def short(name: str, **settings: Any) -> Method:
    """Few steps; repaint travels, as it must."""
    own: dict[str, dict[str, Any]] = {"repaint": {"jump": 2, "repeats": 2}, "daps": {"langevin": 5}}
    return METHODS[name](**{"steps": 6, **own.get(name, {}), **settings})


def network_prior(precision: torch.dtype = torch.float32, condition: Condition | None = None) -> NetworkPrior:
    generator = torch.Generator().manual_seed(0)
    network = UNet(
        widths=(8, 16), blocks=(1, 1), embedding=16, condition=condition.channels(3) if condition else 0
    )
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=generator)
    card = Card(name="random", channels=3, condition=condition)
    return (ConditionalNetwork if condition else NetworkPrior)(network, EDM(), card, precision=precision)


def exact_for(name: str, prior: GaussianPrior | None = None) -> Any:
    """What a method walks, exact: the prior, or what sees y."""
    prior = correlated_prior() if prior is None else prior
    return ExactConditional(prior) if METHODS[name].info.conditional else prior


def network_for(name: str) -> NetworkPrior:
    """What a method walks, a network: of a conditional method one that is shown y and its mask."""
    shown = Condition(tasks=("inpainting",), noise=0.1, mask=True)
    return network_prior(condition=shown if METHODS[name].info.conditional else None)


def assert_no_image_feels_its_batch(method: Method, op: Operator, sigma_y: float) -> Tensor:
    """Two images, each alone and both together, on an analytic prior; returns what they give together."""
    y = op.A(torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))

    def run(y: Tensor, batch: int) -> Tensor:
        prior = exact_for(method.info.name)
        return invdiff.restore(y, op, prior, method=method, sigma_y=sigma_y, batch=batch).samples[0]

    together = run(y, 2)
    alone = torch.cat([run(y[b : b + 1], 1) for b in range(2)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
    return together


@pytest.mark.parametrize("name", METHODS)
def test_each_image_and_sample_of_a_batch_equals_its_solo_run(name: str) -> None:
    op, sigma_y = operator_for(name), noise_for(name)
    y = op.A(torch.rand(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    common = {"method": short(name), "sigma_y": sigma_y}
    together = invdiff.restore(y, op, exact_for(name), samples=2, batch=6, **common).samples
    alone = torch.cat(
        [
            invdiff.restore(y[b : b + 1], op, exact_for(name), samples=2, batch=1, **common).samples
            for b in range(3)
        ],
        1,
    )
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)
    assert (together[0] - together[1]).abs().max() > 1e-3 or name == "ancestral"


@pytest.mark.parametrize("name", METHODS)
def test_a_network_in_float32_does_not_feel_its_batch_beyond_rounding(name: str) -> None:
    op, sigma_y = operator_for(name), noise_for(name)
    y = op.A(torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1)))
    common = {"method": short(name), "sigma_y": sigma_y, "precision": "float32"}
    together = invdiff.restore(y, op, network_for(name), batch=3, **common).samples
    alone = torch.cat(
        [invdiff.restore(y[b : b + 1], op, network_for(name), **common).samples for b in range(3)], 1
    )
    scale = alone.abs().max().item()
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-4 * scale)


def test_seed_zero_is_a_seed_like_any_other_and_order_in_the_batch_does_not_matter() -> None:
    op = operator_for("mmps")
    y = op.A(torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))

    def run(y: Tensor, seed: int) -> Tensor:
        return invdiff.restore(
            y, op, correlated_prior(), method=short("mmps"), sigma_y=0.1, seed=seed, batch=2
        ).samples[0]

    assert torch.equal(run(y, 0), run(y, 0))
    assert (run(y, 0) - run(y, 1)).abs().max() > 1e-2
    torch.testing.assert_close(run(y.flip(0), 0).flip(0), run(y, 0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ancestral"])
def test_noiseless_inpainting_returns_the_kept_pixels_bit_for_bit(name: str) -> None:
    op = operator_for(name)
    y = op.A(torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1)))
    x = invdiff.restore(y, op, network_for(name), method=short(name)).samples[0]
    keep = op.keep.expand_as(x)  # type: ignore[attr-defined]
    assert torch.equal(x[keep], y[keep])
    assert (x[~keep] != 0).all()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "ancestral"])
def test_what_a_masked_measurement_holds_where_nothing_was_measured_does_not_matter(name: str) -> None:
    """y may be the picture itself, or have a colour painted in where it is to be filled."""
    op, sigma_y = operator_for(name), noise_for(name)
    picture = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def run(y: Tensor) -> Tensor:
        noise = Streams.make(0, [("a", 0), ("b", 0)], SHAPE, y)
        prior = exact_for(name)
        prior = prior.seeing(y, op, sigma_y) if isinstance(prior, ExactConditional) else prior
        problem = Problem(prior, Measurement(y, op, sigma_y))
        return sample(short(name), problem, noise)

    torch.testing.assert_close(run(picture), run(op.A(picture)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", TRAVELLERS)
def test_going_back_and_forth_in_noise_leaves_each_image_to_itself(name: str) -> None:
    op, sigma_y = operator_for(name), noise_for(name)
    travelled = assert_no_image_feels_its_batch(short(name, jump=2, repeats=2), op, sigma_y)
    y = op.A(torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    straight = invdiff.restore(
        y, op, exact_for(name), method=short(name, repeats=1), sigma_y=sigma_y, batch=2
    )
    assert straight.config["walk"] == 6
    assert (travelled - straight.samples[0]).abs().max() > 1e-3


@pytest.mark.parametrize("walker", INTEGRATORS)
@pytest.mark.parametrize("name", GUIDED)
def test_every_rule_goes_with_every_integrator_and_keeps_what_is_known(name: str, walker: str) -> None:
    op = operator_for(name)
    y = op.A(torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1)))
    method = short(name, steps=4, integrator=walker)
    sigma_y = 0.1 if name == "ancestral" else 0.0
    x = invdiff.restore(y, op, network_for(name), method=method, sigma_y=sigma_y, batch=2).samples[0]
    assert torch.isfinite(x).all()
    if name != "ancestral":
        keep = op.keep.expand_as(x)  # type: ignore[attr-defined]
        assert torch.equal(x[keep], y[keep])
        assert (x[~keep] != 0).all()


@pytest.mark.parametrize("name", GUIDED)
def test_an_integrator_that_is_asked_for_is_taken_or_refused(name: str) -> None:
    op, sigma_y = operator_for(name), noise_for(name)
    y = op.A(torch.rand(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))

    def run(walker: str) -> Tensor:
        method = short(name, integrator=walker)
        return invdiff.restore(y, op, exact_for(name), method=method, sigma_y=sigma_y).samples

    if name == "ddnm":
        with pytest.raises(
            invdiff.RequestError, match="integrator: ddnm has its own step where there is noise"
        ):
            run("heun")
    else:
        assert (run("") - run("heun")).abs().max() > 1e-3


@pytest.mark.parametrize("name", GUIDED)
def test_clipping_keeps_the_estimate_within_the_picture_range(name: str) -> None:
    """Under a prior far brighter than white; the last step is to x̂₀."""
    op, sigma_y = operator_for(name), noise_for(name)
    y = op.A(torch.rand(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    prior = exact_for(name, GaussianPrior.white(3.0, 0.25))

    def run(clip: bool) -> Tensor:
        method = short(name, clip=clip)
        x = invdiff.restore(y, op, prior, method=method, sigma_y=sigma_y).samples[0]
        return x if name == "ancestral" else x[~op.keep.expand_as(x)]  # type: ignore[attr-defined]

    assert run(False).max() > 1.1
    assert run(True).max() <= 1.0


@pytest.mark.parametrize(
    "walker", [*INTEGRATORS, "heun:churn=0.3", "predictor_corrector:form=vp,corrections=2"]
)
def test_no_integrator_lets_an_image_feel_its_batch(walker: str) -> None:
    method = short("mmps", integrator=walker)
    assert_no_image_feels_its_batch(method, operator_for("mmps"), 0.1)


def test_in_bfloat16_one_evaluation_is_its_solo_run_and_float32s_within_its_rounding() -> None:
    """Eight bits: 2⁻⁸ of what the network adds, a few times over for its layers."""
    prior, exact = network_prior(torch.bfloat16), network_prior()
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    for sigma in (0.05, 0.5, 5.0):
        together = prior(x, sigma)
        alone = torch.cat([prior(x[b : b + 1], sigma) for b in range(3)])
        c_skip, *_ = EDM().scalings(torch.tensor(2 * sigma))
        added = float((exact(x, sigma) - 0.5 - c_skip * (x - 0.5)).abs().max())
        torch.testing.assert_close(together, alone, rtol=0, atol=2**-8 * 4 * added)
        torch.testing.assert_close(together, exact(x, sigma), rtol=0, atol=2**-8 * 8 * added)


def test_the_table_of_defaults_holds_options_its_methods_have() -> None:
    from invdiff.methods.defaults import DEFAULTS

    for name, tasks in DEFAULTS.items():
        for settings in tasks.values():
            METHODS[name](**settings)
    assert defaults("mmps", operators.Identity(SHAPE)) == DEFAULTS["mmps"].get("identity", {})
