"""Denoisers D(x, σ): the protocol and its card, networks, exact ones with their posteriors, and files."""

from .analytic import GaussianPrior, MixturePrior
from .base import Card, FunctionPrior, Prior
from .exact import Posterior, exact_posterior
from .files import load_prior, save_prior
from .guidance import ClassifierFree, ClassifierGuided
from .network import NetworkPrior
from .precondition import EDM

__all__ = [
    "EDM",
    "Card",
    "ClassifierFree",
    "ClassifierGuided",
    "FunctionPrior",
    "GaussianPrior",
    "MixturePrior",
    "NetworkPrior",
    "Posterior",
    "Prior",
    "exact_posterior",
    "load_prior",
    "save_prior",
]
