"""A recipe's numbers are in their range, or one line says which is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from invdiff import config
from invdiff.errors import RequestError
from invdiff.training import Recipe


def test_the_shipped_recipe_is_one(repository: Path) -> None:
    recipe = config.load(Recipe, repository / "experiments" / "train" / "natural.yaml")
    assert recipe.name == "natural"
    assert recipe.noise.sigma_max / 2 >= 10  # image units: every method can start from pure noise
    assert not [name for name in recipe.data.train if "eval" in name]


def test_a_recipe_is_rebuilt_from_what_a_run_saves_of_it(recipe: Callable[..., Path]) -> None:
    one = config.load(Recipe, recipe())
    assert config.build(Recipe, config.dump(one), "recipe.json") == one


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.crop=0", "data.crop: expected greater than or equal to 1, got 0"),
        ("data.crop=18", "data.crop: expected a multiple of 4, which this network needs, got 18"),
        ("data.validation=-1", "data.validation: expected greater than or equal to 0, got -1"),
        ("data.validation_crop=0", "data.validation_crop: expected greater than or equal to 1, got 0"),
        ("data.limit_mib=0", "data.limit_mib: expected greater than 0, got 0"),
        ("data.crp=16", "unknown key data.crp. Did you mean 'crop'?"),
        ("network.widths=[8]", "network.widths: expected one for each of blocks, got 1 and 2"),
        ("network.widths=[]", "network.widths: "),
        ("network.blocks=[0, 1]", "network.blocks.0: expected greater than or equal to 1, got 0"),
        ("network.fold=0", "network.fold: expected"),
        ("network.channels=2", "network.channels: expected 1 or 3, got 2"),
        ("network.kind=unt", "network.kind: expected 'unet', 'dit' or 'classifier', got 'unt'"),
        ("noise.sigma_min=90", "noise.sigma_min: expected less than sigma_max 80.0, got 90.0"),
        ("noise.uniform=1.5", "noise.uniform: expected less than or equal to 1, got 1.5"),
        ("noise.std=-1", "noise.std: expected"),
        ("noise.mean=.nan", "noise.mean: expected a finite number, got nan"),
        ("optimiser.learning_rate=0", "optimiser.learning_rate: expected greater than 0, got 0"),
        ("optimiser.learning_rate=-1e-3", "optimiser.learning_rate: expected greater than 0"),
        ("optimiser.learning_rate=.nan", "optimiser.learning_rate: expected a finite number"),
        ("optimiser.betas=[0.9, 1]", "optimiser.betas.1: expected less than 1, got 1"),
        ("optimiser.ema=1", "optimiser.ema: expected less than 1, got 1"),
        ("checkpoint.minutes=-1", "checkpoint.minutes: expected greater than or equal to 0, got -1"),
        ("checkpoint.part_mib=0", "checkpoint.part_mib: expected greater than 0, got 0"),
        ("validate_minutes=-5", "validate_minutes: expected greater than or equal to 0, got -5"),
        ("batch=0", "batch: expected greater than or equal to 1, got 0"),
        ("images=3", "images: expected at least one batch, 4, got 3"),
        ("seed=-1", "seed: expected greater than or equal to 0, got -1"),
        ("precision=float8", "precision: expected 'auto', 'float32' or 'bfloat16', got 'float8'"),
        ("name=''", "name: expected a name for the prior"),
        ("accumulate=3", "accumulate: expected a divisor of batch, 4, got 3"),
        ("label_dropout=2", "label_dropout: expected less than or equal to 1, got 2"),
        ("data.pad=-1", "data.pad: expected greater than or equal to 0, got -1"),
        (
            "network.patch=2",
            "network.patch: network.kind unet has no such thing; expected some of channels, widths",
        ),
        ("network.variance=true", "network.variance: learned by objective.kind ddpm alone, got edm"),
        ("task=classifier", "task: classifier cannot be done by network.kind unet; a classifier has task"),
        ("objective.kind=ddmp", "objective.kind: expected 'edm', 'ddpm', 'vp', 've' or 'flow', got 'ddmp'"),
        ("objective.prediction=v", "objective.prediction: edm has one of its own, F; leave it out, got v"),
        ("objective.weighting=minsnr", "objective.weighting: expected 'unit', "),
        (
            "objective={kind: ddpm, time: log_normal}",
            "objective.time: ddpm has discrete steps; expected uniform",
        ),
        ("objective.beta_start=0.5", "objective.beta_start, beta_end: expected beta_start ≤ beta_end < 1"),
        ("objective.clock=0", "objective.clock: expected greater than 0, got 0"),
    ],
)
def test_a_number_out_of_its_range_is_one_clear_line(
    recipe: Callable[..., Path], override: str, said: str
) -> None:
    with pytest.raises(RequestError) as caught:
        config.load(Recipe, recipe(), [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
