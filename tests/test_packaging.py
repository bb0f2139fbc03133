"""The wheel, installed elsewhere, is what the checkout is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from invdiff.catalog import METHODS, PRIORS, TASKS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the tree as it is, by way of the sdist; a copy, so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("build") / "invdiff"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "invdiff", "operators"):
        source = repository / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy / name)
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", copy], check=True)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a fresh environment with the wheel and the running environment's dependencies.

    A .pth line adds the running environment's packages after the wheel's. It does not run the .pth files
    among them, so that an editable install of the checkout is not seen.
    """
    root = tmp_path_factory.mktemp("elsewhere") / "env"
    venv.create(root, with_pip=False)
    scheme = sysconfig.get_preferred_scheme("prefix")
    paths = sysconfig.get_paths(scheme, vars={"base": str(root), "platbase": str(root)})
    packages = Path(paths["purelib"])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(root)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return Path(paths["scripts"])


def run(program: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run([program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_every_module_and_the_weights(wheel: Path, repository: Path) -> None:
    expected = {"invdiff/py.typed"}
    for folder, prefix in (("invdiff", "invdiff"), ("operators", "invdiff/operators")):
        files = (
            f
            for pattern in ("*.py", "*.safetensors", "*.css", "*.js")
            for f in (repository / folder).rglob(pattern)
        )
        expected |= {f"{prefix}/{f.relative_to(repository / folder).as_posix()}" for f in files}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected


def test_the_installed_command_runs_outside_the_repository(elsewhere: Path, tmp_path: Path) -> None:
    command = elsewhere / "invdiff"
    version = run(command, "--version", cwd=tmp_path)
    assert version.returncode == 0, version.stderr
    assert version.stdout.startswith("invdiff ")
    tasks = run(command, "tasks", "--json", cwd=tmp_path)
    assert [task["name"] for task in json.loads(tasks.stdout)] == list(TASKS)
    methods = run(command, "methods", "--json", cwd=tmp_path)
    assert [method["name"] for method in json.loads(methods.stdout)["methods"]] == list(METHODS)


def test_the_package_imported_is_the_wheels_operators_included(elsewhere: Path, tmp_path: Path) -> None:
    code = "import invdiff; o = invdiff.operators; print(invdiff.__file__, o.__file__, *o.OPERATORS)"
    done = run(elsewhere / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    package, operators, *names = done.stdout.split()
    environment = elsewhere.parent.resolve()
    assert Path(package).resolve().is_relative_to(environment)
    assert Path(operators).resolve().is_relative_to(environment)
    assert {"mask", "blur", "downsample", "identity"} <= set(names)


def test_operators_refuse_to_load_a_second_time_under_another_name(repository: Path) -> None:
    done = run(Path(sys.executable), "-c", "import operators", cwd=repository)
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert "invdiff.operators" in done.stderr


def test_operators_import_at_the_root_through_the_link(repository: Path) -> None:
    assert (repository / "invdiff" / "operators").readlink() == Path("..", "operators")
    code = "import invdiff.operators as o; print(o.__name__)"
    done = run(Path(sys.executable), "-c", code, cwd=repository)
    assert done.stdout.strip() == "invdiff.operators", done.stderr


@pytest.mark.parametrize("name", PRIORS)
def test_the_shipped_weights_are_the_ones_the_catalog_names(name: str) -> None:
    prior = PRIORS[name]
    if not prior.path.is_file():
        pytest.skip(f"{prior.file} is not in this checkout")
    content = prior.path.read_bytes()
    assert len(content) <= 16 * 2**20
    assert hashlib.sha256(content).hexdigest() == prior.sha256


def test_the_constraints_cover_every_requirement_and_name_no_index(repository: Path) -> None:
    import tomllib

    lines = (repository / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), start=project["dependencies"])
    names = {r.split(">=")[0].lower() for r in wanted if not r.startswith("invdiff[")}
    assert names <= set(pins)
    assert not [line for line in lines if "://" in line]
