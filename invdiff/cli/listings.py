"""`invdiff tasks | methods | priors`: what there is, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import plugins
from ..catalog import METHODS, PRIORS, TASKS, MethodInfo, usable_methods
from ..spec_files import BUILT_IN, usage
from ..specs import SPECS

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


def tasks_command(as_json: Json = False) -> None:
    """List the tasks, what each needs, and the methods that can do it; and the operators --operator takes."""
    methods = {t.name: usable_methods(t.abilities, 0.0) for t in TASKS.values()}
    noisy = {t.name: usable_methods(t.abilities, 1.0) for t in TASKS.values()}
    if as_json:
        print_json(
            [
                {
                    **dataclasses.asdict(task),
                    "abilities": sorted(task.abilities),
                    "methods": methods[task.name],
                    "methods_noisy": noisy[task.name],
                }
                for task in TASKS.values()
            ]
        )
        return
    rows = []
    for task in TASKS.values():
        options = " ".join(f"--{option}" for option in task.needs)
        names = (m if m in noisy[task.name] else f"{m} (without noise)" for m in methods[task.name])
        rows.append((task.name, options, task.summary, ", ".join(names)))
    print_table(("task", "needs", "what it does", "methods"), rows)
    print(
        "Operators for --operator, in a file or in quotes; keys without a value belong to one kind of it:\n"
    )
    for name in SPECS:
        print(f"  {usage(name)}")
    for name, point in sorted(plugins.offered().items()):
        print(f"  {{{name}: {{...}}}} of the package {package_of(point)}{_flaw(name, point)}")
    print(
        "  [OPERATOR, OPERATOR, ...] one after the other, as light meets them; {scale: 2.0} among them: a multiple"
    )
    print("  {stack: [OPERATOR, ...]} several measurements of one picture")
    print("  my_op.py:MyOp or {my_op.py:MyOp: {...}} a class or function of (C, H, W) in a file of yours")


def package_of(point: EntryPoint) -> str:
    """The installed package that offers an operator."""
    try:
        return str(point.dist.name) if point.dist else "?"
    except Exception:  # another package's files, of which anything may be wrong
        return "?"


def _flaw(name: str, point: EntryPoint) -> str:
    """Why an operator of another package cannot be used, as far as can be said without importing it."""
    if name in BUILT_IN:
        return ", hidden by the built-in one of that name"
    missing = plugins.missing_module(point)
    return f", cannot be loaded: no module {missing}" if missing else ""


def methods_command(as_json: Json = False) -> None:
    """List the methods, what each asks of the operator, and where it was published."""
    if as_json:
        print_json([dataclasses.asdict(method) for method in METHODS.values()])
        return
    print_table(
        ("method", "operator", "evaluations per step", "what it does", "source"),
        ((m.name, _operator(m), m.evaluations, m.summary, m.source) for m in METHODS.values()),
    )
    print("auto, the default, picks one by operator and noise and says which.")


def priors_command(as_json: Json = False) -> None:
    """List the priors that come with the package; any checkpoint's path will do as well."""
    here = {name: prior.path.is_file() for name, prior in PRIORS.items()}
    if as_json:
        rows = [
            dataclasses.asdict(p) | {"path": str(p.path), "available": here[p.name]} for p in PRIORS.values()
        ]
        print_json(rows)
        return
    print_table(
        ("prior", "here", "what it knows", "licence", "trained on"),
        (
            (p.name, "yes" if here[p.name] else "no", p.summary, p.licence, p.training_data)
            for p in PRIORS.values()
        ),
    )


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output, wrapped to the terminal; the first column is never wrapped."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def _operator(method: MethodInfo) -> str:
    noisy = {"": "", "no": ", noiseless"}.get(method.noisy_needs, f"; noisy: {method.noisy_needs}")
    return method.needs + noisy
