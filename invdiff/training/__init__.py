"""Training a prior from a recipe."""

from .loop import Stopped, train
from .recipe import Recipe

__all__ = ["Recipe", "Stopped", "train"]
