"""A run's folder: one SQLite file that holds a row for each picture, and the pictures beside it.

A unit's rows appear together or not at all: each is written in one transaction, once every result of the unit is there
and its pictures are on the disk. Killed at any moment, a run has lost the units that were under way, and nothing else.

    run.sqlite         the rows, the definition, which units are done
    definition.json    the definition, to be read
    pictures/          named by unit and picture; one that no row names means nothing
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self

from ..errors import InvdiffError, RequestError, nearest
from ..images import atomic

if TYPE_CHECKING:
    from .plan import Picture, Unit

FORMAT = 1
"""Of the database; a newer one is refused."""

DATABASE, DEFINITION, PICTURES, LOCK = "run.sqlite", "definition.json", "pictures", ".lock"

_MARK = 0x696E7664  # SQLite's application_id: "invd"

_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE session (id INTEGER PRIMARY KEY, started TEXT NOT NULL, about TEXT NOT NULL);
CREATE TABLE unit (id TEXT PRIMARY KEY, finished TEXT NOT NULL, session INTEGER) WITHOUT ROWID;
CREATE TABLE row (
    unit TEXT NOT NULL, dataset TEXT NOT NULL, picture TEXT NOT NULL, task TEXT NOT NULL, prior TEXT NOT NULL,
    method TEXT NOT NULL, seed INTEGER NOT NULL, status TEXT NOT NULL CHECK (status IN ('done', 'failed')),
    reason TEXT NOT NULL, metrics TEXT NOT NULL, seconds REAL NOT NULL, evaluations REAL NOT NULL,
    peak_mib REAL NOT NULL, checksum TEXT NOT NULL, files TEXT NOT NULL,
    PRIMARY KEY (dataset, task, prior, method, seed, picture)
) WITHOUT ROWID;
CREATE INDEX row_unit ON row (unit, status);
"""

_TIMELESS = ("unit", "dataset", "picture", "task", "prior", "method", "seed", "status", "reason", "metrics",
             "evaluations", "checksum", "files")  # fmt: skip
_ORDER = "dataset, task, prior, method, seed, picture"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a unit gave for one of its pictures."""

    unit: str
    dataset: str
    picture: str
    task: str
    prior: str
    method: str
    seed: int
    status: Literal["done", "failed"] = "done"
    reason: str = ""
    """Why it failed, in one line."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    """For this picture, all its samples: of a batch its equal share."""
    evaluations: float = 0.0
    """Of the network, for this picture, all its samples."""
    peak_mib: float = 0.0
    """The most memory, the GPU's where it is on one, that was held at a time: of a batch by all of it."""
    checksum: str = ""
    """SHA-256 of the samples, float32, little-endian."""
    files: dict[str, str] = field(default_factory=dict)
    """What is shown → its file, relative to the run's folder."""

    @classmethod
    def of(cls, unit: Unit, picture: Picture, **more: Any) -> Self:
        """The row of one of a unit's pictures; more: what it gave."""
        names = ("dataset", "task", "prior", "method", "seed")
        return cls(
            unit=unit.id, picture=picture.name, **{name: getattr(unit, name) for name in names}, **more
        )


_COLUMNS = tuple(one.name for one in fields(Row))


@dataclass(eq=False)
class Store:
    """An open run. See `open` and `read`; to be closed, or used with `with`."""

    folder: Path
    definition: dict[str, Any]
    _database: sqlite3.Connection
    _lock: IO[str] | None = None
    _session: int | None = None

    # ------------------------------------------------------------------------------------------------ opening

    @classmethod
    def open(cls, folder: str | Path, definition: Mapping[str, Any], *, create: bool = True) -> Self:
        """The run in `folder`, to write to; a new one where there is none and `create`.

        definition: plain keys and values, all that the rows depend on. RequestError where the folder holds results of
        another configuration (it names the keys that differ), of a newer format or a broken one, where another process
        is writing to it, or where it cannot be written.
        """
        folder, wanted = Path(folder), _canonical(definition, ordered=False)
        if folder.exists() and not folder.is_dir():
            raise RequestError(f"--out {folder} is a file: expected a folder")
        if not create and not (folder / DATABASE).is_file():
            raise RequestError(f"{folder}: no run in this folder, {DATABASE} is missing")
        if not _holds_run(folder) and (folder / PICTURES).exists():
            raise RequestError(
                f"{folder}: a folder {PICTURES} lies there already, of no run, where this one's would go; choose "
                "another --out"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder)
        except OSError as error:
            raise RequestError(
                f"{folder}: cannot be written to ({error.strerror}); choose another --out"
            ) from None
        try:
            with _explained(folder):
                database = _connected(folder, wanted)
                try:
                    before, found = json.loads(_about(database, "definition")), json.loads(wanted)
                    if found != before:
                        results = database.execute("SELECT EXISTS (SELECT 1 FROM unit)").fetchone()[0]
                        if results and differences(before, found):
                            raise _another(folder, before, found)
                        database.execute("UPDATE about SET value = ? WHERE key = 'definition'", (wanted,))
                        (folder / DEFINITION).unlink(missing_ok=True)
                except BaseException:
                    database.close()
                    raise
            if not (folder / DEFINITION).exists():
                text = json.dumps(found, indent=2, ensure_ascii=False)
                with atomic(folder / DEFINITION) as part:
                    part.write_text(text + "\n", encoding="utf-8")
        except BaseException:
            if lock:
                lock.close()
            raise
        return cls(folder, found, database, lock)

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """The run in `folder`, whatever its configuration, to read from, while another process may be writing to it.

        RequestError where there is none, or one of a newer format or a broken one.
        """
        folder = Path(folder)
        if not (folder / DATABASE).is_file():
            near = f"; {folder} does not exist" if not folder.exists() else ""
            raise RequestError(f"{folder}: no run in this folder, {DATABASE} is missing{near}")
        with _explained(folder):
            database = sqlite3.connect(folder / DATABASE, timeout=60, isolation_level=None)
            try:
                _check_format(folder, database)
                definition = json.loads(_about(database, "definition"))
            except BaseException:
                database.close()
                raise
        return cls(folder, definition, database)

    def close(self) -> None:
        self._database.close()
        if self._lock:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ writing

    def begin(self, about: Mapping[str, Any]) -> None:
        """What the units that follow are made with (versions, device, engine), for the record."""
        with self._transaction() as database:
            entry = (_now(), _canonical(about))
            self._session = database.execute(
                "INSERT INTO session (started, about) VALUES (?, ?)", entry
            ).lastrowid

    def write(self, unit: str, rows: Sequence[Row]) -> bool:
        """A unit's rows, in one transaction that is on the disk afterwards; they replace those of a run that failed.

        False, and nothing is written, where the unit is done already without a failure. ValueError for rows of another
        unit.
        """
        if strange := [row.unit for row in rows if row.unit != unit]:
            raise ValueError(f"expected rows of unit {unit}, got some of {strange[0]}")
        values = [_encoded(row) for row in rows]
        marks = ", ".join("?" * len(_COLUMNS))
        with self._transaction() as database:
            if self.done(unit) and not self.failed(unit):
                return False
            database.execute("DELETE FROM row WHERE unit = ?", (unit,))
            database.executemany(
                f"INSERT OR REPLACE INTO row ({', '.join(_COLUMNS)}) VALUES ({marks})", values
            )
            database.execute("INSERT OR REPLACE INTO unit VALUES (?, ?, ?)", (unit, _now(), self._session))
            database.execute("DELETE FROM about WHERE key = 'whole'")
        return True

    def set_whole(self, scores: Sequence[Mapping[str, Any]]) -> None:
        """Keep what is known of all rows together (`whole`), until another row is written."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO about VALUES ('whole', ?)", (json.dumps(_plain(scores)),)
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with _explained(self.folder):
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    # ------------------------------------------------------------------------------------------------ reading

    def done(self, unit: str) -> bool:
        """Whether a unit's rows are there, failed ones too."""
        return self._one("SELECT EXISTS (SELECT 1 FROM unit WHERE id = ?)", unit) == 1

    def failed(self, unit: str) -> bool:
        """Whether a picture of a unit that is done failed."""
        return self._one("SELECT EXISTS (SELECT 1 FROM row WHERE unit = ? AND status = 'failed')", unit) == 1

    def count(self, status: Literal["done", "failed"] | None = None) -> int:
        """Rows, all or those of a status."""
        return int(self._one("SELECT COUNT(*) FROM row WHERE status = COALESCE(?, status)", status))

    def rows(self, **filters: str | int) -> Iterator[Row]:
        """Rows by dataset, task, prior, method, seed and picture, in this order, one at a time.

        filters: column=value, of those columns, unit and status. ValueError for another column.
        """
        return map(_decoded, self._select(_COLUMNS, filters))

    def failures(self) -> Iterator[Row]:
        """The rows of pictures that failed."""
        return self.rows(status="failed")

    def sessions(self) -> list[dict[str, Any]]:
        """Each start of the run, oldest first: when it `started`, the units it finished, and what `begin` was told."""
        query = "SELECT started, about, (SELECT COUNT(*) FROM unit WHERE session = session.id) FROM session ORDER BY id"
        with _explained(self.folder):
            found = self._database.execute(query).fetchall()
        return [{**json.loads(about), "started": started, "units": units} for started, about, units in found]

    def fingerprint(self) -> str:
        """SHA-256 over all rows but time, memory and dates: equal for runs with equal results, however they came."""
        digest = hashlib.sha256()
        for values in self._select(_TIMELESS, {}):
            digest.update(json.dumps(values, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()

    def whole(self) -> list[dict[str, Any]] | None:
        """What `set_whole` kept; None where nothing is, or rows were written since."""
        with _explained(self.folder):
            found = self._database.execute("SELECT value FROM about WHERE key = 'whole'").fetchone()
        return None if found is None else json.loads(found[0])

    def _select(self, columns: Sequence[str], filters: Mapping[str, str | int]) -> Iterator[tuple[Any, ...]]:
        known = _COLUMNS[:8]
        for name in filters:
            if name not in known:
                raise ValueError(
                    f"no column {name!r} to filter by.{nearest(name, known)} Known: {', '.join(known)}"
                )
        where = " AND ".join(f"{name} = :{name}" for name in filters) or "TRUE"
        query = f"SELECT {', '.join(columns)} FROM row WHERE {where} ORDER BY {_ORDER}"
        with _explained(self.folder):
            yield from self._database.execute(query, dict(filters))

    def _one(self, query: str, value: str | None) -> Any:
        with _explained(self.folder):
            return self._database.execute(query, (value,)).fetchone()[0]

    # ------------------------------------------------------------------------------------------------ exporting

    def export(self, path: str | Path) -> int:
        """Write all rows to a .csv or .parquet file, each metric and each kind of file a column of its own; how many.

        RequestError for another ending, or where Parquet's package is missing. OSError where it cannot be written.
        """
        path = Path(path)
        write = {".csv": self._csv, ".parquet": self._parquet}.get(path.suffix.lower())
        if write is None:
            raise RequestError(f"{path}: expected a name that ends in .csv or .parquet")
        metrics, files = (self._keys(column) for column in ("metrics", "files"))
        plain = [name for name in _COLUMNS if name not in ("metrics", "files")]
        header = [*plain, *metrics, *(f"file_{name}" for name in files)]
        table = (
            [
                *(getattr(row, name) for name in plain),
                *map(row.metrics.get, metrics),
                *map(row.files.get, files),
            ]
            for row in self.rows()
        )
        with atomic(path) as part:
            return write(part, path, header, table)

    def _csv(self, part: Path, path: Path, header: list[str], table: Iterable[list[Any]]) -> int:
        count = 0
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for row in table:
                writer.writerow(row)
                count += 1
        return count

    def _parquet(self, part: Path, path: Path, header: list[str], table: Iterable[list[Any]]) -> int:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise RequestError(
                f"{path}: Parquet needs pyarrow: pip install 'invdiff[parquet]'; or name a .csv"
            ) from None
        texts = {*_COLUMNS[:9], "checksum"}
        types = {name: pa.string() for name in header if name in texts or name.startswith("file_")}
        types["seed"] = pa.int64()
        schema = pa.schema([(name, types.get(name, pa.float64())) for name in header])
        count = 0
        with parquet.ParquetWriter(part, schema) as writer:
            for chunk in _chunks(table, 10_000):
                columns = zip(*chunk, strict=True)
                arrays = [pa.array(column, one.type) for column, one in zip(columns, schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                count += len(chunk)
        return count

    def _keys(self, column: str) -> list[str]:
        query = f"SELECT DISTINCT key FROM row, json_each(row.{column}) ORDER BY key"
        with _explained(self.folder):
            return [key for (key,) in self._database.execute(query)]


def clear(folder: str | Path) -> None:
    """Remove the run in `folder`, its pictures too, and nothing else that lies there; what --overwrite means.

    Nothing at all where there is no run. RequestError where another
    process is writing to it.
    """
    folder = Path(folder)
    if not _holds_run(folder):
        return
    lock = _locked(folder)
    try:
        for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / PICTURES, ignore_errors=True)
        (folder / DEFINITION).unlink(missing_ok=True)  # last: it tells that the pictures are a run's
    finally:
        if lock:
            lock.close()


def flush(path: Path) -> None:
    """Have a finished file and its name on the disk: a row must not outlive its pictures when the power fails."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _holds_run(folder: Path) -> bool:
    """Whether there is a run, or what is left of one that was being removed: then `PICTURES` are its own."""
    return (folder / DATABASE).is_file() or (folder / DEFINITION).is_file()


def differences(found: Any, wanted: Any, prefix: str = "") -> list[str]:
    """The dotted keys in which two definitions differ, but for those that no result depends on."""
    if prefix in ("summary.", "reproduces."):
        return []
    if isinstance(found, dict) and isinstance(wanted, dict):
        pairs = [(str(key), found.get(key), wanted.get(key)) for key in sorted({*found, *wanted})]
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(found, wanted, strict=True))]
    else:
        return [] if found == wanted else [prefix.rstrip(".")]
    return [key for name, a, b in pairs if a != b for key in differences(a, b, f"{prefix}{name}.")]


# ------------------------------------------------------------------------------------------------------ the database


def _connected(folder: Path, definition: str) -> sqlite3.Connection:
    """To a database that has its tables; to a new one with this definition where there is none."""
    database = sqlite3.connect(folder / DATABASE, timeout=60, isolation_level=None)
    try:
        new = (
            database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
        )  # or killed as it was made
        if not new:
            _check_format(folder, database)
        # A reader is never in the writer's way. FULL: a unit takes seconds and its fsync milliseconds, which is little
        # to pay for that nothing is lost when the power is.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        if new:
            database.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_MARK}; PRAGMA user_version = {FORMAT};"
            )
            database.execute(
                "INSERT INTO about VALUES ('definition', ?), ('created', ?)", (definition, _now())
            )
            database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def _check_format(folder: Path, database: sqlite3.Connection) -> None:
    mark, version = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    if mark != _MARK:
        raise RequestError(f"{folder / DATABASE}: not a run of invdiff bench; choose another --out")
    if version > FORMAT:
        raise RequestError(
            f"{folder / DATABASE}: written by a newer invdiff (format {version}, this one knows {FORMAT}); "
            "update invdiff"
        )


def _about(database: sqlite3.Connection, key: str) -> str:
    found = database.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
    if found is None:
        raise sqlite3.DatabaseError(f"{key} is missing")
    return str(found[0])


def _another(folder: Path, found: Any, wanted: Any) -> RequestError:
    keys = differences(found, wanted)
    more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
    return RequestError(
        f"{folder} holds a run of another configuration, which differs in {', '.join(keys[:6])}{more}: choose another "
        "--out, or --overwrite to remove it"
    )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """What SQLite raises, in one line: RequestError for a broken file, InvdiffError for a disk that fails."""
    where = folder / DATABASE
    try:
        yield
    except sqlite3.OperationalError as error:  # full, locked, read-only
        raise InvdiffError(f"{where}: {error}; what was finished before is kept") from None
    except sqlite3.DatabaseError as error:
        raise RequestError(
            f"{where}: broken or no SQLite database ({error}); restore it from a copy, or choose another --out"
        ) from None


def _locked(folder: Path) -> IO[str] | None:
    """A lock that the system takes back when this process ends, however; None where it knows no such thing."""
    try:
        import fcntl
    except ImportError:
        return None
    file = (folder / LOCK).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RequestError(
            f"{folder}: another process is writing to this run; wait for it, or choose another --out"
        ) from None
    except OSError:  # a file system without locks
        pass
    return file


# --------------------------------------------------------------------------------------- rows as the database has them


def _encoded(row: Row) -> tuple[Any, ...]:
    return tuple(_canonical(value) if isinstance(value, dict) else value for value in astuple(row))


def _decoded(values: tuple[Any, ...]) -> Row:
    given = dict(zip(_COLUMNS, values, strict=True))
    given["metrics"] = {
        name: float(value) if isinstance(value, str) else value
        for name, value in json.loads(given["metrics"]).items()
    }
    given["files"] = json.loads(given["files"])
    return Row(**given)


def _canonical(value: Mapping[str, Any], *, ordered: bool = True) -> str:
    """JSON with every digit of a number, and those that JSON does not know as words.

    ordered: keys by name; a definition keeps the order it was written in, which is that of the tables.
    """
    return json.dumps(
        _plain(value), sort_keys=ordered, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )


def _plain(value: Any) -> Any:
    """As JSON has it; infinity and NaN as words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _chunks(table: Iterable[list[Any]], size: int) -> Iterator[list[list[Any]]]:
    chunk: list[list[Any]] = []
    for row in table:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
