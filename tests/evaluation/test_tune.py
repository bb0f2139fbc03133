"""A search over settings finds the best, spends what it should, and loses nothing when it is stopped."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import invdiff
from invdiff import config, tuning
from invdiff.errors import InvdiffError, RequestError
from invdiff.evaluation import tune as module
from invdiff.evaluation.tune import Step, Tuned, tune
from invdiff.methods import METHODS
from invdiff.methods.defaults import KINDS
from invdiff.priors import Card, GaussianPrior

MASK = {"operator": {"mask": {"pattern": "random", "missing": 0.5}}}
BOX = {"operator": {"mask": {"pattern": "box", "height": 3}}}
SR = {"operator": {"downsample": {"factor": 2, "kernel": "box"}}, "noise": 0.05}


def distance(image: Tensor, reference: Tensor) -> Tensor:
    return (image - reference).abs().mean(dim=(-3, -2, -1))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(seed=1, data={...}): the file of a small recipe with these changes, and ten pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(draws.integers(30, 220, (12, 14, 3), np.uint8)).save(folder / f"{i:02}.png")

    def write(**changes: Any) -> Path:
        recipe: dict[str, Any] = {
            "data": {"train": [str(folder)], "validation": 9, "crop": 8},
            "tasks": {"half": MASK, "sr": SR},
            "methods": {"mmps": {"steps": [2, 4], "iterations": [1, 2]}},
            "rungs": [1, 3],
            "eta": 2,
            "samples": 2,
            "device": "cpu",
        }
        for key, value in changes.items():
            recipe[key] = {**recipe["data"], **value} if key == "data" else value
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(recipe))  # JSON is YAML
        return path

    return write


def search(path: Path, out: Path, **more: Any) -> Tuned:
    return tune(path, out, **{"prior": GaussianPrior.white(), "perceptual": distance, **more})


def timeless(tuned: Tuned) -> list[dict[str, Any]]:
    return [{k: v for k, v in dataclasses.asdict(row).items() if k != "seconds"} for row in tuned.rows]


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / tuning.LOG).read_text().splitlines()]


class Fake:
    """In place of `invdiff.restore`: an error of `zeta` on average, one of 5 with the defaults, and 3 evaluations."""

    def __init__(self, error: Callable[[dict[str, Any], int], float] | None = None) -> None:
        self.calls: list[tuple[dict[str, Any], Tensor]] = []
        self.restored: Counter[str] = Counter()
        self.error = error or (lambda settings, call: settings.get("zeta", 5.0))

    def __call__(self, y: Tensor, op: Any, prior: Any, *, options: dict[str, Any], **rest: Any) -> Any:
        for _ in range(3):
            prior(torch.zeros(1, *op.in_shape), 1.0)
        if isinstance(prior, module._Counting):
            return None
        self.calls.append((options, y))
        self.restored[json.dumps(options)] += 1
        self.now = self.error(options, self.restored[json.dumps(options)])
        samples = torch.zeros(2, 1, *op.in_shape)
        return SimpleNamespace(samples=samples, evaluations=3, seconds=1.0)

    def distance(self, image: Tensor, reference: Tensor) -> Tensor:
        return torch.full((len(image),), self.now, dtype=torch.float64)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fake]:
    def make(error: Callable[[dict[str, Any], int], float] | None = None) -> Fake:
        made = Fake(error)
        monkeypatch.setattr(invdiff, "restore", made)
        return made

    return make


# ---------------------------------------------------------------------------------------------------- the search


def test_the_best_settings_are_found_and_told_in_the_form_of_the_defaults(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    tuned = search(write(methods={"dps": {"zeta": [0.0, 1.0]}}), out)
    assert [(row.task, row.method, row.kind) for row in tuned.rows] == [
        ("half", "dps", "mask"),
        ("sr", "dps", "downsample"),
    ]
    assert all(row.settings == {"zeta": 0.0} and not row.taken for row in tuned.rows)
    sr = tuned.rows[1]  # zeta 0 does not look at the measurement, and 1 is the default
    assert sr.score[0] > 1.1 * sr.defaults[0]
    tuned = search(write(methods={"dps": {"zeta": [0.5], "steps": [99]}}), tmp_path / "other")
    assert yaml.safe_load((out / tuning.BEST).read_text()) == {
        "dps": {"mask": {"zeta": 1.0}, "downsample": {"zeta": 1.0}}
    }
    best = yaml.safe_load((tmp_path / "other" / tuning.BEST).read_text())
    assert best == tuned.best
    for method, kinds in best.items():
        for kind, settings in kinds.items():
            assert kind in KINDS
            config.build(METHODS[method], settings, method)


def test_every_round_keeps_the_best_of_eta_and_restores_each_picture_once(
    write: Callable[..., Path], tmp_path: Path, fake: Callable[..., Fake]
) -> None:
    made = fake()
    values = [9.0, 8.0, 1.5, 7.0, 6.0, 2.0, 5.5, 3.0, 4.0, 9.5]
    path = write(tasks={"half": MASK}, methods={"dps": {"zeta": values}}, rungs=[1, 3, 9], eta=3)
    steps: list[Step] = []
    tuned = search(path, tmp_path / "run", perceptual=made.distance, callback=steps.append)
    expected = {json.dumps({"zeta": v}): {1.5: 9, 2.0: 9, 3.0: 3, 4.0: 3}.get(v, 1) for v in values} | {
        "{}": 9
    }
    assert made.restored == expected
    assert [step.done for step in steps] == list(range(1, 10 + 1 + 2 * 5 + 6 * 3 + 1))
    assert {step.total for step in steps} == {sum(expected.values())}
    (row,) = tuned.rows
    assert (row.settings, row.score, row.defaults) == ({"zeta": 1.5}, (1.5, 0.0), (5.0, 0.0))
    assert (row.difference, row.taken) == ((-3.5, 0.0), True)
    assert tuned.best == {"dps": {"mask": {"zeta": 1.5}}}


def test_psnr_is_better_where_it_is_larger(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(methods={"dps": {"zeta": [0.0, 0.7]}}, score="psnr", tasks={"sr": SR})
    (row,) = search(path, tmp_path / "run").rows
    assert row.settings == {"zeta": 0.7}
    assert row.score[0] == pytest.approx(row.psnr[0], rel=1e-12)
    records = [r for r in log(tmp_path / "run") if r["settings"] == {"zeta": 0.7}]
    assert row.score[0] == pytest.approx(sum(r["psnr"] for r in records) / 3, rel=1e-12)


@pytest.mark.parametrize(("margin", "taken"), [(0.0, True), (1.0, True), (1.5, True), (2.0, False)])
def test_defaults_give_way_only_to_what_is_better_by_the_margin(
    write: Callable[..., Path], tmp_path: Path, fake: Callable[..., Fake], margin: float, taken: bool
) -> None:
    # better by 0, 1, 2: by 1 on average, with a standard error of 1/√3
    made = fake(lambda settings, call: 5.0 - (call - 1) if settings else 5.0)
    path = write(tasks={"half": MASK}, methods={"dps": {"zeta": [2.0]}}, rungs=[3], margin=margin)
    tuned = search(path, tmp_path / "run", perceptual=made.distance)
    (row,) = tuned.rows
    assert row.difference == pytest.approx((-1.0, 3**-0.5), rel=1e-12)
    assert row.taken == taken
    assert tuned.best == {"dps": {"mask": {"zeta": 2.0 if taken else 1.0}}}
    assert ("not taken" in tuned.table()) != taken


def test_tasks_of_one_kind_share_their_settings(
    write: Callable[..., Path], tmp_path: Path, fake: Callable[..., Fake]
) -> None:
    made = fake()
    path = write(tasks={"half": MASK, "sr": SR, "box": BOX}, methods={"dps": {"zeta": [2.0, 3.0]}}, rungs=[1])
    tuned = search(path, tmp_path / "run", perceptual=made.distance)
    assert [row.task for row in tuned.rows] == ["half", "box", "sr"]
    assert made.restored == {'{"zeta": 2.0}': 3, '{"zeta": 3.0}': 3, "{}": 3}


def test_all_candidates_see_the_same_measurement_and_every_picture_its_own_mask(
    write: Callable[..., Path], tmp_path: Path, fake: Callable[..., Fake]
) -> None:
    made = fake()
    path = write(tasks={"half": {**MASK, "noise": 0.1}}, methods={"dps": {"zeta": [2.0]}}, rungs=[3])
    search(path, tmp_path / "run", perceptual=made.distance)
    ours, theirs = ([y for settings, y in made.calls if bool(settings) == own] for own in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    lost = [y == 0 for y in ours]
    assert not torch.equal(lost[0], lost[1])
    assert [int(one.sum()) for one in lost] == [3 * 32] * 3


def test_a_candidate_that_diverges_is_recorded_and_ranks_last(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    tuned = search(write(tasks={"sr": SR}, methods={"dps": {"zeta": [1e38, 0.0]}}), out)
    (failed,) = [record for record in log(out) if "error" in record]
    assert failed["settings"] == {"zeta": 1e38}
    assert "diverged" in failed["error"]
    assert tuned.rows[0].settings == {"zeta": 0.0}
    (row,) = search(write(tasks={"sr": SR}, methods={"dps": {"zeta": [1e38]}}), tmp_path / "other").rows
    assert (row.score[0], row.taken) == (math.inf, False)


def test_defaults_that_diverge_give_way_to_what_does_not(
    write: Callable[..., Path], tmp_path: Path, fake: Callable[..., Fake]
) -> None:
    def error(settings: dict[str, Any], call: int) -> float:
        if not settings:
            raise InvdiffError("dps diverged")
        return 9.0

    made = fake(error)
    path = write(tasks={"half": MASK}, methods={"dps": {"zeta": [2.0]}}, rungs=[2, 4])
    tuned = search(path, tmp_path / "run", perceptual=made.distance)
    assert tuned.rows[0].taken
    assert made.restored["{}"] == 1  # the other pictures are spared
    assert "| diverged |" in tuned.table()


def test_candidates_over_the_evaluations_are_left_out_and_defaults_are_not(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    said: list[str] = []
    path = write(
        tasks={"half": MASK},
        methods={"dps": {"steps": [6, 7, 8]}, "repaint": {"steps": [4], "jump": [1, 5], "repeats": [1, 3]}},
        evaluations=7,
        rungs=[1],
    )
    out = tmp_path / "run"
    tuned = search(path, out, say=said.append)
    assert {r["evaluations"] for r in log(out) if r["settings"] and r["method"] == "dps"} == {6, 7}
    assert {r["evaluations"] for r in log(out) if not r["settings"]} == {100, 225}
    assert said == tuned.notes
    assert "left out: dps steps 8: over 7 evaluations" in said
    assert "left out: repaint steps 4, jump 1, repeats 3: over 7 evaluations" in said  # 4 + 2·3 down
    assert any(line.startswith("dps on half: the defaults take 100") for line in said)
    assert [row.evaluations for row in tuned.rows] in ([(6, 100), (4, 225)], [(7, 100), (4, 225)])


# ----------------------------------------------------------------------------------------------------- stopping


class Killed(Exception):
    pass


@pytest.mark.parametrize(("after", "torn"), [(1, False), (6, True), (20, False)])
def test_a_search_that_was_killed_ends_as_one_that_was_not(
    write: Callable[..., Path], tmp_path: Path, after: int, torn: bool
) -> None:
    path, straight, stopped = write(), tmp_path / "straight", tmp_path / "stopped"
    whole = search(path, straight)
    count = 0

    def kill(step: Step) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise Killed

    with pytest.raises(Killed):
        search(path, stopped, callback=kill)
    assert len(log(stopped)) == after
    file = stopped / tuning.LOG
    if torn:  # within a line
        file.write_bytes(file.read_bytes()[:-30])
    fresh: list[bool] = []
    resumed = search(path, stopped, resume=True, callback=lambda step: fresh.append(step.fresh))
    assert timeless(resumed) == timeless(whole)
    assert fresh.count(False) == after - torn
    assert len(fresh) == len(log(straight))
    assert (stopped / tuning.BEST).read_bytes() == (straight / tuning.BEST).read_bytes()
    assert (stopped / tuning.RECIPE).read_bytes() == (straight / tuning.RECIPE).read_bytes()
    found = [line for line in file.read_text().splitlines() if line.endswith("}")]
    scores = [
        [(r["key"], r["psnr"], r["lpips"]) for r in rows] for rows in (map(json.loads, found), log(straight))
    ]
    assert scores[0] == scores[1]


def test_a_finished_search_restores_nothing_again_and_another_seed_everything(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path, out = write(), tmp_path / "run"
    whole = search(path, out)
    fresh: list[bool] = []
    again = search(path, out, resume=True, callback=lambda step: fresh.append(step.fresh))
    assert timeless(again) == timeless(whole)
    assert not any(fresh)
    prior = dataclasses.replace(GaussianPrior.white(), card=Card(name="gaussian", checksum="another"))
    for changed in ({"overrides": ["seed=1"]}, {"overrides": ["samples=1"]}, {"prior": prior}):
        fresh.clear()
        search(path, out, resume=True, callback=lambda step: fresh.append(step.fresh), **changed)
        assert all(fresh)
    steps: list[Step] = []
    search(path, out, resume=True, overrides=["rungs=[1,3,4]"], callback=steps.append)
    assert {step.record["picture"] for step in steps if step.fresh} == {
        3
    }  # one more picture, the others as before


def test_a_search_is_not_overwritten_and_none_is_resumed_that_is_not_there(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path, out = write(methods={"dps": {"zeta": [1.0, 2.0]}}, rungs=[1]), tmp_path / "run"
    with pytest.raises(RequestError, match="no search to resume"):
        search(path, out, resume=True)
    assert not out.exists()
    search(path, out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    with pytest.raises(RequestError, match="already holds"):
        search(path, out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    other = tmp_path / "mine"
    other.mkdir()
    (other / "best.yaml").write_text("mine")
    with pytest.raises(RequestError, match=r"already holds best\.yaml"):
        search(path, other)
    assert (other / "best.yaml").read_text() == "mine"


# -------------------------------------------------------------------------------------------------------- scores


def test_without_the_weights_of_lpips_psnr_is_the_score_and_it_is_said(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVDIFF_LPIPS_WEIGHTS", "")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path, out, said = write(methods={"dps": {"zeta": [0.0]}}, rungs=[1]), tmp_path / "run", []
    tuned = search(path, out, perceptual=None, say=said.append)
    assert tuned.score == "PSNR"
    assert sum("scored by PSNR instead of LPIPS (squeeze)" in line for line in said) == 1
    assert {record["lpips"] for record in log(out)} == {None}
    fresh: list[bool] = []
    again = search(path, out, resume=True, callback=lambda step: fresh.append(step.fresh))
    assert again.score == "LPIPS (squeeze)"
    assert all(fresh)  # what has no LPIPS is of no use to it


def test_both_counts_a_decibel_as_a_hundredth(write: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    tuned = search(
        write(methods={"dps": {"zeta": [0.5]}}, tasks={"half": MASK}, score="both", rungs=[2]), out
    )
    records = [record for record in log(out) if record["settings"]]
    expected = sum(record["lpips"] - record["psnr"] / 100 for record in records) / 2
    assert tuned.rows[0].score[0] == pytest.approx(expected, rel=1e-12)


def test_a_grey_prior_is_judged_on_grey_pictures(write: Callable[..., Path], tmp_path: Path) -> None:
    shapes: set[tuple[int, ...]] = set()

    def seen(image: Tensor, reference: Tensor) -> Tensor:
        shapes.add(tuple(image.shape))
        return distance(image, reference)

    path = write(data={"channels": 1}, methods={"dps": {"zeta": [0.5]}}, rungs=[1])
    search(path, tmp_path / "run", perceptual=seen)
    assert shapes == {(2, 3, 8, 8)}


# -------------------------------------------------------------------------------------------------- wrong requests


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": {"dps": {"zeta": [0.5, -1]}}}, "zeta"),
        ({"methods": {"dps": {"zeta": {"low": -1, "high": 1}}}}, "zeta"),
        ({"methods": {"dps": {"zeta": ["strong"]}}}, "'strong'"),
        ({"methods": {"mmps": {"iterations": [0]}}}, "iterations"),
        ({"methods": {"dps": {"steps": [2.5]}}}, "steps"),
        ({"device": "tpu"}, "tpu"),
        ({"data": {"train": ["nowhere"]}}, "nowhere"),
        ({"data": {"validation": 30}, "rungs": [1, 20]}, "leaves none of 12"),
        ({"data": {"crop": 500}, "tasks": {"half": MASK}}, "500"),
    ],
)
def test_what_cannot_be_is_named_before_any_weight_is_loaded_and_nothing_is_written(
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    said: str,
) -> None:
    def loaded(*args: Any, **named: Any) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr(module, "load_prior", loaded)
    monkeypatch.setattr(module, "Lpips", loaded)
    with pytest.raises(RequestError) as error:
        tune(write(**changes), tmp_path / "run")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": {"dpps": {"zeta": [1]}}}, "Did you mean 'dps'"),
        ({"methods": {"auto": {"zeta": [1]}}}, "unknown method 'auto'"),
        ({"methods": {"dps": {"zta": [1]}}}, "methods: dps.zta: unknown setting. Did you mean 'zeta'"),
        ({"methods": {"dps": {"zeta": []}}}, "dps.zeta: expected a list of values"),
        ({"methods": {"dps": {"zeta": 1}}}, "dps.zeta: expected a list of values"),
        ({"methods": {"dps": {"zeta": {"low": 1}}}}, "dps.zeta: high is missing"),
        ({"methods": {"dps": {"zeta": {"low": 2, "high": 1}}}}, "expected one below high"),
        ({"methods": {"dps": {"zeta": {"low": 0, "high": 1, "log": True}}}}, "above 0 for log"),
        ({"methods": {"dps": {}}}, "dps: expected settings"),
        ({"methods": {}}, "methods: expected at least one"),
        ({"tasks": {}}, "tasks: expected at least one"),
        ({"tasks": {"a": {"operator": "blr"}}}, "'blur'"),
        ({"tasks": {"a": {"noise": 0.1}}}, "tasks.a: operator is missing"),
        ({"tasks": {"a": "blur"}}, "tasks.a: expected keys"),
        ({"tasks": {"a": {"operator": "identity"}}}, "tasks.a: noise"),
        (
            {"tasks": {"a": {**MASK, "noise": 25}}},
            "tasks.a: noise: expected a standard deviation from 0 to 1",
        ),
        ({"tasks": {"a": {"operator": "my_op.py:My"}}}, "tasks.a: expected one of invdiff's own"),
        ({"tasks": {"a": {"operator": {"mask": {"pattern": "box", "height": 9}}}}}, "tasks.a: mask"),
        ({"methods": {"repaint": {"jump": [2]}}, "tasks": {"sr": SR}}, "'repaint' needs a mask"),
        ({"rungs": [3, 1]}, "rungs: expected rising"),
        ({"rungs": [1, 10]}, "rungs: expected at most data.validation, 9"),
        ({"eta": 1}, "eta"),
        ({"methods": {"sr3": {"steps": [10, 20]}}}, "methods: sr3: is for conditional priors"),
        ({"score": "ssim"}, "score"),
        ({"evaluations": 0}, "evaluations"),
        ({"margin": -1}, "margin"),
        ({"seed": -1}, "seed"),
        ({"data": {"train": []}}, "data.train: expected folders"),
        ({"data": {"crop": 0}}, "data.crop"),
    ],
)
def test_a_recipe_that_cannot_be_is_named_with_its_key(
    write: Callable[..., Path], changes: dict[str, Any], said: str
) -> None:
    path = write(**changes)
    with pytest.raises(RequestError) as error:
        tuning.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


def test_the_recipe_that_is_saved_is_the_recipe_with_its_overrides(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path, out = write(methods={"dps": {"zeta": [1.0]}}), tmp_path / "run"
    search(path, out, overrides=["seed=3", "rungs=[1]", "methods.dps.zeta=[0.5]"])
    assert (
        tuning.read(out / tuning.RECIPE).recipe
        == tuning.read(path, ["seed=3", "rungs=[1]", "methods.dps.zeta=[0.5]"]).recipe
    )
    assert {str(record["settings"]) for record in log(out)} == {"{}", "{'zeta': 0.5}"}


def test_the_recipe_for_natural_is_one(repository: Path) -> None:
    plan = tuning.read(repository / "experiments" / "tune" / "natural.yaml")
    any_prior = {name for name, kind in METHODS.items() if not kind.info.conditional}
    assert set(plan.spaces) == any_prior - {"ancestral", "ula", "mala"}
    assert plan.pairs["repaint"] == ["inpaint80", "box"]
    assert plan.recipe.evaluations == 100


# ------------------------------------------------------------------------------------------------------ candidates


def space(**axes: Any) -> tuning.Space:
    return tuning._space("repaint", axes)


def test_few_values_are_all_tried() -> None:
    found = tuning.candidates(space(jump=[2, 5], repeats=[1, 2, 2, 3]), 6, "seed")
    assert len(found) == 6
    assert {(one["jump"], one["repeats"]) for one in found} == {(j, r) for j in (2, 5) for r in (1, 2, 3)}


def test_of_many_values_each_part_of_every_range_is_visited_once() -> None:
    found = tuning.candidates(
        space(sigma_max={"low": 1, "high": 100, "log": True}, sigma_min={"low": 0, "high": 1}), 8, "seed"
    )
    assert sorted(int(8 * one["sigma_min"]) for one in found) == list(range(8))
    assert sorted(int(8 * math.log10(one["sigma_max"]) / 2) for one in found) == list(range(8))
    lows = [one["sigma_min"] for one in sorted(found, key=lambda one: one["sigma_max"])]
    assert lows != sorted(lows)


def test_candidates_are_different_and_fixed_by_the_seed() -> None:
    lists = space(steps=[10, 20, 30], jump=[2, 5, 10], repeats=[1, 2])
    found = tuning.candidates(lists, 12, "seed")
    assert len({repr(one) for one in found}) == 12
    assert found == tuning.candidates(lists, 12, "seed")
    assert found != tuning.candidates(lists, 12, "other")


def test_a_range_of_whole_numbers_gives_whole_numbers_and_no_more_than_there_are() -> None:
    found = tuning.candidates(space(steps={"low": 3, "high": 6}), 12, "seed", {"steps", "jump"})
    assert sorted(one["steps"] for one in found) == [3, 4, 5, 6]
    assert all(isinstance(one["steps"], int) for one in found)


def test_whole_settings_are_drawn_whole(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(methods={"mmps": {"steps": {"low": 2, "high": 5}}}, tasks={"half": MASK}, rungs=[1])
    search(path, tmp_path / "run")
    tried = [record["settings"]["steps"] for record in log(tmp_path / "run") if record["settings"]]
    assert sorted(tried) == [2, 3, 4, 5]
