"""`invdiff.sample`: whose samples they are, what it refuses, reports and survives."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.errors import InvdiffError, RequestError
from invdiff.priors import VE, Card, FunctionPrior, NetworkPrior
from invdiff.priors.analytic import GaussianPrior
from invdiff.restore import Progress

SHAPE = (3, 8, 6)
PRIOR = GaussianPrior.white(0.4, 0.2)
ALL = ["ancestral", "ddim:0.5", "heun", "dpmpp_2m", "euler_maruyama:vp", "predictor_corrector"]


@pytest.mark.parametrize("integrator", ["ancestral", "heun", "dpmpp_2m", "euler_maruyama"])
def test_samples_are_the_priors(integrator: str) -> None:
    x = invdiff.sample(PRIOR, (1, 16, 16), integrator=integrator, steps=200, samples=40, batch=40).samples
    assert float(x.mean()) == pytest.approx(0.4, abs=4 * 0.2 / x.numel() ** 0.5)
    assert float(x.std()) == pytest.approx(0.2, rel=0.04)


def test_the_result_has_samples_settings_evaluations_and_seconds() -> None:
    result = invdiff.sample(PRIOR, SHAPE, integrator="heun", grid="log_uniform", steps=5, samples=3, seed=7)
    assert result.samples.shape == (3, *SHAPE)
    assert result.samples.dtype == torch.float32
    assert result.evaluations == 9
    assert result.seconds > 0
    asked = {"integrator": "heun", "grid": "log_uniform", "steps": 5, "samples": 3, "seed": 7, "walk": 5}
    assert asked.items() <= result.config.items()
    assert json.loads(json.dumps(result.config)) == result.config


def test_travel_walks_parts_of_the_grid_again() -> None:
    result = invdiff.sample(PRIOR, SHAPE, steps=10, jump=2, repeats=3)
    assert result.config["walk"] > 10 + 2
    assert result.evaluations > 10


def test_the_levels_themselves_may_be_given() -> None:
    result = invdiff.sample(PRIOR, SHAPE, grid=[5.0, 1.0, 0.2])
    assert (result.config["steps"], result.config["sigma_max"], result.config["walk"]) == (3, 5.0, 3)


@pytest.mark.parametrize("integrator", ALL)
def test_a_samples_draws_depend_on_seed_and_index_alone(integrator: str) -> None:
    def drawn(**how: Any) -> Tensor:
        return invdiff.sample(PRIOR, SHAPE, integrator=integrator, steps=6, **how).samples

    together = drawn(samples=5, batch=5)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(drawn(samples=5, batch=2), together, **close)
    torch.testing.assert_close(drawn(samples=2, first=3), together[3:], **close)
    assert (drawn(samples=1, seed=1)[0] - together[0]).abs().max() > 0.1
    assert (together[0] - together[1]).abs().max() > 0.1


def test_seed_0_is_a_seed_and_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    a, b = (invdiff.sample(PRIOR, SHAPE, steps=3, seed=0).samples for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_up_to_the_whole_call() -> None:
    seen: list[Progress] = []
    invdiff.sample(PRIOR, SHAPE, steps=4, samples=3, batch=2, callback=seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == 12


def test_when_gpu_memory_runs_out_the_batch_is_halved_and_nothing_else_changes() -> None:
    sizes: list[int] = []

    def small(x: Tensor, sigma: float) -> Tensor:
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return PRIOR(x, sigma)

    found = invdiff.sample(small, SHAPE, steps=3, samples=5, batch=5)
    expected = invdiff.sample(lambda x, s: PRIOR(x, s), SHAPE, steps=3, samples=5, batch=1)
    torch.testing.assert_close(found.samples, expected.samples)
    assert found.evaluations == 3
    assert sizes[0] == 5
    assert max(sizes[1:]) == 2


def test_what_goes_wrong_on_the_way_is_said() -> None:
    def hungry(x: Tensor, sigma: float) -> Tensor:
        raise torch.cuda.OutOfMemoryError("out of memory")

    with pytest.raises(InvdiffError, match="out of GPU memory with a single sample"):
        invdiff.sample(hungry, SHAPE, samples=2, batch=2)
    with pytest.raises(InvdiffError, match="heun diverged"):
        invdiff.sample(lambda x, sigma: x * float("nan"), SHAPE, steps=2, integrator="heun")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"integrator": "hun"}, "Did you mean 'heun'?"),
        ({"integrator": ""}, "integrator: expected a name"),
        ({"integrator": "heun:churn=2"}, "churn: expected"),
        ({"grid": "karas"}, "grid: expected"),
        ({"grid": [1.0, 2.0]}, "descending"),
        ({"steps": 0}, "steps: expected at least 1"),
        ({"steps": 2.5}, "steps: expected"),
        ({"sigma_min": 0.0}, "0 < sigma_min"),
        ({"sigma_max": float("inf")}, "sigma_max"),
        ({"repeats": 2, "jump": 60}, "jump: expected fewer levels than the 50 steps"),
        ({"samples": 0}, "samples: expected a whole number, at least 1, got 0"),
        ({"first": -1}, "first: expected a whole number"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"batch": 0}, "batch: expected a whole number, at least 1, got 0"),
        ({"shape": (64, 64)}, "expected (channels, height, width)"),
        ({"shape": (3, 0, 64)}, "each at least 1"),
        ({"shape": (3, 64.0, 64)}, "each at least 1"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_a_wrong_request_is_refused_before_the_prior_is_loaded(
    wrong: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*given: object, **how: object) -> None:
        raise AssertionError("loaded")

    sample = invdiff.sample  # which imports its module
    monkeypatch.setattr(sys.modules["invdiff.sample"], "load_prior", load)
    with pytest.raises(RequestError) as caught:
        sample(**{"prior": "natural", "shape": SHAPE, **wrong})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_prior_does_not_know_is_refused_before_it_is_evaluated() -> None:
    def never(x: Tensor, sigma: float) -> Tensor:
        raise AssertionError("evaluated")

    prior = FunctionPrior(never, Card(name="grey", channels=1, sigma_max=5.0))
    with pytest.raises(RequestError, match="its pictures have 1 channels, got 3"):
        invdiff.sample(prior, SHAPE, sigma_max=5.0)
    with pytest.raises(RequestError, match="knows noise up to 5, got 10"):
        invdiff.sample(prior, (1, 8, 8))


def test_it_may_be_called_in_inference_mode() -> None:
    with torch.inference_mode():
        assert not invdiff.sample(PRIOR, SHAPE, steps=2).samples.is_inference()


def test_a_label_and_guidance_are_the_samples_and_in_the_settings() -> None:
    class Labelled(torch.nn.Module):
        def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
            return (labels.to(z.dtype) / 10).view(-1, 1, 1, 1).expand_as(z)

    prior = NetworkPrior(Labelled(), VE(prediction="x0", black=0.0), Card(name="three", classes=3))
    for label, guidance, expected in ((None, 1.0, 0.3), (2, 1.0, 0.2), (1, 2.0, -0.1)):
        result = invdiff.sample(prior, (1, 4, 4), steps=2, label=label, guidance=guidance)
        torch.testing.assert_close(result.samples, torch.full((1, 1, 4, 4), expected))
        assert (result.config["label"], result.config["guidance"]) == (label, guidance)
        assert result.evaluations == (2 if guidance == 1 else 4)  # guided, each step asks the network twice
        restored = invdiff.restore(
            torch.rand(1, 1, 4, 4),
            operators.Identity((1, 4, 4)),
            prior,
            sigma_y=0.5,
            label=label,
            guidance=guidance,
        )
        torch.testing.assert_close(restored.samples[0], torch.full((1, 1, 4, 4), expected))
        assert (restored.config["label"], restored.config["guidance"]) == (label, guidance)


@pytest.mark.parametrize("how", [{"label": 7}, {"guidance": 2.0}])
def test_a_label_natural_does_not_have_is_refused_before_it_is_loaded(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*given: object, **how: object) -> None:
        raise AssertionError("loaded")

    sample, restore = invdiff.sample, invdiff.restore
    monkeypatch.setattr(sys.modules["invdiff.sample"], "load_prior", load)
    monkeypatch.setattr(sys.modules["invdiff.restore"], "load_prior", load)
    with pytest.raises(RequestError):
        sample("natural", SHAPE, **how)
    with pytest.raises(RequestError):
        restore(torch.rand(1, *SHAPE), operators.Identity(SHAPE), "natural", sigma_y=0.1, **how)
