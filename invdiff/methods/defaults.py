"""The settings a method starts from, task by task: those that gave the best restorations we measured with `natural`.

Found with experiments/quality/tune.py, one value at a time, on two held-out 128² crops; where PSNR and LPIPS disagree
LPIPS decided. Everything else is the method's own default.
"""

from __future__ import annotations

from typing import Any

from invdiff.operators import (
    JPEG,
    Blur,
    BlurDownsample,
    Clip,
    Composed,
    Downsample,
    Identity,
    Mask,
    Operator,
    Quantize,
    Scaled,
)

AUTO = "mmps"
"""The method for every linear operator; denoising is `ancestral`; not linear: `diffpir` if it has a prox, or `dps`."""

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
    "mmps": {"blur": {"iterations": 3}},
    "pigdm": {"blur": {"tau": 0.5}, "downsample": {"tau": 0.5}},
    "dps": {"mask": {"zeta": 1.0}, "blur": {"zeta": 1.0}, "downsample": {"zeta": 1.0}},
    "diffpir": {
        "mask": {"zeta": 1.0, "steps": 50},
        "blur": {"zeta": 1.0, "steps": 20},
        "downsample": {"zeta": 0.5, "steps": 50},
        "clip": {"zeta": 1.0, "sigma_max": 1.0},
        "quantize": {"zeta": 1.0},
        "jpeg": {"zeta": 1.0, "sigma_max": 1.0},
    },
    "ddnm": {
        "mask": {"steps": 50, "sigma_max": 1.0},
        "blur": {"steps": 20},
        "downsample": {"steps": 50, "sigma_max": 1.0},
    },
    "repaint": {"mask": {"steps": 60}},
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
