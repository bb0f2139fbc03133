"""Denoisers D(x, σ): the protocol and its card, networks, exact ones with their posteriors, and files."""

from .analytic import GaussianPrior, MixturePrior
from .base import Card, Condition, FunctionPrior, Prior
from .cascade import Cascade
from .classifier import NoisyClassifier, load_classifier, save_classifier
from .conditional import ConditionalNetwork, ConditionalPrior
from .exact import ExactConditional, Posterior, exact_posterior
from .files import load_prior, save_prior
from .fit import fitted
from .guidance import ClassifierFree, ClassifierGuided, with_label
from .network import NetworkPrior
from .precondition import EDM, VE, VP, Flow, Precondition
from .tiled import Cropped, Tiled

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Card",
    "Cascade",
    "ClassifierFree",
    "ClassifierGuided",
    "Condition",
    "ConditionalNetwork",
    "ConditionalPrior",
    "Cropped",
    "ExactConditional",
    "Flow",
    "FunctionPrior",
    "GaussianPrior",
    "MixturePrior",
    "NetworkPrior",
    "NoisyClassifier",
    "Posterior",
    "Precondition",
    "Prior",
    "Tiled",
    "exact_posterior",
    "fitted",
    "load_classifier",
    "load_prior",
    "save_classifier",
    "save_prior",
    "with_label",
]
