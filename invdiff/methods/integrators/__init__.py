"""Solvers of the reverse SDE and the probability-flow ODE: the engine under every rule that gives an x̂₀."""

from __future__ import annotations

import dataclasses
from functools import cache

from invdiff import config
from invdiff.errors import RequestError, unknown

from .annealed_langevin import AnnealedLangevin
from .base import Denoise, Integrator, Noise
from .ddim import DDIM, Ancestral, Renew
from .dpm_solver import DPMSolver
from .euler_maruyama import EulerMaruyama
from .heun import Euler, Heun
from .predictor_corrector import PredictorCorrector

INTEGRATORS: dict[str, type[Integrator]] = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "renew": Renew,
    "euler": Euler,
    "heun": Heun,
    "dpmpp_2m": DPMSolver,
    "euler_maruyama": EulerMaruyama,
    "predictor_corrector": PredictorCorrector,
    "annealed_langevin": AnnealedLangevin,
}


@cache
def integrator(spec: str) -> Integrator:
    """An integrator as it is written: heun, ddim:0.5 (its first setting), predictor_corrector:form=vp,corrections=2.

    RequestError for a name or a setting it has not, or a value out of range.
    """
    name, colon, rest = spec.partition(":")
    if name not in INTEGRATORS:
        raise unknown("integrator", name, INTEGRATORS)
    kind = INTEGRATORS[name]
    fields = [field.name for field in dataclasses.fields(kind)]
    settings: dict[str, str] = {}
    for part in rest.split(",") if colon else []:
        key, equals, value = (
            part.partition("=") if "=" in part or settings or not fields else (fields[0], "=", part)
        )
        if not equals or not value:
            raise RequestError(
                f"integrator {spec!r}: expected NAME, NAME:VALUE or NAME:SETTING=VALUE,...; settings of {name}: "
                f"{', '.join(fields) or 'none'}"
            )
        settings[key.strip()] = value.strip()
    return config.build(kind, settings, f"integrator {name}")


__all__ = [
    "DDIM",
    "INTEGRATORS",
    "Ancestral",
    "AnnealedLangevin",
    "DPMSolver",
    "Denoise",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Integrator",
    "Noise",
    "PredictorCorrector",
    "Renew",
    "integrator",
]
