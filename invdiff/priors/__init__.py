"""Denoisers D(x, σ): the protocol and its card, networks, exact ones with their posteriors, and files."""

from .analytic import GaussianPrior, MixturePrior
from .base import Card, FunctionPrior, Prior
from .exact import Posterior, exact_posterior
from .files import load_prior, save_prior
from .guidance import ClassifierFree, ClassifierGuided
from .network import NetworkPrior
from .precondition import EDM, VE, VP, Flow, Precondition

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Card",
    "ClassifierFree",
    "ClassifierGuided",
    "Flow",
    "FunctionPrior",
    "GaussianPrior",
    "MixturePrior",
    "NetworkPrior",
    "Posterior",
    "Precondition",
    "Prior",
    "exact_posterior",
    "load_prior",
    "save_prior",
]
