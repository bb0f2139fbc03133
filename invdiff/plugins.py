"""Operators of other people: a class or function in a file of the user's, or in an installed package.

It is called with a picture's shape (C, H, W), and the keys given, and must return an `invdiff.operators.Operator`.
Where its measurement has another shape than the picture, it may say which picture belongs to one by a static method
`unknown(measured_shape)`. Packages offer theirs by the entry-point group `invdiff.operators`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from .errors import InvdiffError, RequestError, nearest
from .specs import Measured, Shape, Spec, Trait
from .words import dims

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from .operators import Operator

GROUP = "invdiff.operators"


def offered() -> dict[str, EntryPoint]:
    """Operators of installed packages, by name; none of them is imported. Broken metadata counts as none."""
    from importlib.metadata import entry_points

    try:
        return {point.name: point for point in entry_points(group=GROUP)}
    except Exception:  # another package's files, of which anything may be wrong
        return {}


def missing_module(point: EntryPoint) -> str | None:
    """The package that an entry point names, where there is none; nothing is imported to find out."""
    from importlib.util import find_spec

    top = point.module.partition(".")[0]
    try:
        return None if find_spec(top) else top
    except (ImportError, ValueError):
        return top


@contextmanager
def contained() -> Iterator[None]:
    """Around a call that may run code of the user's: what that prints is no output of ours, and it ends nothing."""
    with redirect_stdout(sys.stderr):
        try:
            yield
        except SystemExit as error:
            raise InvdiffError(f"the operator's code asked to exit: SystemExit {error}".rstrip()) from None


def is_file(source: str) -> bool:
    """Whether it names a thing in a file: my_op.py:MyOp."""
    return source.partition(":")[0].endswith(".py")


@dataclass(frozen=True, kw_only=True)
class Foreign(Spec):
    """Somebody else's operator. source: my_op.py:MyOp, or an entry point's name; settings: its own keys."""

    name = "operator"

    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    _built: dict[Shape, Operator] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def traits(self) -> frozenset[Trait]:
        return frozenset({"code", "mixes"})

    @property
    def path(self) -> Path | None:
        return Path(self.source.partition(":")[0]) if is_file(self.source) else None

    def operator(self, shape: Shape) -> Operator:
        if shape not in self._built:
            self._built[shape] = self._build(shape)
        return self._built[shape]

    def _build(self, shape: Shape) -> Operator:
        import torch

        from . import operators

        with self._explained(f"for a picture {dims(shape)}"):
            made = self._made(shape, **self.settings)
        if not isinstance(made, operators.Operator):
            raise RequestError(
                f"{self.source}: expected an invdiff.operators.Operator for a picture {dims(shape)}, "
                f"got {type(made).__name__}"
            )
        with self._explained("on random pictures"):
            operators.check(made.to("cpu", torch.float64))
        if tuple(made.in_shape) != shape:
            raise RequestError(
                f"{self.source}: expected an operator over pictures {dims(shape)}, got one over {dims(made.in_shape)}"
            )
        return made

    def task(self, shape: Shape | None = None) -> str | None:
        if shape is None:
            return None
        from .priors.conditional import task_of

        return task_of(self.operator(shape))

    def measured(self, shape: Shape) -> Measured:
        return tuple(self.operator(shape).out_shape)

    def unknown(self, measured: Measured) -> Shape:
        told = getattr(self._made, "unknown", None)
        if told is None:
            return super().unknown(measured)
        with self._explained(f"unknown({measured})"):
            shape = tuple(int(n) for n in told(measured))
        if len(shape) != 3 or min(shape) < 1:
            raise RequestError(f"{self.source}: unknown({measured}): expected (C, H, W), got {shape}")
        return shape[0], shape[1], shape[2]

    def pictorial(self, shape: Shape | None = None) -> bool:
        if shape is None:
            return True
        out = self.measured(shape)
        return len(out) == 3 and out[0] in (1, 3)

    def at(self, folder: Path) -> Self:
        if self.path is None:
            return self
        return type(self)(
            source=str(folder / self.path.expanduser()) + self.source[len(str(self.path)) :],
            settings=self.settings,
        )

    def dump(self) -> Any:
        return {self.source: self.settings}

    def describe(self) -> Any:
        if self.path is None:
            return self.dump()
        import hashlib

        checksum = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return {self.source: {**self.settings, "file_sha256": checksum}}

    @cached_property
    def _made(self) -> Callable[..., Any]:
        """What makes the operator: imported when first asked for."""
        return self._from_file(self.path) if self.path is not None else self._from_package()

    def _from_file(self, path: Path) -> Callable[..., Any]:
        name = self.source.partition(":")[2]
        # Run by hand and not imported, so that no __pycache__ appears in the user's folder.
        module = ModuleType(f"invdiff_operator_{path.stem}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # where dataclasses look for the module of a class
        with self._explained("when it was imported"):
            exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
        if not name or not hasattr(module, name):
            known = [
                key
                for key, value in vars(module).items()
                if getattr(value, "__module__", "") == module.__name__
            ]
            wanted = (
                f"no {name} in it.{nearest(name, known)}" if name else f"say which class, as in {path}:MyOp."
            )
            raise RequestError(f"{path}: {wanted} Known: {', '.join(known) or 'nothing'}")
        return self._callable(getattr(module, name))

    def _from_package(self) -> Callable[..., Any]:
        point = offered()[self.source]
        with self._explained(f"({point.value}, of an installed package) could not be loaded"):
            return self._callable(point.load())

    def _callable(self, found: Any) -> Callable[..., Any]:
        from .operators import Operator

        if isinstance(found, Operator):
            return lambda shape: found
        if not callable(found):
            raise RequestError(
                f"{self.source}: expected a class or function of (C, H, W), got {type(found).__name__}"
            )
        return found

    @contextmanager
    def _explained(self, when: str) -> Iterator[None]:
        """Whatever their code raises, in one line with its place in their file; it finds the modules beside that."""
        beside = [str(self.path.resolve().parent)] if self.path is not None else []
        sys.path[:0] = beside
        try:
            with redirect_stdout(sys.stderr):  # standard output is for results
                yield
        except RequestError:
            raise
        except (Exception, SystemExit) as error:  # of any kind: it is their code
            place = self.source
            if self.path is not None:
                lines = [
                    f.lineno
                    for f in traceback.extract_tb(error.__traceback__)
                    if f.filename == str(self.path)
                ]
                line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
                place = f"{self.path}:{line}" if line else self.source
            text = " ".join(str(error).split()) or "no message"
            raise RequestError(f"{place}: {type(error).__name__} {when}: {text}") from None
        finally:
            for folder in beside:
                if folder in sys.path:
                    sys.path.remove(folder)
