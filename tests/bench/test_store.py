"""A run's rows are there whole or not at all, and a folder is taken for what it is."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from invdiff.bench import store as module
from invdiff.bench.store import Row, Store, clear
from invdiff.errors import InvdiffError, RequestError

DEFINITION: dict[str, Any] = {
    "name": "small",
    "tasks": [{"name": "sr", "noise": 0.1}, {"name": "box"}],
    "seeds": [0],
}


def row(picture: str = "a.png", unit: str = "u1", **more: Any) -> Row:
    given = {
        "dataset": "set",
        "task": "sr",
        "prior": "natural",
        "method": "ddnm",
        "seed": 0,
        "evaluations": 100.0,
    }
    return Row(unit=unit, picture=picture, **{**given, "metrics": {"psnr": 0.1 + 0.2, "lpips": None}, **more})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "run", DEFINITION) as made:
        yield made


def test_a_row_comes_back_as_it_was_written_to_the_last_digit(store: Store) -> None:
    strange = {
        "psnr": float("inf"),
        "ssim": 1 / 3,
        "lpips": None,
        "tiny": 5e-324,
        "nan": float("nan"),
        "zero": -0.0,
    }
    given = row(metrics=strange, files={"truth": "pictures/ä.png"}, seconds=0.1, checksum="ff", seed=2**40)
    store.write("u1", [given])
    (found,) = store.rows()
    assert repr(found.metrics) == repr(dict(sorted(strange.items())))
    assert dataclasses.replace(found, metrics={}) == dataclasses.replace(given, metrics={})


def test_rows_come_in_one_order_whatever_the_order_of_their_units(store: Store) -> None:
    store.write("z", [row("c.png", "z", task="box"), row("b.png", "z", task="box")])
    store.write("a", [row("a.png", "a", task="sr"), row("b.png", "a", task="sr", method="dps")])
    found = [(one.task, one.method, one.picture) for one in store.rows()]
    assert found == [
        ("box", "ddnm", "b.png"),
        ("box", "ddnm", "c.png"),
        ("sr", "ddnm", "a.png"),
        ("sr", "dps", "b.png"),
    ]
    assert [one.picture for one in store.rows(task="sr", method="dps")] == ["b.png"]
    with pytest.raises(ValueError, match="Did you mean 'method'"):
        next(store.rows(metod="dps"))


def test_what_is_written_is_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", DEFINITION) as store:
        store.write("u1", [row()])
        assert store.done("u1")
        assert not store.done("u2")
    with Store.open(tmp_path / "run", DEFINITION, create=False) as store:
        assert store.done("u1")
        assert [one.picture for one in store.rows()] == ["a.png"]
    assert json.loads((tmp_path / "run" / module.DEFINITION).read_text()) == DEFINITION


def test_a_kill_in_the_middle_of_a_unit_leaves_nothing_of_it(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", DEFINITION) as store:
        store.write("u1", [row()])
        log, store_copy = tmp_path / "run" / f"{module.DATABASE}-wal", tmp_path / "killed"
        before = log.stat().st_size
        store._database.execute("PRAGMA cache_size = 5")  # so that the unit is in the file before its commit
        with store._transaction() as database:
            database.execute("INSERT INTO unit VALUES ('u2', 'now', NULL)")
            for i in range(300):
                database.execute("INSERT INTO row SELECT 'u2', dataset, ?, task, prior, method, seed, status, "
                                 "reason, metrics, seconds, evaluations, peak_mib, checksum, files FROM row "
                                 "WHERE unit = 'u1'", (f"{i}.png",))  # fmt: skip
            assert log.stat().st_size > before
            shutil.copytree(tmp_path / "run", store_copy)
    with Store.open(tmp_path / "killed", DEFINITION) as store:
        assert store.done("u1")
        assert not store.done("u2")
        assert [one.picture for one in store.rows()] == ["a.png"]


def test_a_kill_while_the_database_is_made_leaves_a_folder_to_begin_in(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / module.DATABASE).touch()
    (tmp_path / "marked").mkdir()
    database = sqlite3.connect(tmp_path / "marked" / module.DATABASE)
    database.execute("PRAGMA journal_mode = WAL")
    database.close()
    for name in ("empty", "marked"):
        with Store.open(tmp_path / name, DEFINITION) as store:
            assert store.write("u1", [row()])
            assert store.definition == DEFINITION


def test_a_write_that_fails_halfway_changes_nothing(store: Store) -> None:
    store.write("u1", [row(status="failed", reason="why")])
    with pytest.raises(RequestError, match="CHECK"):
        store.write("u1", [row("b.png"), row("c.png", status="unheard of")])
    assert [(one.picture, one.status) for one in store.rows()] == [("a.png", "failed")]
    with pytest.raises(ValueError, match="unit u1"):
        store.write("u1", [row(unit="u2")])


def test_a_unit_that_failed_is_replaced_and_one_that_is_done_is_not(store: Store) -> None:
    first = [row("a.png"), row("b.png", status="failed", reason="out of memory", metrics={})]
    assert store.write("u1", first)
    assert store.failed("u1")
    assert [one.reason for one in store.failures()] == ["out of memory"]
    assert (store.count(), store.count("failed")) == (2, 1)
    assert store.write("u1", [row("a.png"), row("b.png")])
    assert not store.failed("u1")
    assert store.count() == 2
    assert not store.write("u1", [row("a.png", checksum="other"), row("b.png")])
    assert [one.checksum for one in store.rows()] == ["", ""]


def test_fingerprints_are_equal_but_for_time_memory_and_dates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(name: str, *units: list[Row]) -> str:
        with Store.open(tmp_path / name, DEFINITION) as store:
            store.begin({"workers": name})
            for rows in units:
                store.write(rows[0].unit, rows)
            return store.fingerprint()

    one, two = row("a.png", "u1"), row("b.png", "u2")
    first = fingerprint("first", [one], [two])
    monkeypatch.setattr(module, "_now", lambda: "another day")
    assert fingerprint("second", [dataclasses.replace(two, seconds=9.0, peak_mib=7.0)], [one]) == first
    for i, change in enumerate(
        [
            {"checksum": "x"},
            {"metrics": {**one.metrics, "psnr": 0.3}},
            {"evaluations": 99.0},
            {"seed": 1},
            {"reason": "x"},
            {"files": {"restored": "x.png"}},
        ]
    ):
        assert fingerprint(f"other{i}", [dataclasses.replace(one, **change)], [two]) != first
    assert fingerprint("fewer", [one]) != first


def test_another_configuration_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    with Store.open(tmp_path, DEFINITION) as store:
        store.write("u1", [row()])
    other = {**DEFINITION, "tasks": [{"name": "sr", "noise": 0.2}, {"name": "box"}], "border": 4}
    with pytest.raises(
        RequestError, match=r"differs in border, tasks\.0\.noise: choose another --out, or --overwrite"
    ):
        Store.open(tmp_path, other)
    (tmp_path / "mine.txt").touch()
    (tmp_path / module.PICTURES).mkdir()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["mine.txt"]
    with Store.open(tmp_path, other) as store:
        assert store.definition == other


def test_a_run_that_stopped_before_its_first_result_takes_another_configuration(tmp_path: Path) -> None:
    Store.open(tmp_path, DEFINITION).close()
    other = {**DEFINITION, "border": 4}
    Store.open(tmp_path, other).close()
    with Store.read(tmp_path) as store:
        assert store.definition == other == json.loads((tmp_path / module.DEFINITION).read_text())


def test_a_word_in_the_summary_may_change_and_the_run_goes_on(tmp_path: Path) -> None:
    with Store.open(tmp_path, {**DEFINITION, "summary": "Tow tasks."}) as store:
        store.write("u1", [row()])
    with Store.open(tmp_path, {**DEFINITION, "summary": "Two tasks."}) as store:
        assert store.definition["summary"] == "Two tasks."
        assert store.done("u1")


def test_a_folder_of_pictures_that_are_no_runs_is_neither_removed_nor_written_to(tmp_path: Path) -> None:
    mine = tmp_path / module.PICTURES / "mine.png"
    mine.parent.mkdir()
    mine.touch()
    clear(tmp_path)
    assert mine.exists()
    with pytest.raises(
        RequestError, match=r"a folder pictures lies there already, of no run.*choose another --out"
    ):
        Store.open(tmp_path, DEFINITION)
    assert [*tmp_path.iterdir()] == [mine.parent]


def test_two_processes_do_not_write_one_run_but_one_may_read_it(store: Store) -> None:
    store.write("u1", [row()])
    code = "import sys; from invdiff.bench.store import Store; Store.open(sys.argv[1], {})"
    done = subprocess.run([sys.executable, "-c", code, str(store.folder)], capture_output=True, text=True)
    assert "another process is writing to this run" in done.stderr
    with pytest.raises(RequestError, match="another process"):
        clear(store.folder)
    with Store.read(store.folder) as reader:
        assert reader.definition == DEFINITION
        assert reader.count() == 1
        store.write("u2", [row("b.png", "u2")])
        assert reader.count() == 2


def test_a_folder_that_holds_no_run_of_ours_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(said: str, *, read: bool = True, error: type[InvdiffError] = RequestError) -> None:
        for attempt in [
            lambda: Store.open(folder, DEFINITION, create=False),
            *([lambda: Store.read(folder)] if read else []),
        ]:
            with pytest.raises(error, match=said) as caught:
                attempt()
            assert "\n" not in str(caught.value)

    folder = tmp_path / "none"
    refused("no run in this folder")
    assert not folder.exists()
    folder = tmp_path / "file"
    folder.touch()
    refused("is a file", read=False)
    folder = tmp_path / "garbage"
    folder.mkdir()
    (folder / module.DATABASE).write_bytes(b"no database" * 100)
    refused("broken or no SQLite database")
    folder = tmp_path / "foreign"
    folder.mkdir()
    database = sqlite3.connect(folder / module.DATABASE)
    database.execute("CREATE TABLE other (a)")
    refused("not a run of invdiff bench")
    folder = tmp_path / "newer"
    with Store.open(folder, DEFINITION) as store:
        store._database.execute("PRAGMA user_version = 99")
    refused("written by a newer invdiff.*format 99")


def test_a_broken_page_is_an_error_in_one_line(tmp_path: Path) -> None:
    with Store.open(tmp_path, DEFINITION) as store:
        store.write("u1", [row(f"{i}.png") for i in range(500)])
    file = tmp_path / module.DATABASE
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 3])
    with (
        pytest.raises(RequestError, match="broken or no SQLite database"),
        Store.open(tmp_path, DEFINITION) as store,
    ):
        list(store.rows())


def test_sessions_tell_what_finished_with_which_versions(store: Store) -> None:
    store.begin({"torch": "1"})
    store.write("u1", [row()])
    store.begin({"torch": "2"})
    store.write("u2", [row("b.png", "u2")])
    store.write("u3", [row("c.png", "u3")])
    assert [(one["torch"], one["units"]) for one in store.sessions()] == [("1", 1), ("2", 2)]


def exported(store: Store) -> None:
    store.write(
        "u1", [row("a, b.png", files={"truth": "t.png"}), row("c.png", metrics={"ssim": float("inf")})]
    )


def test_csv_has_a_column_for_each_metric_with_every_digit(store: Store, tmp_path: Path) -> None:
    exported(store)
    assert store.export(tmp_path / "rows.csv") == 2
    with (tmp_path / "rows.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["picture"], first["psnr"], first["lpips"]) == ("a, b.png", repr(0.1 + 0.2), "")
    assert (first["ssim"], first["file_truth"], first["seconds"]) == ("", "t.png", "0.0")
    assert (second["ssim"], second["psnr"], second["file_truth"]) == ("inf", "", "")
    with pytest.raises(RequestError, match=r"ends in \.csv or \.parquet"):
        store.export(tmp_path / "rows.xlsx")


def test_parquet_has_typed_columns(store: Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    exported(store)
    assert store.export(tmp_path / "rows.parquet") == 2
    table = parquet.read_table(tmp_path / "rows.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["psnr"], types["seed"], types["picture"], types["checksum"]) == (
        "double",
        "int64",
        "string",
        "string",
    )
    assert table.column("psnr").to_pylist() == [0.1 + 0.2, None]
    assert table.column("ssim").to_pylist() == [None, float("inf")]
    assert table.column("file_truth").to_pylist() == ["t.png", None]


def test_parquet_without_its_package_names_what_to_install(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RequestError, match=r"pip install 'invdiff\[parquet\]'"):
        store.export(tmp_path / "rows.parquet")
    assert list(tmp_path.glob("rows*")) == []


def test_a_units_rows_replace_all_it_had_and_those_of_others_for_the_same_pictures(store: Store) -> None:
    store.write("u1", [row("a.png"), row("b.png", status="failed", reason="why")])
    store.write("u1", [row("a.png")])
    assert [one.picture for one in store.rows()] == ["a.png"]
    store.write("u2", [row("a.png", "u2"), row("b.png", "u2")])  # more pictures: other units
    assert [(one.picture, one.unit) for one in store.rows()] == [("a.png", "u2"), ("b.png", "u2")]


def test_every_commit_is_on_the_disk_before_it_is_told(store: Store) -> None:
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)


def test_nothing_of_a_killed_runs_database_outlives_it_when_it_is_cleared(tmp_path: Path) -> None:
    Store.open(tmp_path, DEFINITION).close()
    for ending in ("-wal", "-shm"):
        (tmp_path / f"{module.DATABASE}{ending}").write_bytes(b"left")
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [module.LOCK]


def test_an_export_that_fails_leaves_the_file_that_was_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(store)
    store.export(tmp_path / "rows.csv")
    before = (tmp_path / "rows.csv").read_bytes()
    monkeypatch.setattr(module, "_decoded", lambda values: values[1_000])
    with pytest.raises(IndexError):
        store.export(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes() == before


def test_chunks_hold_every_row_once() -> None:
    assert [len(chunk) for chunk in module._chunks(([i] for i in range(7)), 3)] == [3, 3, 1]
    assert list(module._chunks(([i] for i in range(4)), 2)) == [[[0], [1]], [[2], [3]]]
