"""Measurements made on the fly: what a conditional network in training is shown of every picture.

A recipe's operator may leave values open ({uniform: [0.5, 3]}, ...): then each picture draws its own, from a stream
that (seed, step) and its place in the batch fix.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from invdiff import spec_files
from invdiff.errors import RequestError
from invdiff.operators import Operator
from invdiff.priors import base as priors
from invdiff.priors import conditional
from invdiff.training.data import stream
from invdiff.training.recipe import Condition

Draw = Callable[[list[Any], torch.Generator], Any]

KEPT = 64
"""Operators that are kept for the next time they are drawn."""


def _uniform(ends: list[Any], generator: torch.Generator) -> float:
    low, high = ends
    return float(low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64))


def _log_uniform(ends: list[Any], generator: torch.Generator) -> float:
    return math.exp(_uniform([math.log(end) for end in ends], generator))


def _integer(ends: list[Any], generator: torch.Generator) -> int:
    low, high = ends
    return int(torch.randint(low, high + 1, (), generator=generator))


def _choice(among: list[Any], generator: torch.Generator) -> Any:
    return among[int(torch.randint(len(among), (), generator=generator))]


DRAWS: dict[str, Draw] = {
    "uniform": _uniform,
    "log_uniform": _log_uniform,
    "integer": _integer,
    "choice": _choice,
}
"""What may stand for a value, as {name: arguments}: numbers between two ends, or one of several things."""


class Family:
    """The measurements of a recipe's `condition`, for pictures of one shape (C, H, W).

    RequestError, in the recipe's words, for an operator that cannot be, or cannot measure such pictures.
    """

    def __init__(self, condition: Condition, shape: tuple[int, int, int]) -> None:
        self.given, self.shape = condition, shape
        _check(condition.operator)
        self._open = _is_open(condition.operator)
        self._built: OrderedDict[str, Operator] = OrderedDict()
        nodes = {repr(node): node for end in (0, 1) for node in variants(condition.operator, end)}
        some = [self._operator(node) for node in nodes.values()]
        for operator in some:
            try:
                conditional.picture_of(operator, operator.A(torch.full((1, *shape), 0.5)))
            except RequestError as error:
                raise RequestError(f"condition.operator: {error}") from None
        self.condition = priors.Condition(
            tasks=tuple(dict.fromkeys(conditional.task_of(operator) for operator in some)),
            operators=condition.operator,
            noise=condition.sigmas[1],
            mask=any(conditional.hides(operator) for operator in some),
            augment=condition.augment,
            dropout=condition.dropout,
            residual=condition.residual,
        )

    @property
    def channels(self) -> int:
        """Of what is shown."""
        return self.condition.channels(self.shape[0])

    def shown(
        self,
        x0: Tensor,
        seed: int,
        step: int,
        size: int,
        part: slice = slice(None),
        *,
        untold: bool = True,
    ) -> Tensor:
        """(B, K, H, W), in [-1, 1], on x0's device: what the network is shown of pictures x0 (B, C, H, W).

        They are `part` of the step's batch of `size`. untold False: none of them is left out by the recipe's dropout.
        """
        given, generator = self.given, stream(seed, step, 8)
        seeds = torch.randint(2**62, (size,), generator=generator)[part].tolist()
        levels = torch.rand((size, 3), generator=generator)[part]
        low, high = given.sigmas
        sigma_y, augment = low + (high - low) * levels[:, 0], given.augment * levels[:, 1]
        nodes: dict[str, tuple[Any, list[int]]] = {}
        for row, own in enumerate(seeds):
            node = given.operator
            if self._open:
                node = drawn(node, torch.Generator().manual_seed(own))
            nodes.setdefault(repr(node), (node, []))[1].append(row)
        out = x0.new_empty(len(x0), self.channels, *self.shape[1:])
        for node, rows in nodes.values():
            operator = self._operator(node).to(x0.device, x0.dtype)
            y = operator.A(x0[rows])
            if high:
                y = y + sigma_y[rows].to(y).view(-1, *[1] * (y.ndim - 1)) * _noise(y, seeds, rows, 1)
            out[rows] = conditional.shown_of(self.condition, y, operator, augment[rows])
        if given.augment:
            pictures = out[:, : self.shape[0]]
            everything = list(range(len(x0)))
            pictures += 2 * augment.to(x0)[:, None, None, None] * _noise(pictures, seeds, everything, 2)
        if not (untold and given.dropout):
            return out
        left_out = (levels[:, 2] < given.dropout).to(x0.device)
        return torch.where(left_out[:, None, None, None], 0.0, out)

    def _operator(self, node: Any) -> Operator:
        key = repr(node)
        if key not in self._built:
            try:
                spec = spec_files.build(node, "condition.operator")
                spec.measured(self.shape)
                self._built[key] = spec.operator(self.shape)
            except (RequestError, ValueError) as error:
                text = str(error)
                where = "" if text.startswith("condition.operator") else "condition.operator: "
                raise RequestError(where + text) from None
        self._built.move_to_end(key)
        while len(self._built) > KEPT:
            self._built.popitem(last=False)
        return self._built[key]


def drawn(node: Any, generator: torch.Generator) -> Any:
    """The node with everything that was left open drawn, in the order in which it stands there."""
    if _is_draw(node):
        ((name, among),) = node.items()
        return drawn(DRAWS[name](among, generator), generator)
    if isinstance(node, dict):
        return {key: drawn(value, generator) for key, value in node.items()}
    return [drawn(value, generator) for value in node] if isinstance(node, list) else node


def variants(node: Any, end: int) -> Iterator[Any]:
    """All that a node may be as far as kinds go: each of its choices, and one end of its ranges, 0 the lower."""
    if _is_draw(node):
        ((name, among),) = node.items()
        for one in among if name == "choice" else [among[end]]:
            yield from variants(one, end)
    elif isinstance(node, dict):
        for values in product(*(list(variants(value, end)) for value in node.values())):
            yield dict(zip(node, values, strict=True))
    elif isinstance(node, list):
        yield from (list(values) for values in product(*(list(variants(value, end)) for value in node)))
    else:
        yield node


def _is_draw(node: Any) -> bool:
    return isinstance(node, dict) and len(node) == 1 and next(iter(node)) in DRAWS


def _is_open(node: Any) -> bool:
    """Whether anything in it is drawn."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return _is_draw(node) or any(_is_open(one) for one in inner)


def _check(node: Any) -> None:
    """RequestError for a draw that is none."""
    if isinstance(node, list):
        for value in node:
            _check(value)
    if not isinstance(node, dict):
        return
    if not _is_draw(node):
        for value in node.values():
            _check(value)
        return
    ((name, among),) = node.items()
    if name == "choice":
        if not isinstance(among, list) or not among:
            raise RequestError(f"condition.operator: choice: expected a list to choose from, got {among!r}")
        for value in among:
            _check(value)
        return
    kinds: Any = int if name == "integer" else (int, float)
    least = 0 if name == "log_uniform" else -math.inf
    numbers = isinstance(among, list) and all(
        isinstance(n, kinds) and not isinstance(n, bool) and math.isfinite(n) for n in among
    )
    if not numbers or len(among) != 2 or not least < among[0] <= among[1]:
        wanted = {"integer": "two whole numbers", "log_uniform": "two numbers above 0"}.get(
            name, "two numbers"
        )
        raise RequestError(f"condition.operator: {name}: expected {wanted}, the lower first, got {among!r}")


def _noise(like: Tensor, seeds: list[int], rows: list[int], purpose: int) -> Tensor:
    """Standard normal numbers for each row, by its own seed."""
    parts = [
        torch.randn(like.shape[1:], generator=torch.Generator().manual_seed((seeds[row] + purpose) % 2**63))
        for row in rows
    ]
    return torch.stack(parts).to(like)
