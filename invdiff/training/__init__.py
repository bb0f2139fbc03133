"""Training a prior from a recipe."""

from .loop import train
from .recipe import Recipe

__all__ = ["Recipe", "train"]
