"""What a conditional network in training is shown: drawn by (seed, step), of every kind of measurement."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from pages import blocks
from PIL import Image
from torch import Tensor

from invdiff import config
from invdiff.errors import RequestError
from invdiff.operators import Blur, Downsample, Mask, kernels, patterns
from invdiff.training import Recipe, degrade, loop, train
from invdiff.training.degrade import Family, drawn
from invdiff.training.recipe import Condition

SHAPE = (3, 16, 16)
MASKS: dict[str, Any] = {
    "mask": {"pattern": "random", "missing": {"uniform": [0.2, 0.8]}, "seed": {"integer": [0, 2**32 - 1]}}
}


def family(operator: Any, shape: tuple[int, int, int] = SHAPE, **more: Any) -> Family:
    return Family(config.build(Condition, {"operator": operator, **more}, "test"), shape)


def pictures(count: int = 6, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Soft ones, (count, *shape), in image units."""
    noise = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
    return F.avg_pool2d(noise, 3, stride=1, padding=1)


def many(node: Any, count: int = 400) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [drawn(node, generator) for _ in range(count)]


# ------------------------------------------------------------------------------------------------------- draws


def test_uniform_draws_fill_their_range_evenly() -> None:
    values = torch.tensor(many({"uniform": [0.5, 3]}))
    assert 0.5 <= values.min() < 0.55
    assert 2.95 < values.max() <= 3
    assert float(values.mean()) == pytest.approx(1.75, abs=0.1)
    assert many({"uniform": [2, 2]}, 3) == [2, 2, 2]


def test_log_uniform_draws_are_even_in_the_logarithm() -> None:
    values = torch.tensor(many({"log_uniform": [0.01, 10]}))
    assert 0.01 <= values.min() < 0.012
    assert 9 < values.max() <= 10.0001
    assert float(values.log().mean()) == pytest.approx((math.log(0.01) + math.log(10)) / 2, abs=0.3)


def test_integer_draws_have_both_ends_among_them() -> None:
    values = many({"integer": [3, 6]})
    assert {type(value) for value in values} == {int}
    assert set(values) == {3, 4, 5, 6}
    assert all(60 < values.count(n) < 140 for n in (3, 4, 5, 6))


def test_a_choice_may_be_of_numbers_words_and_whole_operators_which_draw_in_turn() -> None:
    assert set(many({"choice": [2, 4, "box"]})) == {2, 4, "box"}
    node = {"choice": [{"jpeg": {"quality": {"integer": [30, 31]}}}, {"downsample": {"factor": 2}}]}
    found = {repr(value) for value in many(node)}
    assert found == {
        "{'jpeg': {'quality': 30}}",
        "{'jpeg': {'quality': 31}}",
        "{'downsample': {'factor': 2}}",
    }


def test_draws_are_found_at_any_depth_and_the_rest_is_left_as_it_is() -> None:
    node = [{"blur": {"kernel": "gaussian", "std": {"uniform": [1, 2]}}}, {"downsample": {"factor": 2}}]
    blur, downsample = drawn(node, torch.Generator().manual_seed(0))
    assert blur["blur"]["kernel"] == "gaussian"
    assert 1 <= blur["blur"]["std"] <= 2
    assert downsample == {"downsample": {"factor": 2}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"uniform": [3, 1]}, "uniform: expected two numbers, the lower first, got [3, 1]"),
        ({"uniform": 3}, "uniform: expected two numbers, the lower first, got 3"),
        ({"uniform": [1, 2, 3]}, "uniform: expected two numbers"),
        ({"uniform": ["a", "b"]}, "uniform: expected two numbers"),
        ({"uniform": [1, math.inf]}, "uniform: expected two numbers"),
        ({"uniform": [False, True]}, "uniform: expected two numbers"),
        ({"log_uniform": [0, 1]}, "log_uniform: expected two numbers above 0, the lower first, got [0, 1]"),
        ({"integer": [0.5, 2]}, "integer: expected two whole numbers, the lower first, got [0.5, 2]"),
        ({"integer": [5, 2]}, "integer: expected two whole numbers"),
        ({"choice": []}, "choice: expected a list to choose from, got []"),
        ({"choice": 4}, "choice: expected a list to choose from, got 4"),
        ({"choice": [1, {"uniform": [2, 1]}]}, "uniform: expected two numbers"),
    ],
)
def test_a_draw_that_is_none_is_refused_in_the_recipes_words(given: Any, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        family({"blur": {"kernel": "gaussian", "std": given}})
    assert str(caught.value).startswith(f"condition.operator: {said}")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------- which measurement, for whom

EVERYTHING: dict[str, Any] = {"noise": [0.01, 0.1], "augment": 0.2, "dropout": 0.3}


def test_seed_and_step_fix_what_is_shown() -> None:
    one, x0 = family(MASKS, **EVERYTHING), pictures()
    shown = one.shown(x0, 3, 7, 6)
    assert torch.equal(shown, one.shown(x0, 3, 7, 6))
    assert torch.equal(shown, family(MASKS, **EVERYTHING).shown(x0, 3, 7, 6))
    torch.manual_seed(99)  # no global stream has a part in it
    assert torch.equal(shown, one.shown(x0, 3, 7, 6))
    assert not torch.equal(shown, one.shown(x0, 3, 8, 6))
    assert not torch.equal(shown, one.shown(x0, 4, 7, 6))


@pytest.mark.parametrize("part", [slice(0, 2), slice(2, 5), slice(5, 6), slice(1, 6, 2)])
def test_a_part_of_a_batch_is_shown_what_the_whole_batch_would_be(part: slice) -> None:
    one, x0 = family(MASKS, **EVERYTHING), pictures()
    assert torch.equal(one.shown(x0[part], 3, 7, 6, part), one.shown(x0, 3, 7, 6)[part])


def test_each_picture_has_an_operator_and_noise_of_its_own() -> None:
    same = pictures(1).expand(6, -1, -1, -1)
    masks = family(MASKS).shown(same, 0, 0, 6)[:, 3]
    assert len({mask.numpy().tobytes() for mask in masks}) == 6
    noisy = family("identity", noise=0.1).shown(same, 0, 0, 6) / 2 + 0.5 - same
    flat = noisy.flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(6)).abs().max() < 0.2
    assert float(flat.std()) == pytest.approx(0.1, rel=0.05)


def test_the_noise_is_independent_of_the_numbers_the_operator_was_drawn_by() -> None:
    """Each has a stream of its own: a picture's mask says nothing of its noise."""
    one, x0 = family("identity", noise=0.5, augment=0.5), torch.full((1, *SHAPE), 0.5)
    measured = family("identity", noise=0.5).shown(x0, 0, 0, 1)
    added = one.shown(x0, 0, 0, 1)[:, :3] - measured
    assert abs(float(torch.corrcoef(torch.stack([measured.flatten(), added.flatten()]))[0, 1])) < 0.15


def test_a_mask_without_a_seed_of_its_own_is_the_same_for_all() -> None:
    """As the page says: what is to be random is said so."""
    fixed = family({"mask": {"pattern": "random", "missing": 0.5}}).shown(pictures(), 0, 0, 6)[:, 3]
    assert torch.equal(fixed, fixed[:1].expand_as(fixed))


# --------------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_super_resolution_shows_the_enlarged_measurement(factor: int) -> None:
    x0 = pictures()
    shown = family({"downsample": {"factor": factor}}).shown(x0, 0, 0, 6)
    small = Downsample(factor, SHAPE).A(x0)
    large = F.interpolate(small, size=(16, 16), mode="bicubic")
    assert torch.allclose(shown, 2 * large - 1, atol=1e-6)


def test_inpainting_shows_grey_where_pixels_are_lost_and_says_which() -> None:
    x0, one = pictures(), family(MASKS)
    shown = one.shown(x0, 0, 0, 6)
    assert one.channels == shown.shape[1] == 4
    keep = shown[:, 3:] > 0
    assert torch.equal(shown[:, 3:], torch.where(keep, 1.0, -1.0))
    assert torch.equal(shown[:, :3], torch.where(keep, 2 * x0 - 1, torch.zeros(())))
    shares = keep.float().mean(dim=(1, 2, 3))
    assert ((shares > 0.15) & (shares < 0.85)).all()
    assert shares.std() > 0.05


def test_blur_shows_the_measurement_and_continues_what_it_lost_at_the_border() -> None:
    x0 = pictures()
    node = {"blur": {"kernel": "gaussian", "std": 1.0, "size": 5, "border": "valid"}}
    shown = family(node).shown(x0, 0, 0, 6)
    y = Blur(kernels.gaussian(1.0, size=5), SHAPE, border="valid").A(x0)
    assert torch.allclose(shown, 2 * F.pad(y, (2, 2, 2, 2), mode="replicate") - 1, atol=1e-6)


def test_jpeg_shows_the_compressed_picture() -> None:
    x0 = pictures()
    shown = family({"jpeg": {"quality": {"integer": [5, 95]}}}).shown(x0, 0, 0, 6)
    errors = (shown / 2 + 0.5 - x0).square().mean(dim=(1, 2, 3)).sqrt()
    assert ((errors > 1e-3) & (errors < 0.2)).all()
    assert errors.max() > 1.5 * errors.min()  # qualities differ


def test_colourisation_shows_the_grey_picture_in_every_channel() -> None:
    x0 = pictures()
    shown = family("grayscale").shown(x0, 0, 0, 6)
    luma = (x0 * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    assert torch.allclose(shown, 2 * luma.expand_as(x0) - 1, atol=2e-3)


def test_a_composition_shows_what_its_last_part_measured() -> None:
    x0 = pictures()
    node = [
        {"blur": {"kernel": "gaussian", "std": 1.0, "size": 5}},
        {"downsample": {"factor": 4}},
        "grayscale",
    ]
    one = family(node)
    shown = one.shown(x0, 0, 0, 6)
    assert shown.shape == x0.shape
    assert torch.equal(shown[:, 0], shown[:, 2])
    blurred = Blur(kernels.gaussian(1.0, size=5), SHAPE).A(x0)
    small = Downsample(4, SHAPE).A(blurred)
    luma = (small * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    large = F.interpolate(luma, size=(16, 16), mode="bicubic").expand_as(x0)
    assert torch.allclose(shown, 2 * large - 1, atol=4e-3)
    (task,) = one.condition.tasks
    assert task.startswith("deblurring, then super-resolution ×4")


def test_the_noise_level_is_drawn_between_its_ends_for_each_picture() -> None:
    grey = torch.full((200, 1, 16, 16), 0.5)
    shown = family("identity", (1, 16, 16), noise=[0.02, 0.1]).shown(grey, 0, 0, 200)
    levels = shown.flatten(1).std(dim=1) / 2
    assert 0.015 < levels.min() < 0.03
    assert 0.09 < levels.max() < 0.115
    assert float(levels.mean()) == pytest.approx(0.06, abs=0.005)


def test_augmentation_adds_noise_of_exactly_the_sigma_that_its_channel_tells() -> None:
    grey = torch.full((200, 1, 16, 16), 0.5)
    one = family({"downsample": {"factor": 2}}, (1, 16, 16), augment=0.3)
    shown = one.shown(grey, 0, 0, 200)
    assert one.channels == shown.shape[1] == 2
    told = shown[:, 1, 0, 0] / 2
    assert torch.equal(shown[:, 1], 2 * told[:, None, None].expand(-1, 16, 16))
    assert 0 <= told.min() < 0.01
    assert 0.29 < told.max() <= 0.3
    found = shown[:, 0].flatten(1).std(dim=1) / 2
    assert torch.allclose(found, told, rtol=0.2, atol=1e-6)
    assert float((found / told).mean()) == pytest.approx(1, abs=0.02)


def test_dropout_shows_nothing_as_often_as_the_recipe_says() -> None:
    x0 = pictures(400, (1, 8, 8))
    one = family("identity", (1, 8, 8), dropout=0.25, augment=0.1)
    shown = one.shown(x0, 0, 0, 400)
    nothing = (shown == 0).flatten(1).all(dim=1)
    assert float(nothing.float().mean()) == pytest.approx(0.25, abs=0.06)
    full = one.shown(x0, 0, 0, 400, untold=False)
    assert torch.equal(shown[~nothing], full[~nothing])
    assert (full.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_the_operators_kept_for_the_next_time_do_not_change_what_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x0, kept = pictures(), family(MASKS)
    expected = [kept.shown(x0, 0, step, 6) for step in range(3)]
    monkeypatch.setattr(degrade, "KEPT", 1)
    forgetful = family(MASKS)
    assert all(torch.equal(forgetful.shown(x0, 0, step, 6), expected[step]) for step in range(3))
    assert len(forgetful._built) == 1


# ------------------------------------------------------------------------------------------- what it is trained for


def test_the_tasks_of_all_choices_are_named_and_what_the_network_must_be_told_with_them() -> None:
    one = family(
        {"choice": [MASKS, {"downsample": {"factor": {"choice": [2, 4, 8]}}}, "grayscale"]},
        noise=[0.0, 0.05], augment=0.1, dropout=0.2, residual=True,
    )  # fmt: skip
    told = one.condition
    assert told.tasks == (
        "inpainting",
        "super-resolution ×2 (bicubic)",
        "super-resolution ×4 (bicubic)",
        "super-resolution ×8 (bicubic)",
        "colourisation",
    )
    assert (told.noise, told.mask, told.augment, told.dropout, told.residual) == (0.05, True, 0.1, 0.2, True)
    shown = one.shown(pictures(), 0, 0, 6, untold=False)
    assert shown.shape[1] == one.channels == 5
    assert set(shown[:, 3].flatten().tolist()) <= {-1.0, 1.0}  # all 1 where nothing is masked
    assert any((mask == 1).all() for mask in shown[:, 3])


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        ({"downsampel": {"factor": 2}}, "downsampel"),
        ({"downsample": {"factor": 1}}, "condition.operator: downsample: factor: expected a whole number from 2"),
        ({"downsample": {"factor": {"unifrom": [2, 4]}}}, "condition.operator: downsample: factor"),
        ({"downsample": {"factor": {"choice": [2, 32]}}}, "condition.operator: downsample: factor: expected a whole"),
        ({"mask": {"pattern": "box", "height": {"integer": [4, 40]}}}, "condition.operator: mask: box: height"),
        ({"mask": {"pattern": "box", "height": {"integer": [0, 4]}}}, "condition.operator: mask: height"),
        ({"jpeg": {"quality": {"integer": [50, 300]}}}, "condition.operator: jpeg: quality"),
        ([], "condition.operator: expected one operator"),
        ({"blur": {"kernel": "no_such.png"}}, "condition.operator"),
    ],
)  # fmt: skip
def test_an_operator_that_cannot_be_is_refused_in_the_recipes_words_before_any_picture_is_read(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operator: Any, said: str
) -> None:
    monkeypatch.setattr(loop, "load_pictures", lambda *a, **k: pytest.fail("read the pictures first"))
    with pytest.raises(RequestError) as caught:
        train(recipe(condition={"operator": operator}), tmp_path / "run")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_operator_for_another_size_than_the_held_out_pictures_is_refused_before_any_picture_is_read(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holes = np.zeros((16, 16), np.uint8)
    holes[4:8, 4:8] = 255
    Image.fromarray(holes).save(tmp_path / "mask.png")
    monkeypatch.setattr(loop, "load_pictures", lambda *a, **k: pytest.fail("read the pictures first"))
    path = recipe(condition={"operator": {"mask": {"file": str(tmp_path / "mask.png")}}})
    with pytest.raises(RequestError, match=r"mask is 16×16, the picture 24×24; .*\(data.validation_crop\)"):
        train(path, tmp_path / "run")


def test_what_is_shown_of_masks_is_their_own_picture() -> None:
    """`picture_of` of the operator that was drawn, and of no other."""
    one, x0 = family(MASKS), pictures()
    seeds = torch.randint(2**62, (6,), generator=degrade.stream(5, 9, 8)).tolist()
    for row, seed in enumerate(seeds):
        node = drawn(MASKS, torch.Generator().manual_seed(seed))["mask"]
        keep = patterns.random((16, 16), missing=node["missing"], seed=node["seed"])
        y = Mask(keep, 3).A(x0[row : row + 1])
        expected = torch.where(keep.bool(), 2 * y - 1, torch.zeros(()))
        assert torch.equal(one.shown(x0, 5, 9, 6)[row, :3], expected[0])


def test_a_recipe_with_a_condition_is_rebuilt_from_what_a_run_saves_of_it(
    recipe: Callable[..., Path],
) -> None:
    one = config.load(Recipe, recipe(condition={"operator": MASKS, "noise": [0.0, 0.1]}))
    assert one.condition is not None
    assert one.condition.sigmas == (0.0, 0.1)
    assert config.build(Recipe, config.dump(one), "recipe.json") == one


def test_every_recipe_on_the_page_is_one_and_every_key_is_there(
    repository: Path, recipe: Callable[..., Path]
) -> None:
    page = (repository / "docs" / "training.md").read_text(encoding="utf-8")
    base = yaml.safe_load(recipe().read_text())
    base["data"]["crop"], tasks = 64, []
    for block in blocks(page, "yaml"):
        one = config.build(Recipe, {**base, **yaml.safe_load(block)}, "docs/training.md")
        assert one.condition is not None
        told = Family(one.condition, (3, 64, 64))
        assert told.shown(pictures(2, (3, 64, 64)), 0, 0, 2).isfinite().all()
        tasks += told.condition.tasks
    assert {"inpainting", "colourisation", "super-resolution ×4 (bicubic)"} < set(tasks)
    for key in dataclasses.fields(Condition):
        assert f"| `{key.name}` |" in page
    assert [name for name in degrade.DRAWS if f"`{{{name}: [" not in page] == []
