"""The check that authors run: silent for ours, one line for each broken promise."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from invdiff import operators
from invdiff.operators import LinearOperator, Operator, ProximalOperator

SHAPE = (3, 6, 5)


@pytest.mark.parametrize(
    "op",
    [
        operators.Blur(operators.kernels.motion(3), SHAPE, "reflect"),
        operators.Downsample(2, SHAPE),
        2 * operators.Identity(SHAPE),
    ],
    ids=repr,
)
def test_ours_pass(op: Operator) -> None:
    operators.check(op)


@dataclass(frozen=True, eq=False, repr=False)
class Faulty(LinearOperator):
    """The identity, but for one fault."""

    fault: str = ""
    in_shape = out_shape = SHAPE

    def A(self, x: Tensor) -> Tensor:
        match self.fault:
            case "shape":
                return x[..., :-1]
            case "dtype":
                return x.float()
            case "nan":
                return x / (x > 0.5)
            case "batch":
                return x - x.mean(0, keepdim=True)
            case "affine":
                return x + 1
            case "in place":
                return x.mul_(0.5)
            case "detached":
                return x.detach()
            case "list":
                return [x]  # type: ignore[return-value]
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        if self.fault == "adjoint in place":
            y += 1
        return y.flip(-1) if self.fault == "adjoint" else y[:, :1] if self.fault == "back" else y

    def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
        return z if self.fault == "prox" else super().prox(z, y, weight)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", r"A: expected shape \(2, 3, 6, 5\), got \(2, 3, 6, 4\)"),
        ("dtype", "A: expected the dtype it was given"),
        ("nan", "A: expected finite numbers"),
        ("batch", "A of a picture alone, and in a batch"),
        ("in place", "A: changes what it is given"),
        ("detached", "A: cannot be differentiated"),
        ("adjoint in place", "A_adjoint: changes what it is given"),
        ("affine", r"A\(2x \+ z\)"),
        ("list", "A: expected a tensor, got list"),
        ("adjoint", "A_adjoint is not the adjoint of A"),
        ("back", r"A_adjoint: expected shape"),
        ("prox", r"prox\(x, y\) − x"),
    ],
)
def test_a_broken_promise_is_named_in_one_line(fault: str, message: str) -> None:
    operators.check(Faulty())
    with pytest.raises(ValueError, match=message) as caught:
        operators.check(Faulty(fault))
    assert "\n" not in str(caught.value)


def test_what_is_no_operator_or_has_no_shapes_is_refused() -> None:
    class Shapeless(Operator):
        def A(self, x: Tensor) -> Tensor:
            return x

        def describe(self) -> str:
            return "Shapeless"

    class Flat(ProximalOperator):
        in_shape = out_shape = SHAPE

        def A(self, x: Tensor) -> Tensor:
            return x.clamp(0, 1)

        def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
            return z[:1]

    class Wrong(Flat):
        def prox(self, z: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
            return torch.zeros_like(z)

    with pytest.raises(ValueError, match="prox: expected the least"):
        operators.check(Wrong())
    operators.check(operators.per_image([operators.Identity(SHAPE), Faulty()]))
    with pytest.raises(ValueError, match=r"expected an invdiff\.operators\.Operator, got Identity"):
        operators.check(torch.nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Shapeless: expected in_shape"):
        operators.check(Shapeless())
    with pytest.raises(ValueError, match="prox: expected shape"):
        operators.check(Flat())
