"""Operators from YAML: one with its keys, a list of them in the order in which light meets them, a stack.

    operator: [{blur: {kernel: gaussian, std: 3.0}}, {downsample: {factor: 4}}]
    shape: [3, 256, 256]       # the picture's, where the measurement does not tell
    noise: {poisson: {peak: 50}}

`{stack: [...]}` is several measurements of one picture, and `{scale: 2.0}`, in a list, a multiple.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_origin, get_type_hints

from . import config, plugins
from .catalog import OPERATOR_TASKS, one_after_another, together
from .errors import RequestError, unknown
from .specs import ABILITIES, SPECS, Fold, Identity, Kind, Measured, Shape, Size, Spec, Trait, shape_needed
from .words import dims

if TYPE_CHECKING:
    from torch import Tensor

    from .operators import Operator

SUFFIXES = (".yaml", ".yml")
BUILT_IN = (*SPECS, "stack", "scale")
"""Names that no operator of another package can have."""


@dataclass(frozen=True, kw_only=True)
class Scale(Spec):
    """A multiple of what comes before it in a list."""

    name = "scale"
    own_kind = "spectral"

    by: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.by) or self.by == 0:
            raise ValueError(f"expected a finite number other than 0, got {self.by:g}")

    @property
    def basis(self) -> str:
        return "pixels"

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        return operators.scaled(operators.Identity(shape), self.by)

    def task(self, shape: Shape | None = None) -> str:
        return OPERATOR_TASKS["identity"]

    def dump(self) -> Any:
        return {self.name: self.by}


@dataclass(frozen=True, kw_only=True)
class Composition(Spec):
    """One part after the other, in the order in which light meets them."""

    name = "a list of operators"

    parts: tuple[Spec, ...]

    def __post_init__(self) -> None:
        others = [part for part in self.parts if not isinstance(part, Scale)]
        for part, after in pairwise(others):
            if "numbers" in part.traits:
                raise RequestError(
                    f"{after.name}: what {part.name} measures is no picture, so that only scale may follow it"
                )

    @property
    def traits(self) -> frozenset[Trait]:
        return frozenset().union(*(part.traits for part in self.parts))

    @property
    def kind(self) -> Kind:
        """As `operators.composed` and `operators.scaled` have it."""
        kind: Kind = "identity"
        multiple = 1.0
        for part in self.parts:
            if isinstance(part, Scale):
                multiple *= part.by
            elif kind == "identity" and (multiple == 1 or "linear" in ABILITIES[part.kind]):
                kind = part.kind
            elif part.kind == "identity":
                continue
            elif "linear" not in ABILITIES[kind] or "linear" not in ABILITIES[part.kind]:
                kind, multiple = "any", 1.0
            elif {kind, part.kind} == {"mask", "diagonal"}:
                kind = "diagonal"
            elif kind != part.kind or kind not in ("mask", "diagonal", "circular", "separable"):
                kind = "linear"
        return "spectral" if multiple != 1 and kind in ("identity", "mask") else kind

    @property
    def basis(self) -> str | None:
        bases = {part.basis for part in self.parts if not isinstance(part, Scale | Identity)}
        if len(bases) == 1 and "spectral" in ABILITIES[self.kind]:
            return bases.pop()
        return None if bases else "pixels"

    @property
    def overhang(self) -> Size:
        if not self.pictorial():
            return 0, 0
        height, width, factor = 0, 0, 1
        for part in self.parts:
            height, width = height + factor * part.overhang[0], width + factor * part.overhang[1]
            factor *= part.reduction
        return height, width

    @property
    def reduction(self) -> int:
        return math.prod(part.reduction for part in self.parts)

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        whole: Operator = operators.Identity(shape)
        for part, at in self._walk(shape):
            if isinstance(part, Scale):
                whole = operators.scaled(whole, part.by)
            else:
                whole = operators.composed(part.operator(_picture(at, part)), whole)
        return whole

    def task(self, shape: Shape | None = None) -> str | None:
        steps: list[tuple[Spec, Shape | None]] = [(part, None) for part in self.parts]
        if shape is not None:
            steps = [(p, None if isinstance(p, Scale) else _picture(at, p)) for p, at in self._walk(shape)]
        tasks = [part.task(at) for part, at in steps]
        return None if None in tasks else one_after_another(task for task in tasks if task)

    def measured(self, shape: Shape) -> Measured:
        part, at = self._walk(shape)[-1]
        return _after(part, at)

    def unknown(self, measured: Measured) -> Shape:
        at = measured
        for part in reversed(self.parts):
            at = at if isinstance(part, Scale) else part.unknown(at)
        return super().unknown(at)

    def pictorial(self, shape: Shape | None = None) -> bool:
        if shape is None:
            return super().pictorial()
        steps = [(part, at) for part, at in self._walk(shape) if not isinstance(part, Scale)]
        return all(part.pictorial(_picture(at, part)) for part, at in steps)

    def settled(self, y: Tensor, shape: Shape, noisy: bool) -> Tensor:
        part, at = self._walk(shape)[-1]
        return y if isinstance(part, Scale) else part.settled(y, _picture(at, part), noisy)

    def folded(self, y: Tensor, shape: Shape, fold: Fold) -> Tensor:
        steps = [(part, at) for part, at in self._walk(shape) if not isinstance(part, Scale)]
        if not steps:
            return super().folded(y, shape, fold)
        part, at = steps[-1]
        return part.folded(y, _picture(at, part), fold)

    def repeated(self) -> Spec:
        return replace(self, parts=tuple(part.repeated() for part in self.parts))

    def notes(self, shape: Shape) -> tuple[str, ...]:
        steps = [(part, at) for part, at in self._walk(shape) if not isinstance(part, Scale)]
        return tuple(note for part, at in steps for note in part.notes(_picture(at, part)))

    def at(self, folder: Path) -> Self:
        return replace(self, parts=tuple(part.at(folder) for part in self.parts))

    def dump(self) -> Any:
        return [part.dump() for part in self.parts]

    def describe(self) -> Any:
        return [part.describe() for part in self.parts]

    def _walk(self, shape: Shape) -> list[tuple[Spec, Measured]]:
        """Each part with the shape of what reaches it."""
        found: list[tuple[Spec, Measured]] = []
        at: Measured = shape
        for part in self.parts:
            found.append((part, at))
            at = _after(part, at)
        return found


def _after(part: Spec, at: Measured) -> Measured:
    return at if isinstance(part, Scale) else part.measured(_picture(at, part))


def _picture(at: Measured, part: Spec) -> Shape:
    if len(at) != 3:
        raise RequestError(
            f"{part.name}: expected a picture (C, H, W) to measure, got shape {dims(at)} from what comes before it; "
            "only scale may follow that"
        )
    return at[0], at[1], at[2]


@dataclass(frozen=True, kw_only=True)
class Stack(Spec):
    """Several measurements of one picture, one after the other in a flat y."""

    name = "stack"

    parts: tuple[Spec, ...]

    @property
    def traits(self) -> frozenset[Trait]:
        numbers: frozenset[Trait] = frozenset({"numbers"})
        return numbers.union(*(part.traits for part in self.parts))

    @property
    def kind(self) -> Kind:
        """As `operators.stacked` has it."""
        if self.basis is not None:
            return "spectral"
        return "linear" if all("linear" in ABILITIES[part.kind] for part in self.parts) else "any"

    @property
    def basis(self) -> str | None:
        bases = {part.basis for part in self.parts}
        return bases.pop() if len(bases) == 1 else None

    def operator(self, shape: Shape) -> Operator:
        from . import operators

        self._sizes(shape)
        return operators.stacked([part.operator(shape) for part in self.parts])

    def task(self, shape: Shape | None = None) -> str | None:
        tasks = [part.task(shape) for part in self.parts]
        return None if None in tasks else together(task for task in tasks if task)

    def measured(self, shape: Shape) -> Measured:
        return (sum(math.prod(size) for size in self._sizes(shape)),)

    def unknown(self, measured: Measured) -> Shape:
        raise shape_needed(self.name)

    def folded(self, y: Tensor, shape: Shape, fold: Fold) -> Tensor:
        import torch

        sizes = self._sizes(shape)
        pieces = y.split([math.prod(size) for size in sizes], dim=1)
        folded = [
            part.folded(piece.reshape(1, *size), shape, fold).flatten(1)
            for part, piece, size in zip(self.parts, pieces, sizes, strict=True)
        ]
        return torch.cat(folded, dim=1)

    def repeated(self) -> Spec:
        return replace(self, parts=tuple(part.repeated() for part in self.parts))

    def notes(self, shape: Shape) -> tuple[str, ...]:
        return tuple(note for part in self.parts for note in part.notes(shape))

    def at(self, folder: Path) -> Self:
        return replace(self, parts=tuple(part.at(folder) for part in self.parts))

    def dump(self) -> Any:
        return {self.name: [part.dump() for part in self.parts]}

    def describe(self) -> Any:
        return {self.name: [part.describe() for part in self.parts]}

    def _sizes(self, shape: Shape) -> list[Measured]:
        """The shapes of the parts' measurements; the error of one that cannot measure such a picture names it."""
        found = []
        for number, part in enumerate(self.parts, start=1):
            try:
                found.append(part.measured(shape))
            except RequestError as error:
                raise RequestError(f"stack: part {number} ({part.name}): {error}") from None
        return found


# ---------------------------------------------------------------------------------------------------- from YAML


@dataclass(frozen=True, kw_only=True)
class SpecFile:
    """A spec file's keys. shape: the picture's, (C, H, W); noise: as --noise has it."""

    operator: Any
    shape: tuple[int, int, int] | None = None
    noise: Any = None

    def __post_init__(self) -> None:
        if self.shape is not None and min(self.shape) < 1:
            raise ValueError(f"shape: expected [C, H, W], each at least 1, got {list(self.shape)}")


def read_operator(given: str) -> tuple[Spec, SpecFile]:
    """--operator: FILE.yaml, YAML in brackets, my_op.py:MyOp, or a name. RequestError for what is none of these.

    No code of the user's is run here: that begins when a picture's shape is known.
    """
    text, folder = given.strip(), Path()
    if text.startswith(("{", "[")):
        where, file = "--operator", _inline(text)
    elif Path(text).suffix.lower() in SUFFIXES:
        where, file, folder = text, config.load(SpecFile, text), Path(text).parent
    else:
        where, file = "--operator", SpecFile(operator=text)
    return build(file.operator, where).at(folder), file


def _inline(text: str) -> SpecFile:
    import yaml

    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RequestError(f"--operator: not valid YAML ({reason}); put it in quotes, as one word") from None
    if isinstance(data, dict) and "operator" in data:
        return config.build(SpecFile, data, "--operator")
    return SpecFile(operator=data)


def build(node: Any, where: str) -> Spec:
    """A spec from YAML's plain keys and values; `where` begins every error."""
    if isinstance(node, str) and node:
        node = {node: {}}
    if isinstance(node, list) and node:
        return Composition(parts=tuple(build(part, where) for part in node))
    if not isinstance(node, dict) or len(node) != 1:
        keys = f"the keys {', '.join(map(str, node))}" if isinstance(node, dict) else repr(node)
        got = keys if node or node == 0 else "nothing"
        raise RequestError(
            f"{where}: expected one operator with its keys, as in {{blur: {{kernel: gaussian, std: 3.0}}}}, or a "
            f"list of such, got {got}"
        )
    ((name, options),) = node.items()
    if name == "stack":
        if not isinstance(options, list) or not options:
            raise RequestError(f"{where}: stack: expected a list of operators, got {options!r}")
        return Stack(parts=tuple(build(part, f"{where}: stack") for part in options))
    if name == "scale":
        return config.build(Scale, {"by": options}, f"{where}: scale")
    if options is not None and not isinstance(options, Mapping):
        raise RequestError(f"{where}: {name}: expected keys and values, got {options!r}")
    if name in SPECS:
        return config.build(SPECS[name], options or {}, f"{where}: {name}")
    if plugins.is_file(str(name)) or name in plugins.offered():
        return plugins.Foreign(source=str(name), settings=dict(options or {}))
    raise unknown("operator", str(name), (*BUILT_IN, *plugins.offered()))


def foreign(spec: Spec) -> list[plugins.Foreign]:
    """The parts of it that run code of the user's."""
    if isinstance(spec, Composition | Stack):
        return [found for part in spec.parts for found in foreign(part)]
    return [spec] if isinstance(spec, plugins.Foreign) else []


def usage(name: str) -> str:
    """One operator's keys, as YAML has them: "..." where one must be given, else its values or its default."""
    kind = SPECS[name]
    hints = get_type_hints(kind)
    keys = []
    for field in fields(kind):
        choices = next(
            (h for h in (hints[field.name], *get_args(hints[field.name])) if get_origin(h) is Literal), None
        )
        values = field.metadata.get("values") or "|".join(get_args(choices))
        said = values or ("..." if field.default is MISSING else field.default)
        keys.append(field.name if said in (None, ()) else f"{field.name}: {said}")
    return f"{{{name}: {{{', '.join(keys)}}}}}"
