"""The prior `mnist` and the classifier beside it: digits that are what they were asked to be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.catalog import PRIORS
from invdiff.priors import ClassifierGuided, NetworkPrior
from invdiff.priors.classifier import NoisyClassifier, load_classifier

WEIGHTS = Path(__file__).parents[1] / "experiments" / "weights"
SHAPE = (1, 32, 32)

pytestmark = pytest.mark.skipif(not PRIORS["mnist"].path.is_file(), reason=PRIORS["mnist"].missing())


@pytest.fixture(scope="module")
def classifier() -> NoisyClassifier:
    return load_classifier(WEIGHTS / "mnist_classifier.safetensors")


def agreed(classifier: NoisyClassifier, digits: Tensor, label: int) -> float:
    with torch.inference_mode():
        return (classifier(digits.clamp(0, 1), 0.01).argmax(dim=1) == label).float().mean().item()


def test_a_label_and_guidance_2_draw_that_digit(classifier: NoisyClassifier) -> None:
    sevens = invdiff.sample("mnist", SHAPE, label=7, guidance=2.0, steps=20, samples=40, batch=40).samples
    assert agreed(classifier, sevens, 7) >= 0.95
    anything = invdiff.sample("mnist", SHAPE, steps=20, samples=40, batch=40).samples
    assert agreed(classifier, anything, 7) < 0.4


def test_the_classifier_guides_the_prior_that_is_told_nothing(classifier: NoisyClassifier) -> None:
    prior = invdiff.load_prior("mnist")
    assert isinstance(prior, NetworkPrior)
    guided = ClassifierGuided(prior, classifier.log_prob(3), scale=3.0)
    threes = invdiff.sample(guided, SHAPE, steps=20, samples=20, batch=20).samples
    assert agreed(classifier, threes, 3) >= 0.75


def test_half_a_digit_is_filled_in_by_what_it_is_said_to_be(classifier: NoisyClassifier) -> None:
    """The lower half of a nine, told to be a nine or a four."""
    (nine,) = invdiff.sample("mnist", SHAPE, label=9, guidance=2.0, steps=20).samples
    keep = torch.ones(32, 32)
    keep[:16] = 0
    op = operators.Mask(keep, channels=1)
    for label in (9, 4):
        result = invdiff.restore(
            op.A(nine[None]), op, "mnist", label=label, guidance=2.0, steps=20, samples=8, batch=8
        )
        assert agreed(classifier, result.samples[:, 0], label) >= 0.7
