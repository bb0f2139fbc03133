"""Settings of every method: what is out of range is refused before anything runs, by name and with what is expected."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import catalog, operators
from invdiff.errors import RequestError
from invdiff.likelihood import Measurement
from invdiff.methods import (
    DPS,
    INTEGRATORS,
    METHODS,
    Guided,
    Method,
    Problem,
    Unconditional,
    integrator,
    sample,
)
from invdiff.methods.streams import Streams
from invdiff.operators import Operator
from invdiff.priors import FunctionPrior
from invdiff.priors.analytic import GaussianPrior
from invdiff.priors.exact import ExactConditional

SHAPE = (1, 4, 3)
STAY = ("smc", "ula", "mala")
"""Methods without travel."""
GUIDED = [name for name, kind in METHODS.items() if issubclass(kind, Guided)]


def make(name: str, **settings: Any) -> Method:
    """Without travel, unless it is asked for."""
    if name == "repaint":
        settings = {"repeats": 1, **settings}
    return METHODS[name](**settings)


def operator_for(name: str) -> Operator:
    keep = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    return operators.Identity(SHAPE) if name == "ancestral" else operators.Mask(keep, channels=1)


def prior_for(name: str) -> Any:
    """What a method walks: the prior, or of a conditional method what sees y."""
    white = GaussianPrior.white()
    return ExactConditional(white) if METHODS[name].info.conditional else white


class Unread:
    """A conditional prior that must not be asked."""

    card = ExactConditional(GaussianPrior.white()).card

    def seeing(self, *y: Any, **how: Any) -> Any:
        pytest.fail("was asked")


def walk_of(method: Method, sigma_y: float = 0.1) -> list[float]:
    op = operator_for(method.info.name)
    y = torch.zeros(1, *op.out_shape)
    return method.levels(Problem(GaussianPrior.white(), Measurement(y, op, sigma_y)))


def bad_settings() -> list[tuple[str, dict[str, Any], str]]:
    """(method, settings, what the message says)."""
    every: list[tuple[dict[str, Any], str]] = [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"steps": -3}, "steps: expected at least 1, got -3"),
        ({"sigma_min": 0.0}, "expected 0 < sigma_min ≤ sigma_max"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "expected 0 < sigma_min ≤ sigma_max, got 2.0 and 1.0"),
        ({"sigma_max": math.inf}, "expected 0 < sigma_min ≤ sigma_max"),
        ({"sigma_max": math.nan}, "expected 0 < sigma_min ≤ sigma_max"),
        ({"grid": "karas"}, "grid: expected one of karras, log_uniform, ddpm"),
        ({"grid": (1.0, 2.0)}, "grid: expected descending noise levels"),
        ({"grid": (1.0, 1.0, 0.5)}, "grid: expected descending noise levels"),
        ({"grid": "ddpm", "steps": 1001}, "steps: the grid ddpm has"),
        ({"jump": 0}, "expected jump ≥ 1"),
        ({"repeats": 0}, "repeats ≥ 1"),
    ]
    found = [(name, settings, words) for name in METHODS for settings, words in every]
    travel = [
        ({"steps": 6, "jump": 6, "repeats": 2}, "jump: expected fewer levels than the 6 steps, got 6"),
        (
            {"grid": (3.0, 2.0, 1.0), "jump": 3, "repeats": 2},
            "jump: expected fewer levels than the 3 steps, got 3",
        ),
    ]
    found += [(name, settings, words) for name in METHODS if name not in STAY for settings, words in travel]
    found += [(name, {"steps": 9, "jump": 2, "repeats": 2}, "repeats: expected 1, ") for name in STAY]
    guided: list[tuple[dict[str, Any], str]] = [
        ({"integrator": "hein"}, "heun"),
        ({"integrator": "heun:churn=2"}, "churn: expected"),
        ({"integrator": "ddim:eta=1.5"}, r"eta: expected a number in \[0, 1\]"),
        ({"integrator": "ddim:nothing=1"}, "nothing"),
    ]
    found += [(name, settings, words) for name in GUIDED for settings, words in guided]
    own: dict[str, dict[str, list[Any]]] = {
        "dps": {"zeta": [-0.1, math.inf, math.nan]},
        "mcg": {"zeta": [-0.1, math.inf, math.nan]},
        "sr3": {"zeta": [-0.1, math.inf, math.nan]},
        "pigdm": {"tau": [0.0, -1.0, math.inf, math.nan]},
        "smc": {"particles": [0, -1], "tau": [0.0, -1.0, math.inf]},
        "mmps": {"iterations": [0, -1], "plain_below": [-0.1, math.nan]},
        "ddrm": {"eta": [-0.1, 1.1, math.nan], "eta_b": [-0.1, 1.1, math.nan]},
        "ddnm": {"eta": [-0.1, 1.1, math.nan]},
        "diffpir": {"weight": [0.0, -1.0, math.nan], "zeta": [-0.1, 1.1, math.nan]},
        "red_diff": {"weight": [0.0, -1.0, math.inf], "rate": [0.0, -1.0, math.inf, math.nan]},
        "daps": {
            "ode_steps": [0],
            "langevin": [0],
            "rate": [0.0, -1e-4, math.inf, math.nan],
            "tau": [0.0, -1.0, math.nan],
        },
        "score_ald": {"gamma": [0.0, -1.0, math.inf]},
        "ula": {"size": [0.0, -0.1, 2.0, math.nan]},
        "mala": {"size": [0.0, -0.1, 2.0, math.nan]},
    }
    found += [
        (name, {setting: value}, f"{setting}: expected")
        for name, settings in own.items()
        for setting, values in settings.items()
        for value in values
    ]
    return [*found, ("daps", {"integrator": "hein"}, "heun")]


@pytest.mark.parametrize(("name", "settings", "words"), bad_settings())
def test_a_setting_out_of_range_is_refused_by_name(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, RequestError), match=words):
        make(name, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 2.5}, "steps: expected a whole number, got 2.5"),
        ({"steps": True}, "steps: expected a whole number, got True"),
        ({"sigma_max": "10"}, "sigma_max: expected a number, got '10'"),
        ({"integrator": 3}, "integrator: expected a name, got 3"),
        ({"clip": "yes"}, "clip: expected True or False, got 'yes'"),
    ],
)
def test_a_setting_of_another_type_is_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make("pigdm", **settings)


@pytest.mark.parametrize(
    ("name", "settings", "words"), [case for case in bad_settings() if "sigma" not in case[2]]
)
def test_restore_refuses_it_in_one_line_before_any_prior_is_loaded(
    name: str, settings: dict[str, Any], words: str
) -> None:
    op = operator_for(name)
    options = {"repeats": 1, **settings} if name == "repaint" else settings
    sigma_y = 0.0 if name == "repaint" else 0.1
    prior: Any = Unread() if METHODS[name].info.conditional else "no such prior"
    with pytest.raises(RequestError, match=words) as refusal:
        invdiff.restore(torch.zeros(1, *SHAPE), op, prior, method=name, sigma_y=sigma_y, options=options)
    assert "\n" not in str(refusal.value)


def test_every_setting_of_its_own_that_is_a_number_has_a_value_it_refuses() -> None:
    tried = {(name, setting) for name, settings, _ in bad_settings() for setting in settings}
    common = {field.name for field in dataclasses.fields(Method)} | {"integrator", "clip"}
    own = {
        (name, field.name)
        for name, kind in METHODS.items()
        for field in dataclasses.fields(kind)
        if field.name not in common and field.type != "bool"
    }
    assert own <= tried


@pytest.mark.parametrize("name", METHODS)
def test_the_catalog_lists_a_methods_settings(name: str) -> None:
    info = catalog.METHODS[name]
    assert set(info.options) == {field.name for field in dataclasses.fields(METHODS[name])}
    assert (info.guided, info.any_noise) == (name in GUIDED, METHODS[name].any_noise)
    assert METHODS[name].info is info


@pytest.mark.parametrize("name", ["ula", "mala"])
def test_a_langevin_chain_of_few_steps_or_on_levels_of_ones_own_is_refused(name: str) -> None:
    """It would end at a high level, or never stay at the last."""
    for settings in ({"steps": 3}, {"grid": (1.0, 0.5, 0.1, 0.05, 0.01)}):
        with pytest.raises((ValueError, RequestError), match="at least 4, half of them along a named grid"):
            make(name, **settings)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("ula", "mala")])
def test_one_step_is_a_restoration(name: str) -> None:
    """From the first level to 0: one estimate."""
    method = make(name, steps=1)
    op, sigma_y = operator_for(name), 0.0 if name == "repaint" else 0.1
    y = op.A(torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    result = invdiff.restore(y, op, prior_for(name), method=method, sigma_y=sigma_y)
    assert result.config["walk"] == 1
    assert torch.isfinite(result.samples).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_walk_has_as_many_steps_as_asked_for_and_ends_in_zero(name: str) -> None:
    for settings in ({"steps": 7}, {"grid": "log_uniform", "steps": 4}, {"grid": "ddpm", "steps": 5}):
        walk = walk_of(make(name, sigma_max=1.0, sigma_min=0.01, **settings))
        assert len(walk) == settings["steps"] + 1  # type: ignore[operator]
        assert walk[-1] == 0
        assert all(a >= b for a, b in pairwise(walk))


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("ula", "mala")])
def test_levels_of_ones_own_are_the_steps(name: str) -> None:
    method = make(name, grid=(0.8, 0.4, 0.05), steps=999)
    assert (method.steps, method.sigma_max, method.sigma_min) == (3, 0.8, 0.05)
    walk = walk_of(method)
    # y is the first level of ancestral's walk, and what lies above it is left out
    assert walk == ([0.1, 0.05, 0.0] if name == "ancestral" else [0.8, 0.4, 0.05, 0.0])


@pytest.mark.parametrize("name", [name for name in METHODS if name not in STAY])
def test_travel_is_an_option_of_the_walk(name: str) -> None:
    walk = walk_of(make(name, steps=6, jump=2, repeats=2, sigma_max=1.0))
    assert sum(b > a for a, b in pairwise(walk)) == 4
    assert len(walk) - 1 == 6 + 8


def test_repaints_defaults_travel_and_few_steps_are_refused_with_the_way_out() -> None:
    with pytest.raises(
        ValueError, match=r"jump: expected fewer levels than the 5 steps, got 5; repeats=1 for no"
    ):
        METHODS["repaint"](steps=5)
    assert METHODS["repaint"](steps=5, repeats=1).steps == 5


def test_ancestral_needs_noise_to_begin_at() -> None:
    with pytest.raises(ValueError, match="ancestral: expected a noisy measurement, got sigma_y = 0"):
        walk_of(make("ancestral"), sigma_y=0.0)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "integrator"),
        ("hein", "heun"),
        ("heun:", "settings of heun"),
        ("heun:churn", "churn"),
        ("heun:churn=", "settings of heun"),
        ("heun:churn=0.1,0.2", "settings of heun"),
        ("heun:churn=half", "churn"),
        ("heun:churn=-0.1", "churn: expected"),
        ("heun:churn_noise=0", "churn_noise: expected"),
        ("dpmpp_2m:3", "none"),
        ("ddim:2", r"eta: expected a number in \[0, 1\]"),
        ("renew:fresh=-1", "fresh: expected"),
        ("euler_maruyama:form=vx", "form"),
        ("predictor_corrector:form=vp,snr=2", "snr: expected"),
        ("predictor_corrector:corrections=-1", "corrections: expected"),
        ("annealed_langevin:corrections=0", "corrections: expected"),
        ("annealed_langevin:size=4", "size: expected"),
    ],
)
def test_an_integrator_that_cannot_be_is_refused(spec: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as refusal:
        integrator(spec)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_an_integrator_is_read_with_its_settings(name: str) -> None:
    assert type(integrator(name)) is INTEGRATORS[name]
    fields = dataclasses.fields(INTEGRATORS[name])
    assert set(catalog.INTEGRATORS[name].options) == {field.name for field in fields}
    values = {
        field.name: "vp" if field.name == "form" else "0.2" for field in fields if field.name != "corrections"
    }
    spec = ",".join(f"{key}={value}" for key, value in values.items())
    read = integrator(f"{name}:{spec}") if spec else integrator(name)
    assert {key: str(getattr(read, key)) for key in values} == values


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_gradient_of_no_size_leaves_an_integrator_as_it_is(integrator: str) -> None:
    """DPS hands D(x, σ) on to the integrator, which may ask for D(x, s) first (annealed Langevin does)."""
    op = operator_for("dps")
    y = op.A(torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    problem = Problem(GaussianPrior.white(), Measurement(y, op, 0.1))
    found = [
        sample(method, problem, Streams.make(0, [("a", 0), ("b", 0)], SHAPE, y))
        for method in (
            DPS(steps=4, zeta=0.0, integrator=integrator),
            Unconditional(steps=4, integrator=integrator),
        )
    ]
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-10)


def test_levels_that_coincide_are_one() -> None:
    assert walk_of(make("pigdm", sigma_max=0.1, sigma_min=0.1, integrator="dpmpp_2m")) == [0.1, 0.0]


def test_denoising_from_less_noise_than_the_last_level_is_one_step() -> None:
    op = operator_for("ancestral")
    y = torch.rand(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    result = invdiff.restore(
        y, op, GaussianPrior.white(), method=make("ancestral", integrator="dpmpp_2m"), sigma_y=0.004
    )
    assert result.config["walk"] == 1


@pytest.mark.parametrize("sigma", [0.04, 0.05])
def test_below_plain_below_no_derivative_is_taken(sigma: float) -> None:
    """x̂₀ = D + r² Aᵀ(σ_y² + r² A Aᵀ)⁻¹(y − A D), by an evaluation that keeps nothing; above it J is asked for."""
    exact = GaussianPrior.white(SHAPE)
    asked: list[bool] = []

    def denoise(x: Tensor, level: Any) -> Tensor:
        asked.append(x.requires_grad)
        return exact(x, level)

    op = operator_for("mmps")
    x, y = (
        torch.rand(1, *shape, generator=torch.Generator().manual_seed(2)) for shape in (SHAPE, op.out_shape)
    )
    problem = Problem(FunctionPrior(denoise, exact.card), Measurement(y, op, 0.1))
    found = make("mmps", plain_below=0.05).estimate(problem, x, sigma)
    assert asked == [sigma == 0.05]
    d, r2 = exact(x, sigma), 1 / (1 / sigma**2 + 1 / exact.card.data_std**2)
    plain = d + r2 / (r2 + 0.01) * op.A_adjoint(y - op.A(d))  # of a mask
    torch.testing.assert_close(found, plain)  # under a white prior with J too
    with pytest.raises(ValueError, match="plain_below: expected a σ of at least 0, got -1"):
        make("mmps", plain_below=-1.0)


@pytest.mark.parametrize(
    ("op", "below"),
    [
        (operators.Mask(torch.eye(16), channels=1), 0.0),
        (operators.Downsample(2, (1, 16, 16)), 0.02),
        (operators.Blur(operators.kernels.gaussian(1.0), (1, 16, 16)), 0.05),
    ],
)
def test_auto_takes_no_derivative_where_it_does_not_matter(op: Operator, below: float) -> None:
    exact = GaussianPrior.white()
    asked: dict[float, bool] = {}

    def denoise(x: Tensor, level: Any) -> Tensor:
        asked[float(torch.as_tensor(level).flatten()[0])] = x.requires_grad
        return exact(x, level)

    y = torch.full((1, *op.out_shape), 0.5)
    invdiff.restore(y, op, FunctionPrior(denoise, exact.card), sigma_y=0.01)
    assert min(asked) < 0.01
    assert asked == {sigma: sigma >= below for sigma in asked}


def test_a_warm_start_is_a_draw_of_the_noisy_picture_given_y_and_a_cold_one_knows_nothing_of_it() -> None:
    """Exact under a prior of independent pixels: mean and variance of x_σ given y, pixel by pixel."""
    prior, sigma, count = GaussianPrior.white(SHAPE), 0.4, 20_000
    op, sigma_y = operator_for("mmps"), 0.2
    y = op.A(torch.full((1, *SHAPE), 0.9)).expand(count, -1, -1, -1)
    problem = Problem(prior, Measurement(y, op, sigma_y))
    noise = Streams.make(0, [("", k) for k in range(count)], SHAPE, y)
    mean, variance = prior.card.data_mean, prior.card.data_std**2
    keep = op.A(torch.ones(1, *SHAPE))[0]
    gain = keep * variance / (variance + sigma_y**2)
    warm = make("mmps", warm=True).start(problem, sigma, noise)
    torch.testing.assert_close(warm.mean(0), mean + gain * (0.9 - mean), atol=0.02, rtol=0)
    torch.testing.assert_close(warm.var(0), (1 - gain) * variance + sigma**2, atol=0.01, rtol=0)
    around = type("Sees", (), {"card": prior.card, "centre": torch.full_like(y, 0.7)})()
    seeing = make("mmps", warm=True).start(Problem(around, problem.measurement), sigma, noise)
    torch.testing.assert_close(seeing.mean(0), torch.full(SHAPE, 0.7).to(y), atol=0.02, rtol=0)
    cold = make("mmps").start(problem, sigma, noise)
    torch.testing.assert_close(cold.mean(0), torch.full(SHAPE, mean), atol=0.02, rtol=0)
