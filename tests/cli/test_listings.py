"""`invdiff methods`: everything that is needed to choose, at any width, and as JSON."""

from __future__ import annotations

import json

import pytest

from invdiff import catalog
from invdiff.cli import main as cli
from invdiff.cli.listings import GRIDS


def listing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(["methods", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_of_methods_fits_and_breaks_no_word(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = listing(capsys)
    lines = out.splitlines()
    assert max(map(len, lines)) <= columns
    assert len(lines) < (170 if columns == 80 else 130)
    words = set(out.replace("*", " ").split())
    for method in catalog.METHODS.values():
        assert {method.name, *method.summary.split(), *method.source.split()} <= words
    for integrator in catalog.INTEGRATORS.values():
        assert {integrator.name, *integrator.source.split()} <= words
        assert set(integrator.options) <= {word.strip(",") for word in words}
    assert set(GRIDS) <= words


def test_a_methods_row_says_what_it_needs_costs_and_when_it_is_exact(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = listing(capsys).splitlines()
    rows = {line.split()[0]: " ".join(lines[i : i + 3]) for i, line in enumerate(lines) if line.strip()}
    assert "any operator, any" in rows["dps*"]
    assert "linear, gradient" in rows["pigdm*"]
    assert "Evaluations: 1 with gradient. Exact: no." in rows["dps*"]
    assert "spectral if" in rows["ddnm*"]
    assert "mask, no noise" in rows["repaint*"]
    assert "Exact: for any prior, as particles and steps grow." in rows["smc"]
    assert "Evaluations: 2. Order: 2." in rows["heun"]
    assert {name + "*" * info.guided for name, info in catalog.METHODS.items()} <= rows.keys()


def test_methods_as_json_are_methods_integrators_and_grids(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(listing(capsys, "--json"))
    assert [row["name"] for row in document["methods"]] == list(catalog.METHODS)
    assert [row["name"] for row in document["integrators"]] == list(catalog.INTEGRATORS)
    assert [row["name"] for row in document["grids"]] == list(GRIDS)
    dps = document["methods"][0]
    assert (dps["needs"], dps["any_noise"], dps["gradient"], dps["exact"]) == ("any", True, True, "no")
    assert "zeta" in dps["options"]
    assert "integrator" in dps["options"]


def test_the_way_to_choose_that_the_listing_shows_is_one() -> None:
    from invdiff.cli.listings import CHOOSING
    from invdiff.methods import MMPS, integrator

    for spec in ("heun:churn=0.1", "ddim:0.5", "heun"):
        assert spec in CHOOSING
        integrator(spec)
    assert "--method mmps --set integrator=heun --set grid=karras:3" in CHOOSING
    assert "--set jump=10 --set repeats=3" in CHOOSING
    MMPS(integrator="heun", grid="karras:3", jump=10, repeats=3)
