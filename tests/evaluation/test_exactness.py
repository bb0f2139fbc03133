"""Distances to the posterior are measured rightly; a small study gives the whole page and goes on where it stopped."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from invdiff import operators
from invdiff.errors import RequestError
from invdiff.evaluation import exactness
from invdiff.evaluation.exactness import Known
from invdiff.methods import DAPS, DPS, MALA, METHODS, MMPS, SMC, SR3, DiffPIR, PiGDM, RePaint
from invdiff.operators import Operator
from invdiff.priors import GaussianPrior, MixturePrior

FOLDER = Path(__file__).parents[2] / "experiments" / "exactness"
SHAPE = (1, 3, 3)
MASK = operators.Mask(torch.tensor([[1, 0, 1], [0, 0, 1], [1, 0, 0]]), 1)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"exactness_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


study = load("study")


def white(operator: Operator = MASK, sigma_y: float = 0.05, count: int = 3) -> Known:
    return Known.make(GaussianPrior.white(0.5, 0.25), operator, sigma_y, count=count, seed=1)


def correlated(sigma_y: float = 0.05) -> Known:
    at = torch.cartesian_prod(torch.arange(3), torch.arange(3)).double()
    prior = GaussianPrior.correlated(0.4, 0.0625 * torch.exp(-torch.cdist(at, at) / 2))
    return Known.make(prior, MASK, sigma_y, count=2, seed=1)


def mixture() -> Known:
    prior = MixturePrior.make(torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 1, 1, 2), 0.05)
    return Known.make(prior, operators.Identity((1, 1, 2)), 0.3, count=3, seed=1)


def test_exact_draws_score_their_monte_carlo_error_and_no_more() -> None:
    known = white()
    found = exactness.distance(exactness.exact(known, 1000, 5).samples, known, 6)
    assert max(found.mean) < 2 / 1000**0.5
    assert max(found.covariance) < 0.2
    assert max(found.wasserstein) < 0.12


def test_moved_samples_are_off_by_the_move_in_posterior_standard_deviations() -> None:
    known = white()
    x = exactness.exact(known, 1000, 5).samples
    found = exactness.distance(x + 2 * known.spread, known, 6)
    for error, w in zip(found.mean, found.wasserstein, strict=True):
        assert error == pytest.approx(2, abs=0.1)
        assert w == pytest.approx(2, rel=0.2)  # directions: ⟨move, θ⟩² averages to ‖move‖²/n


def test_wider_samples_are_off_in_the_covariance_alone() -> None:
    known = white()
    x = exactness.exact(known, 1000, 5).samples
    found = exactness.distance(x.mean(0) + 2**0.5 * (x - x.mean(0)), known, 6)
    assert max(found.mean) < 0.1
    assert found.covariance == pytest.approx([1.0] * 3, abs=0.2)


def test_samples_on_one_mode_miss_the_weight_of_the_other() -> None:
    known = mixture()
    x = exactness.exact(known, 1000, 5).samples
    assert max(exactness.distance(x, known, 6).modes) < 0.04
    stuck = known.posteriors[0].means[0].expand(1000, 3, 2)
    lost = [float(p.weights[1]) for p in known.posteriors]
    assert exactness.distance(stuck, known, 6).modes == pytest.approx(lost, abs=1e-6)


def test_moments_are_propagated_where_every_step_is_affine() -> None:
    affine = [PiGDM(steps=8), MMPS(steps=8, iterations=9), DiffPIR(steps=8), SR3(steps=8)]
    assert all(exactness.propagated(method, correlated()) for method in affine)
    others = [DPS(steps=8), SMC(steps=8), MALA(steps=8), MMPS(steps=8, iterations=2)]
    assert not any(exactness.propagated(method, correlated()) for method in others)
    assert not exactness.propagated(PiGDM(), mixture())


@pytest.mark.parametrize(
    ("method", "sigma_y"),
    [
        (PiGDM(steps=10), 0.05),
        (SR3(steps=10), 0.05),
        (RePaint(steps=10, repeats=1), 0.0),
        (DAPS(steps=3, langevin=3), 0.0),
    ],
)
def test_propagated_moments_are_those_of_many_samples_pasted_pixels_included(
    method: Any, sigma_y: float
) -> None:
    known = correlated(sigma_y)
    x = exactness.draw(method, known, 20_000, 3).samples
    for i, (mean, covariance) in enumerate(exactness.propagated(method, known)):
        assert float((x[:, i].mean(0) - mean).norm() / covariance.trace().sqrt()) < 0.03
        assert float((x[:, i].T.cov() - covariance).norm() / covariance.norm()) < 0.05


def test_exact_draws_are_calibrated_and_pixels_known_exactly_are_left_out() -> None:
    known = white(sigma_y=0.0, count=300)
    x = exactness.exact(known, 9, 4).samples
    for level, (share, error) in zip(exactness.LEVELS, exactness.shares(x, known), strict=True):
        assert abs(share - level) < 4 * error
    narrow = exactness.shares(x.mean(0) + (x - x.mean(0)) / 2, known)
    assert narrow[1][0] < 0.7


def test_evaluations_are_those_of_one_sample() -> None:
    assert exactness.draw(PiGDM(steps=7), white(), 5, 0).evaluations == 7
    assert exactness.draw(SMC(steps=7, particles=4), white(), 5, 0).evaluations == 28
    assert exactness.draw(SR3(steps=7), white(), 5, 0).evaluations == 7


def test_a_conditional_method_walks_what_sees_each_measurement_of_its_own() -> None:
    """Its samples are each posterior's, of which the means lie apart."""
    known = mixture()
    x = exactness.draw(SR3(steps=60), known, 1500, 2).samples
    assert max(exactness.distance(x, known, 6).mean) < 0.15
    assert max(exactness.distance(x, known, 6).modes) < 0.04
    assert max(exactness.distance(x.roll(1, dims=1), known, 6).mean) > 0.4


# The study


SMALL = """
steps: 12
measurements: 2
samples: 40
truths: 10
interval: 5
priors:
  white: {kind: white, shape: [1, 4, 4]}
  modes: {kind: modes, shape: [1, 1, 2]}
problems:
  white, mask: {prior: white, operator: {mask: {pattern: random, missing: 0.6, seed: 1}}, sigma_y: 0.05}
  white, exact: {prior: white, operator: {mask: {pattern: random, missing: 0.6, seed: 1}}}
  modes: {prior: modes, operator: {compressed_sensing: {ratio: 0.5, transform: dct}}, sigma_y: 0.1, coverage: false}
  noise: {prior: modes, operator: identity, sigma_y: 0.1}
methods:
METHODS
  mmps, heun: {method: mmps, options: {integrator: heun, sigma_max: 50, sigma_min: 0.001, steps: 40}}
curves:
  steps:
    {problem: "white, mask", over: steps, values: [10, 20, 40], measure: covariance,
     lines: {ancestral: {method: pigdm}, heun: {method: pigdm, options: {integrator: heun}}}}
peers:
  azula/pigdm: {}
  deepinv/ddrm: {}
peer_problems: ["white, mask"]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    rows = "\n".join(f"  {name}: {{}}" for name in METHODS).replace(
        "daps: {}", "daps: {options: {langevin: 10}}"
    )
    (folder / "small.yaml").write_text(SMALL.replace("METHODS", rows))
    assert run(folder) == 0
    return folder


def run(folder: Path, *more: str) -> int:
    out = ["--out", str(folder), "--docs", str(folder / "docs"), "--jobs", "1"]
    return study.main(["--config", str(folder / "small.yaml"), *out, *more])


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def records(folder: Path) -> dict[Any, Any]:
    by_key = {record["key"]: record for record in lines(folder)}
    return {place: by_key[cell.key] for place, cell in study.places(study.read(folder / "small.yaml"))}


def test_every_method_is_measured_and_the_page_has_its_rows_and_figures(done: Path) -> None:
    found = records(done)
    assert {row for table, _, row in found if table == "methods"} >= {*METHODS, "exact draws"}
    page = (done / "docs" / "exactness.md").read_text()
    assert all(f"\n| {name} |" in page for name in METHODS)
    assert "<!--" not in page
    for figure in ("distance", "coverage", "convergence"):
        assert (done / "docs" / "exactness" / f"{figure}.png").stat().st_size > 5000
        assert f"exactness/{figure}.png" in page


def test_what_is_exact_is_near_the_posterior_and_what_is_not_is_seen(done: Path) -> None:
    found = records(done)
    near = found["methods", "white, mask", "mmps, heun"]
    assert near["propagated"]
    assert max(near["mean"]) < 0.01
    assert max(near["covariance"]) < 0.03
    assert max(found["methods", "white, mask", "ddrm"]["covariance"]) > 0.1
    coarse, fine = (found["steps", n, "ancestral"]["covariance"][0] for n in ("10", "40"))
    assert coarse > 2.5 * fine


def test_a_stopped_study_goes_on_and_a_torn_line_is_measured_again(done: Path) -> None:
    file = done / "log.jsonl"
    before = lines(done)
    file.write_text("".join(json.dumps(r) + "\n" for r in before[:-1]) + json.dumps(before[-1])[:30])
    assert run(done) == 0
    *_, torn, again = file.read_text().splitlines()
    assert len(torn) == 30
    after = json.loads(again)
    same = {"key", "mean", "covariance", "wasserstein", "floor", "modes"} & set(after)
    assert all(after[name] == before[-1][name] for name in same)


def test_another_setting_is_another_cell_and_the_same_by_another_name_is_not(done: Path) -> None:
    small = study.read(done / "small.yaml")
    entry = study.Entry(method="pigdm")

    def key(entry: Any) -> str:
        return study.cell(small, "white, mask", entry, coverage=True).key

    assert key(entry) == key(study.Entry(method="pigdm", options={"steps": 12}))
    others = [
        study.Entry(method="pigdm", options={"tau": 0.3}),
        study.Entry(method="pigdm", samples=41),
        study.Entry(method="tmpd"),
    ]
    assert len({key(e) for e in (entry, *others)}) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("methods.dsp={}", "dps"),
        ("methods.dps.zeta=1", "unknown key zeta"),
        ("problems.odd={prior: grey, operator: identity}", "grey"),
        ("peer_problems=[whte]", "whte"),
        ("samples=1", "samples: expected at least 2"),
    ],
)
def test_a_mistake_in_the_study_is_named(done: Path, change: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        study.read(done / "small.yaml", [change])


def test_the_full_study_covers_every_method_and_every_peer() -> None:
    full = study.read(FOLDER / "full.yaml")
    assert {entry.method for entry in full.methods.values()} == set(METHODS)
    assert set(full.peers) == set(study.peers.PEERS)
    tried = {row for table, _, row in dict(study.places(full)) if table == "methods"}
    assert tried == {*full.methods, "exact draws"}


def test_priors_of_the_study_are_what_they_say() -> None:
    photographs = study.prior_of("photographs", (1, 4, 4), 25)
    covariance = photographs.covariance_times(torch.eye(16, dtype=torch.float64))
    assert covariance[0, 1] / covariance[0, 0] > 0.7  # neighbours in a photograph are alike
    modes = study.prior_of("modes", (1, 1, 2), 25)
    assert len(modes.means.flatten(1).unique(dim=0)) == 25
    assert modes.means.min() == pytest.approx(0.1)
    assert modes.means.max() == pytest.approx(0.9)
    assert len(study.prior_of("pictures", (1, 8, 8), 20).means.flatten(1).unique(dim=0)) == 20
