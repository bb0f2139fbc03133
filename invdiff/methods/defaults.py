"""The settings a method starts from, task by task: those that gave the best restorations we measured with `natural`.

Found by `invdiff tune experiments/tune/natural.yaml`: by LPIPS of one sample, on held-out 64² crops; a setting is taken
only where it beats what stood here before by a standard error. clip, quantize, jpeg, mcg and daps were tried by hand on
a crop or two; smc has the τ of pigdm.
"""

from __future__ import annotations

from typing import Any

from invdiff import catalog
from invdiff.operators import (
    JPEG,
    Blur,
    BlurDownsample,
    Clip,
    Composed,
    Downsample,
    Identity,
    LinearOperator,
    Mask,
    Operator,
    ProximalOperator,
    Quantize,
    Scaled,
    SpectralOperator,
)

AUTO = "mmps"
"""The method for every linear operator; denoising is `ancestral`; not linear: `diffpir` if it has a prox, or `dps`."""


def holes(steps: int) -> dict[str, int]:
    """What auto adds for masks: travel, which makes what is filled in agree with what is there; more of it where there
    is time. Fewer steps than a stretch leave no room for it."""
    return {"jump": 5, "repeats": 2 if steps < 50 else 3} if steps > 5 else {}


KINDS: dict[str, type[Operator] | tuple[type[Operator], ...]] = {
    "identity": Identity,
    "mask": Mask,
    "blur": (Blur, BlurDownsample),
    "downsample": Downsample,
    "clip": Clip,
    "quantize": Quantize,
    "jpeg": JPEG,
}

DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "mmps": {"blur": {"iterations": 3, "plain_below": 0.05}, "downsample": {"plain_below": 0.02}},
    "pigdm": {
        "mask": {"sigma_max": 3.0, "tau": 1.26},
        "blur": {"tau": 0.579},
        "downsample": {"sigma_max": 1.0, "tau": 2.78},
    },
    "tmpd": {
        "blur": {"sigma_max": 3.0},
        "downsample": {"steps": 20, "sigma_max": 1.0},
        "identity": {"sigma_max": 0.5},
    },
    "ddrm": {
        "mask": {"steps": 50, "sigma_max": 3.0, "eta": 1.0, "eta_b": 0.8},
        "identity": {"eta": 0.5},
    },
    "ddnm": {
        "mask": {"sigma_max": 3.0, "eta": 1.0},
        "blur": {"steps": 20},
        "downsample": {"steps": 50, "sigma_max": 1.0},
    },
    "diffpir": {
        "mask": {"steps": 50, "sigma_max": 1.0, "weight": 0.603, "zeta": 1.0},
        "blur": {"zeta": 1.0, "steps": 20},
        "downsample": {"zeta": 0.5, "steps": 50},
        "identity": {"steps": 50, "sigma_max": 1.0, "weight": 5.89, "zeta": 0.7},
        "clip": {"zeta": 1.0, "sigma_max": 1.0},
        "quantize": {"zeta": 1.0},
        "jpeg": {"zeta": 1.0, "sigma_max": 1.0},
    },
    "repaint": {"mask": {"steps": 60}},
    "score_ald": {
        kind: {"integrator": "ancestral", "steps": 100, "sigma_max": 1.0, "gamma": 0.25}
        for kind in ("mask", "blur", "downsample", "identity")
    },
    "red_diff": {kind: {"sigma_max": 1.0, "weight": 0.311} for kind in ("mask", "blur", "downsample")},
    "daps": {"identity": {"rate": 3e-4}},
    "mcg": {"blur": {"zeta": 0.03}, "identity": {"zeta": 0.03}},
    "smc": {"mask": {"tau": 1.26}, "blur": {"tau": 0.579}, "downsample": {"tau": 2.78}},
    "dps": {
        "mask": {"zeta": 1.0},
        "blur": {"zeta": 0.426},
        "downsample": {"zeta": 1.0},
        "identity": {"zeta": 0.172},
    },
}


def defaults(method: str, operator: Operator) -> dict[str, Any]:
    """The table's entry for a method and the kind of operator; {} where there is none."""
    return DEFAULTS.get(method, {}).get(kind(operator), {})


def kind(operator: Operator) -> str:
    """A key of KINDS, or other. A multiple is of its part's kind, and what is blurred on the way is a blur."""
    if isinstance(operator, Scaled):
        return kind(operator.part)
    if isinstance(operator, Composed) and "blur" in (kind(operator.outer), kind(operator.inner)):
        return "blur"
    return next((name for name, cls in KINDS.items() if isinstance(operator, cls)), "other")


def abilities(op: Operator) -> frozenset[catalog.Ability]:
    """What a method may ask of this operator."""
    if isinstance(op, Identity):
        return catalog.IDENTITY
    if isinstance(op, Mask):
        return catalog.MASK
    if isinstance(op, SpectralOperator):
        return catalog.SPECTRAL
    if isinstance(op, LinearOperator):
        return catalog.LINEAR
    return catalog.PROXIMAL if isinstance(op, ProximalOperator) else catalog.ANY
