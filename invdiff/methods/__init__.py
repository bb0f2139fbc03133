"""Posterior samplers: what moves noise to a picture that agrees with the measurement."""

from .ancestral import Ancestral
from .base import Method, Problem
from .ddnm import DDNM
from .diffpir import DiffPIR
from .dps import DPS
from .loop import sample
from .mmps import MMPS
from .pigdm import PiGDM
from .repaint import RePaint

METHODS: dict[str, type[Method]] = {
    "dps": DPS,
    "pigdm": PiGDM,
    "mmps": MMPS,
    "ddnm": DDNM,
    "diffpir": DiffPIR,
    "repaint": RePaint,
    "ancestral": Ancestral,
}

__all__ = [
    "DDNM",
    "DPS",
    "METHODS",
    "MMPS",
    "Ancestral",
    "DiffPIR",
    "Method",
    "PiGDM",
    "Problem",
    "RePaint",
    "sample",
]
