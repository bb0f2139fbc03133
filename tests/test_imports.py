"""Imports go one way, and what answers at once imports nothing heavy."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import invdiff

ROOT = Path(__file__).resolve().parent.parent

# Folders and modules of the first level, lowest first; one may import its own layer and those below.
LAYERS = (
    {"operators"},
    {"errors", "catalog", "images", "config", "cascade_files", "known", "effort", "allocator"},
    {"priors"},
    {"likelihood"},
    {"methods"},
    {"words", "masks", "noise", "specs", "plugins", "spec_files"},
    {"training"},
    {
        "measurements",
        "tasks",
        "profiling",
        "running",
        "tuning",
        "restore",
        "sample",
        "cascade",
    },
    {"evaluation"},
    {"bench"},
    {"cli", "app"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HEAVY = ("torch", "torchvision", "deepinv", "skimage", "lpips", "scipy")
LIGHT = {"", *LAYERS[1], "cli", *LAYERS[5], *LAYERS[7]} - {
    "profiling",
    "running",
    "restore",
    "sample",
    "cascade",
}
OPERATORS_MAY_IMPORT = {*sys.stdlib_module_names, "torch", "invdiff"}


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of the package; operators/ by the name it is imported by."""
    for folder, prefix in ((ROOT / "invdiff", "invdiff"), (ROOT / "operators", "invdiff.operators")):
        for file in sorted(folder.rglob("*.py")):
            inside = file.relative_to(folder)
            if prefix == "invdiff" and inside.parts[0] == "operators":
                continue  # the link, where rglob follows it
            parts = (prefix, *inside.with_suffix("").parts)
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imports(name: str, file: Path, *, everywhere: bool) -> Iterator[str]:
    """Dotted names a module imports: at import only, or inside its functions and under TYPE_CHECKING too."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else _run_at_import(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                public = invdiff._WHERE.get(alias.name) if source == "invdiff" else None
                yield public[0] if public else f"{source}.{alias.name}"


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from (other, *_run_at_import(other))
            continue
        yield child
        yield from _run_at_import(child)


def layer(name: str) -> str:
    """The first-level name a dotted name of ours belongs to; "" for invdiff itself and for other packages."""
    parts = name.split(".")
    return parts[1] if parts[0] == "invdiff" and len(parts) > 1 else ""


MODULES = dict(modules())


def test_every_module_belongs_to_a_layer() -> None:
    assert {layer(name) for name in MODULES} - {"", "__main__"} <= set(LEVEL)


@pytest.mark.parametrize("name", [n for n in MODULES if layer(n) in LEVEL])
def test_a_module_imports_only_its_layer_and_those_below(name: str) -> None:
    found = {i for i in imports(name, MODULES[name], everywhere=True) if layer(i) in LEVEL}
    above = sorted(i for i in found if LEVEL[layer(i)] > LEVEL[layer(name)])
    assert not above, f"{name} imports {', '.join(above)}"


@pytest.mark.parametrize("name", [n for n in MODULES if layer(n) == "operators"])
def test_operators_import_torch_and_nothing_of_invdiff(name: str) -> None:
    found = set(imports(name, MODULES[name], everywhere=False))
    assert {i.split(".")[0] for i in found} <= OPERATORS_MAY_IMPORT
    of_ours = {i for i in imports(name, MODULES[name], everywhere=True) if i.split(".")[0] == "invdiff"}
    assert all(layer(i) == "operators" for i in of_ours)


@pytest.mark.parametrize("name", [n for n in MODULES if layer(n) == "methods"])
def test_methods_import_no_concrete_network(name: str) -> None:
    found = imports(name, MODULES[name], everywhere=True)
    assert not [i for i in found if i.startswith(("invdiff.priors.nets", "invdiff.priors.network"))]


@pytest.mark.parametrize("name", [n for n in MODULES if layer(n) in LIGHT])
def test_a_light_module_imports_nothing_heavy_when_it_is_imported(name: str) -> None:
    code = f"import sys, {name}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, masks and files that are none."""
    path = tmp_path_factory.mktemp("inputs")
    Image.new("RGB", (32, 24), (90, 120, 30)).save(path / "photo.png")
    Image.new("L", (32, 24), 128).save(path / "grey.png")
    Image.new("L", (32, 24), 0).save(path / "nothing_to_fill.png")
    Image.new("L", (32, 24), 255).save(path / "all_to_fill.png")
    Image.new("L", (16, 24), 255).save(path / "other_size.png")
    (path / "no_image.png").write_text("not an image")
    (path / "truncated.png").write_bytes((path / "photo.png").read_bytes()[:60])
    (path / "empty").mkdir()
    return path


def answer(arguments: str, folder: Path) -> tuple[int, str, str, list[str]]:
    """Exit code, output, error output, heavy modules of `invdiff ARGUMENTS` run inside `folder`."""
    code = (
        "import json, sys; from invdiff.cli.main import run; code = run(sys.argv[1:]); sys.stdout.flush(); "
        f"print(json.dumps([code, [m for m in {HEAVY!r} if m in sys.modules]]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    errors, _, last = done.stderr.rstrip("\n").rpartition("\n")
    exit_code, heavy = json.loads(last)
    return exit_code, done.stdout, errors, heavy


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "--version",
        "tasks",
        "methods",
        "priors",
        "tasks --json",
        "methods --json",
        "priors --json",
        "restore --help",
        "degrade --help",
        "sample --help",
        "train --help",
        "adapt --help",
        "tune --help",
        "demo --help",
        "doctor --help",
    ],
)
def test_help_and_listings_answer_without_importing_torch(arguments: str, folder: Path) -> None:
    code, out, errors, heavy = answer(arguments, folder)
    assert (code, errors, heavy) == (0, "", [])
    assert out.strip()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("restor photo.png", "'restore'"),
        ("restore photo.png --tsk denoise", "--task"),
        ("restore photo.png --task inpant", "'inpaint'"),
        ("restore photo.png --task denoise --noise 0.1 --method mmpss", "'mmps'"),
        ("restore photo.png --task denoise --noise 0.1 --prior naturel", "'natural'"),
        ("restore photo.png --task denoise --noise 0.1 --method repaint", "diffpir"),
        ("restore photo.png --task denoise --noise -1", "noise"),
        ("restore photo.png --task inpaint", "--mask"),
        ("restore photo.png --task inpaint --mask missing.png", "missing.png"),
        ("restore photo.png --task inpaint --mask other_size.png", "other_size.png"),
        ("restore photo.png --task inpaint --mask all_to_fill.png", "all_to_fill.png"),
        ("restore missing.png --task denoise --noise 0.1", "missing.png"),
        ("restore no_image.png --task denoise --noise 0.1", "no_image.png"),
        ("restore truncated.png --task denoise --noise 0.1", "truncated.png"),
        ("restore empty --task denoise --noise 0.1", "empty"),
        ("restore photo.png", "give --task"),
        ("restore photo.png --task sr --scale 2 --operator identity", "give one of them"),
        ("restore photo.png --task demosaic", "expected a grey picture"),
        ("restore photo.png --task dejpeg", "give --quality"),
        ("restore photo.png --task dequantize", "--bits"),
        ("restore photo.png --operator blr", "'blur'"),
        ("restore photo.png --operator phase_retrieval", "no picture"),
        ("restore photo.png --operator missing.yaml", "missing.yaml"),
        ("restore photo.png --operator missing.py:My", "missing.py"),
        ("restore photo.png --operator identity --noise poison:3", "'poisson'"),
        ("restore photo.png --operator identity --shape 3x24", "3x256x256"),
        ("degrade grey.png --operator [identity,demosaic]", "expected a colour picture"),
        ("degrade photo.png --task outpaint --margin 12", "would leave"),
        ("sample --prior naturel", "'natural'"),
        ("sample --integrator hun", "'heun'"),
        ("sample --integrator heun:chrun=0.1", "'churn'"),
        ("sample --grid karas", "'karras'"),
        ("sample --size 64y64", "--size 64y64"),
        ("sample --count 0", "--count"),
        ("train missing.yaml", "missing.yaml"),
        ("tune missing.yaml", "missing.yaml"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2_without_importing_torch(
    arguments: str, said: str, folder: Path
) -> None:
    before = sorted(folder.rglob("*"))
    code, out, errors, heavy = answer(arguments, folder)
    assert code == 2, errors
    assert out == ""
    assert errors.startswith("invdiff: ")
    assert errors.count("\n") == 0
    assert said in errors
    assert heavy == []
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["restore", "sample"])
def test_a_function_stays_one_when_its_module_of_the_same_name_is_imported_first(name: str) -> None:
    function = f"invdiff.{name}"
    code = f"import {function}, invdiff; print(callable({function}), {function}.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", function]
