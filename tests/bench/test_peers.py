"""invdiff.bench.peers: other packages' restorations are given our priors and measurements, checked, and run."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff import operators, spec_files
from invdiff.bench import peers
from invdiff.bench.peers import PACKAGES, PEERS, Peer, classical, of_azula, of_deepinv
from invdiff.errors import RequestError
from invdiff.operators import LinearOperator, Operator
from invdiff.priors.analytic import GaussianPrior
from invdiff.priors.base import Card, Condition, FunctionPrior
from invdiff.running import Counter

N = 8
SHAPE = (1, N, N)
SIGMA_Y = 0.05
ADAPTERS: dict[str, Callable[..., Any]] = {**classical.ADAPTERS, **of_deepinv.ADAPTERS, **of_azula.ADAPTERS}
HERE = [name for name, peer in PEERS.items() if peer.missing() is None]
SAMPLERS = [name for name in HERE if PEERS[name].uses_prior]
PROBLEMS: dict[str, Any] = {
    "mask": {"mask": {"pattern": "random", "missing": 0.5, "seed": 1}},
    "downsample": {"downsample": {"factor": 2, "kernel": "box"}},
    "blur": {"blur": {"kernel": "gaussian", "std": 0.6, "size": 3, "border": "circular"}},
    "motion": {"blur": {"kernel": "motion", "length": 4, "angle": 45, "border": "reflect"}},
    "identity": "identity",
}


def operator(kind: str) -> Operator:
    return spec_files.build(PROBLEMS[kind], "test").operator(SHAPE)


def problem_of(peer: Peer) -> str:
    """A mask where it can, the only thing it can otherwise."""
    return peer.only[0] if peer.only else "identity" if peer.needs == "identity" else "mask"


@cache
def prior() -> GaussianPrior:
    at = torch.cartesian_prod(torch.arange(N), torch.arange(N)).double()
    return GaussianPrior.correlated(0.5, 0.04 * torch.exp(-torch.cdist(at, at) / 4))


def measured(op: Operator, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    clean = op.A(prior().sample((1, *SHAPE), draws)).float()
    return clean + SIGMA_Y * torch.randn(clean.shape, generator=draws)


def posterior(op: LinearOperator, y: Tensor) -> tuple[Tensor, float]:
    """Its mean, and the root of its mean variance."""
    eye = torch.eye(N * N, dtype=torch.float64)
    a = op.A(eye.reshape(-1, *SHAPE)).flatten(1).T
    covariance = prior().covariance_times(eye)
    gain = covariance @ a.T @ torch.linalg.inv(a @ covariance @ a.T + SIGMA_Y**2 * torch.eye(len(a)))
    mean = 0.5 + gain @ (y.double().flatten() - a @ torch.full((N * N,), 0.5, dtype=torch.float64))
    return mean, float((covariance - gain @ a @ covariance).diagonal().mean().sqrt())


def run(name: str, op: Operator, y: Tensor, **given: Any) -> tuple[Tensor, float]:
    given = {"sigma_y": SIGMA_Y, **({"steps": 4} if PEERS[name].steps else {}), **given}
    return PEERS[name].restore(y, op, prior() if PEERS[name].uses_prior else None, **given)


# Root mean square error of the mean of four samples (one answer of the deterministic) from the posterior's mean, in
# standard deviations of the posterior, at 30 steps, as measured. A single exact draw is 1 away, the mean of four .5;
# deepinv's DPS is in effect unconditional.
ERRORS: dict[str, float] = {
    "bicubic": 0.19,
    "biharmonic": 0.56,
    "wiener": 0.52,
    "richardson-lucy": 1.32,
    "tv": 0.65,
    "nl-means": 0.59,
    "opencv/telea": 0.43,
    "opencv/ns": 0.37,
    "deepinv/dps": 2.10,
    "deepinv/dps-annealed": 0.91,
    "deepinv/pigdm": 0.81,
    "deepinv/mmps": 0.41,
    "deepinv/score-ald": 1.02,
    "deepinv/ilvr": 1.08,
    "deepinv/ddrm": 0.54,
    "deepinv/diffpir": 0.91,
    "deepinv/dpir": 0.32,
    "azula/dps": 0.62,
    "azula/pigdm": 0.54,
    "azula/mmps": 0.45,
    "azula/tmpd": 0.56,
    "azula/diffpir": 1.02,
    "azula/repaint": 0.38,
}


@pytest.mark.parametrize("name", HERE)
def test_a_peer_is_as_near_the_posterior_mean_as_it_is_known_to_be(name: str) -> None:
    peer = PEERS[name]
    op = operator(problem_of(peer))
    y = measured(op)
    given, state = y.clone(), torch.get_rng_state()
    found, evaluations = run(
        name, op, y, steps=30 if peer.steps else None, samples=4 if peer.stochastic else 1
    )
    assert found.shape == (4 if peer.stochastic else 1, 1, *SHAPE)
    assert found.dtype == y.dtype
    assert not found.requires_grad
    assert torch.equal(y, given)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(op, LinearOperator)
    mean, deviation = posterior(op, y)
    error = float((found.double().mean(0).flatten() - mean).square().mean().sqrt()) / deviation
    assert error == pytest.approx(ERRORS[name], rel=0.2)
    wanted = {"deepinv/dpir": 8, "azula/repaint": 90}.get(name, 30 if peer.uses_prior else 0)
    assert abs(evaluations - wanted) <= 1  # deepinv's Euler solver ends with a denoising


@pytest.mark.parametrize("name", [n for n in SAMPLERS if PEERS[n].stochastic])
def test_a_sample_depends_on_seed_picture_and_index_alone(name: str) -> None:
    first = operator("mask")
    assert isinstance(first, operators.Mask)
    second = operators.Mask(~first.keep, channels=1)
    y = torch.cat([measured(first), measured(second, seed=1)])
    both, _ = run(name, operators.per_image([first, second]), y, samples=2)
    turned, _ = run(name, operators.per_image([second, first]), y.flip(0), samples=1)
    assert torch.equal(both[:1].flip(1), turned)
    assert not torch.equal(both[0], both[1])
    other, _ = run(name, second, y[1:], seed=1)
    assert not torch.equal(other[0, 0], both[0, 1])


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in HERE for key in PEERS[name].defaults])
def test_every_setting_reaches_the_package(name: str, key: str) -> None:
    default = PEERS[name].defaults[key]
    words = {"norm": "annealed", "gmres": "cg"}
    other = words[default] if isinstance(default, str) else 1 if default == 10 else default + 2
    other = 0.3 if key in ("eta", "eta_b", "zeta") else other
    solved = PEERS[name].uses_prior and key in ("iterations", "solver") and PEERS[name].needs == "linear"
    op = operator("motion" if solved else problem_of(PEERS[name]))  # a mask's system takes no iterations
    y = measured(op)
    both = {"iterations": 2} if key == "solver" else {}
    changed, _ = run(name, op, y, settings={**both, key: other})
    as_it_was, _ = run(name, op, y, settings=both)
    assert not torch.equal(changed, as_it_was)


def test_names_adapters_and_settings_agree() -> None:
    assert set(ADAPTERS) == set(PEERS)
    for name, peer in PEERS.items():
        assert (name, peer.package in PACKAGES) == (peer.name, True)
        assert peer.settings
        parameters = inspect.signature(ADAPTERS[name]).parameters.values()
        known = {one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
        open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
        fixed = set(getattr(ADAPTERS[name], "keywords", ()))
        assert known - fixed <= set(peer.defaults)
        assert open_ended or known - fixed == set(peer.defaults)


def test_peers_are_listed_and_checked_without_importing_any_of_the_packages() -> None:
    heavy = ("torch", "skimage", "cv2", "deepinv", "azula")
    code = (
        "import sys; from invdiff import spec_files; from invdiff.bench.peers import PEERS; "
        "PEERS['deepinv/ddrm'].check(spec_files.build('identity', ''), (3, 8, 8), 0.1); "
        f"print(*(m for m in {heavy!r} if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("name", "asked", "sigma_y", "said"),
    [
        ("bicubic", PROBLEMS["mask"], 0.0, "bicubic: is for downsample; this is mask .* biharmonic"),
        ("biharmonic", PROBLEMS["blur"], 0.0, "is for masks; this is blur .* wiener, richardson-lucy"),
        ("tv", "identity", 0.0, "is for denoising, with noise"),
        ("tv", PROBLEMS["blur"], 0.1, "is for denoising, with noise; this is blur"),
        (
            "deepinv/ddrm",
            PROBLEMS["motion"],
            0.1,
            "is for singular values",
        ),
        ("azula/mmps", {"clip": {"gain": 2}}, 0.1, "is for linear operators; this is clip .* deepinv/dps"),
        ("wiener", {"blur": {"kernel": "gaussian", "std": 0.5, "border": "valid"}}, 0.1, "border is valid"),
        ("bicubic", [PROBLEMS["blur"], PROBLEMS["downsample"]], 0.0, "this is another operator"),
    ],
)
def test_what_a_peer_cannot_do_is_refused_with_those_that_can(
    name: str, asked: Any, sigma_y: float, said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        PEERS[name].check(spec_files.build(asked, "test"), (3, 16, 16), sigma_y)
    if "valid" not in said:
        op = spec_files.build(asked, "test").operator((3, 16, 16))
        with pytest.raises(RequestError, match=said.partition(";")[0]):
            PEERS[name].restore(torch.zeros(1, *op.out_shape), op, prior(), sigma_y=sigma_y)


@pytest.mark.parametrize("name", PEERS)
def test_what_a_peer_can_do_is_let_through_by_both_checks(name: str) -> None:
    if PEERS[name].missing() is None:
        kind = problem_of(PEERS[name])
        PEERS[name].check(spec_files.build(PROBLEMS[kind], "test"), SHAPE, SIGMA_Y)
        PEERS[name].check(spec_files.build([PROBLEMS[kind]], "test"), None, SIGMA_Y)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("wiener", {"settings": {"balence": 1.0}}, "unknown setting 'balence'. Did you mean 'balance'"),
        ("bicubic", {"settings": {"a": 1}}, "unknown setting 'a'.* Known: none"),
        ("wiener", {"settings": {"balance": "much"}}, "balance: expected a number, got 'much'"),
        ("richardson-lucy", {"settings": {"iterations": 2.5}}, "iterations: expected a whole number"),
        ("richardson-lucy", {"settings": {"iterations": True}}, "iterations: expected a whole number"),
        ("deepinv/dps", {"settings": {"guidance": 1}}, "guidance: expected a word"),
        ("wiener", {"steps": 10}, "takes no steps"),
        ("deepinv/dpir", {"steps": 10}, "takes no steps"),
        ("deepinv/ddrm", {"steps": 1}, "expected at least 2"),
        ("deepinv/dpir", {"samples": 2}, "gives one answer"),
        ("deepinv/ddrm", {"samples": 0}, "samples: expected at least 1"),
    ],
)
def test_settings_are_checked(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        PEERS[name].check_settings(given.get("settings", {}), given.get("steps"), given.get("samples", 1))


def test_a_whole_number_may_stand_for_a_number() -> None:
    PEERS["wiener"].check_settings({"balance": 1})


def test_an_unknown_peer_is_told_the_nearest() -> None:
    with pytest.raises(RequestError, match="Did you mean 'deepinv/ddrm'"):
        peers.peer("deepinv/ddrn")


def test_a_package_that_is_missing_or_old_is_told_with_pips_line(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = replace(PACKAGES["azula"], module="no_such_module")
    monkeypatch.setitem(PACKAGES, "azula", gone)
    with pytest.raises(RequestError, match=r"azula/dps: needs azula, .* pip install 'invdiff\[peers\]'$"):
        PEERS["azula/dps"].check(spec_files.build("identity", ""), None, 0.1)
    monkeypatch.setitem(PACKAGES, "skimage", replace(PACKAGES["skimage"], least=(99, 0)))
    with pytest.raises(RequestError, match=r"tv: needs scikit-image>=99.0, this is .* pip install 'scikit-"):
        run("tv", operator("identity"), measured(operator("identity")))


def test_a_prior_that_must_be_shown_y_is_refused_and_so_is_none_at_all() -> None:
    op = operator("mask")
    shown = FunctionPrior(lambda x, sigma: x, Card(name="shown", condition=Condition(tasks=())))
    with pytest.raises(RequestError, match="azula/mmps: prior shown must be shown y"):
        PEERS["azula/mmps"].restore(measured(op), op, shown, sigma_y=0.1)
    with pytest.raises(RequestError, match="expected a prior, got none"):
        PEERS["azula/mmps"].restore(measured(op), op, None, sigma_y=0.1)


def test_a_grey_picture_goes_through_a_colour_prior_and_without_noise_nothing_is_divided_by_it() -> None:
    op = operator("mask")
    colour = FunctionPrior(lambda x, sigma: prior()(x, sigma), Card(name="colour", channels=3))
    seen: list[int] = []

    def watched(self: Counter, x: Tensor, sigma: Any) -> Tensor:
        seen.append(x.shape[1])
        return self.counted(self.prior, x, sigma)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counter, "__call__", watched)
        patch.setattr(GaussianPrior, "__call__", lambda self, x, sigma: 0.5 + 0 * x)
        for name in ("deepinv/diffpir", "azula/diffpir", "deepinv/dpir"):
            found, _ = PEERS[name].restore(
                measured(op), op, colour, sigma_y=0.0, steps=3 if PEERS[name].steps else None
            )
            assert found.isfinite().all()
    assert set(seen) == {1}  # `fitted` stands between


@pytest.mark.parametrize("name", [n for n in HERE if PEERS[n].needs == "mask" and not PEERS[n].uses_prior])
@pytest.mark.parametrize("per_channel", [False, True])
def test_classical_inpainting_leaves_what_was_observed_alone(name: str, per_channel: bool) -> None:
    pattern = {"mask": {"pattern": "random", "missing": 0.3, "seed": 1, "per_channel": per_channel}}
    op = spec_files.build(pattern, "test").operator((3, 12, 10))
    assert isinstance(op, operators.Mask)
    ramp = torch.linspace(0, 1, 120).reshape(12, 10)
    x = torch.stack([ramp, ramp.flip(0), 0.3 * ramp + 0.2])
    found, _ = PEERS[name].restore(op.A(x[None]), op, None, sigma_y=0.0)
    assert torch.equal(found[0, 0][op.keep], x[op.keep])
    assert (found[0, 0] - x).abs().max() < 0.25  # where nothing is filled in, 1


def test_the_script_of_exactness_measures_every_sampler_with_its_defaults() -> None:
    text = (Path(__file__).parents[2] / "experiments" / "exactness" / "peers.py").read_text(encoding="utf-8")
    assert [name for name in PEERS if PEERS[name].stochastic and f'_beside("{name}"' not in text] == []
