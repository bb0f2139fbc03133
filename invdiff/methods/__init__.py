"""Posterior samplers: what moves noise to a picture that agrees with the measurement."""

from .ancestral import Ancestral, Unconditional
from .base import Guided, Method, Problem
from .daps import DAPS
from .ddnm import DDNM
from .ddrm import DDRM
from .density import bits_per_dim, log_density
from .diffpir import DiffPIR
from .dps import DPS
from .ilvr import ILVR
from .integrators import INTEGRATORS, Integrator, integrator
from .langevin import MALA, ULA
from .loop import sample
from .mcg import MCG
from .mmps import MMPS
from .pigdm import PiGDM
from .red_diff import RedDiff
from .repaint import RePaint
from .score_ald import ScoreALD
from .smc import SMC
from .sr3 import SR3
from .tmpd import TMPD

METHODS: dict[str, type[Method]] = {
    "dps": DPS,
    "pigdm": PiGDM,
    "mmps": MMPS,
    "tmpd": TMPD,
    "ddrm": DDRM,
    "ddnm": DDNM,
    "diffpir": DiffPIR,
    "repaint": RePaint,
    "ilvr": ILVR,
    "mcg": MCG,
    "red_diff": RedDiff,
    "daps": DAPS,
    "score_ald": ScoreALD,
    "smc": SMC,
    "ula": ULA,
    "mala": MALA,
    "ancestral": Ancestral,
    "sr3": SR3,
}

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "ILVR",
    "INTEGRATORS",
    "MALA",
    "MCG",
    "METHODS",
    "MMPS",
    "SMC",
    "SR3",
    "TMPD",
    "ULA",
    "Ancestral",
    "DiffPIR",
    "Guided",
    "Integrator",
    "Method",
    "PiGDM",
    "Problem",
    "RePaint",
    "RedDiff",
    "ScoreALD",
    "Unconditional",
    "bits_per_dim",
    "integrator",
    "log_density",
    "sample",
]
