"""`invdiff tasks | methods`: what there is, as a table or as JSON; and how tables are printed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import plugins
from ..catalog import (
    INTEGRATORS,
    METHODS,
    PRIORS,
    TASKS,
    IntegratorInfo,
    MethodInfo,
    trained_for,
    usable_methods,
)
from ..spec_files import BUILT_IN, usage
from ..specs import SPECS

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]

GRIDS = {
    "karras": "evenly in σ^(1/ρ), ρ = 7 unless given, as karras:3 (Karras et al. 2022, arXiv:2206.00364)",
    "log_uniform": "evenly in ln σ",
    "ddpm": "the steps of the network of Ho et al. 2020, arXiv:2006.11239, evenly in t",
    "sr3": "the steps of the network of Saharia et al. 2021, arXiv:2104.07636, evenly in t",
}
"""The noise levels `invdiff.methods.grid` knows by name."""

CHOOSING = """\
A method marked * takes any integrator, with settings as heun:churn=0.1,... or,
for the first of them, ddim:0.5. To choose, add to invdiff restore:
  --method mmps --set integrator=heun --set grid=karras:3
  --set jump=10 --set repeats=3  every method: back up in noise, 10 levels at a
                                 time, so that each stretch is walked 3 times
invdiff sample --integrator heun --grid karras:3 draws from the prior itself."""


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
    for info in PRIORS.values():
        if info.tasks:
            how = f"--method sr3 --prior {info.instead_of or info.name}"
            print(f"{how} uses the conditional model {info.name}, for {trained_for(info.tasks, info.noise)}.")
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
    """List the methods and what each asks of operator and noise; the integrators and grids they walk with."""
    if as_json:
        print_json(
            {
                "methods": [
                    {**dataclasses.asdict(method), "options": method.options} for method in METHODS.values()
                ],
                "integrators": [dataclasses.asdict(integrator) for integrator in INTEGRATORS.values()],
                "grids": [{"name": name, "levels": levels} for name, levels in GRIDS.items()],
            }
        )
        return
    print_table(
        ("method", "needs", "what it does, evaluations a step, when its samples are exact, source"),
        ((m.name + "*" * m.guided, _needs(m), _about(m)) for m in METHODS.values()),
        middle=20,
    )
    print("auto, the default, picks one by operator and noise and says which.\n")
    print_table(
        ("integrator", "settings", "what it is, evaluations a step, order of convergence, source"),
        ((i.name, ", ".join(i.options), _what(i)) for i in INTEGRATORS.values()),
        middle=20,
    )
    print_table(("grid", "noise levels"), GRIDS.items())
    print(CHOOSING)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def finite(value: Any) -> Any:
    """As JSON can hold it: null for what is not a finite number."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, middle: int | None = None) -> None:
    """A table on standard output, wrapped to the terminal; the first column is never wrapped.

    middle: the width at most of columns between the first and the last.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(heads):
        between = 0 < i < len(heads) - 1
        table.add_column(head, no_wrap=i == 0, overflow="fold", max_width=middle if between else None)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)


def _needs(method: MethodInfo) -> str:
    """What a method asks of the operator and the noise, and whether it differentiates the network."""
    noisy = {
        "": "",
        "no": "no noise",
        **dict.fromkeys(("mask", "linear", "spectral"), f"{method.noisy_needs} if noisy"),
    }
    operator = "any operator" if method.needs == "any" else method.needs
    known = "a conditional prior" if method.conditional else operator
    parts = [known, noisy[method.noisy_needs], "any noise" if method.any_noise else ""]
    return ", ".join(part for part in (*parts, "gradient" if method.gradient else "") if part)


def _about(method: MethodInfo) -> str:
    exact = method.exact if method.exact.startswith("no") else f"for {method.exact}"
    return f"{method.summary}\nEvaluations: {method.evaluations}. Exact: {exact}.\n{method.source}"


def _what(integrator: IntegratorInfo) -> str:
    order = f" Order: {integrator.order}." if integrator.order else ""
    return f"{integrator.title}.\nEvaluations: {integrator.evaluations}.{order}\n{integrator.source}"
