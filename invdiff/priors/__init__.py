"""Denoisers D(x, σ): the protocol and its card, networks, exact ones, and files."""

from .analytic import GaussianPrior
from .base import Card, FunctionPrior, Prior
from .files import load_prior, save_prior
from .network import NetworkPrior
from .precondition import EDM

__all__ = [
    "EDM",
    "Card",
    "FunctionPrior",
    "GaussianPrior",
    "NetworkPrior",
    "Prior",
    "load_prior",
    "save_prior",
]
