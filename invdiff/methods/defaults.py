"""The settings a method starts from, task by task: those that gave the best restorations we measured with `natural`.

Found with experiments/quality/tune.py; everything else is the method's own default.
"""

from __future__ import annotations

from typing import Any

from invdiff.operators import Blur, Downsample, Identity, Mask, Operator

AUTO = "mmps"
"""The method for every linear operator; pure denoising is `ancestral`, a nonlinear operator `dps`."""

DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "mmps": {"mask": {}, "blur": {}, "downsample": {}},
    "pigdm": {"mask": {}, "blur": {}, "downsample": {}},
    "dps": {"mask": {}, "blur": {}, "downsample": {}},
    "diffpir": {"mask": {"zeta": 1.0}, "blur": {}, "downsample": {}},
    "ddnm": {"mask": {}, "blur": {}, "downsample": {}},
    "repaint": {"mask": {}},
}


def defaults(method: str, operator: Operator) -> dict[str, Any]:
    """The table's entry for a method and the kind of operator; {} where there is none."""
    return DEFAULTS.get(method, {}).get(kind(operator), {})


def kind(operator: Operator) -> str:
    """mask, blur, downsample, identity, or other."""
    for name, cls in {"identity": Identity, "mask": Mask, "blur": Blur, "downsample": Downsample}.items():
        if isinstance(operator, cls):
            return name
    return "other"
