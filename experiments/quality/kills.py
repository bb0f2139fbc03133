"""A benchmark killed at random moments ends with the same store, byte for byte, as one that is left alone.

    python experiments/quality/kills.py [BENCHMARK.yaml] [--kills 100] [--workers 1] [--out runs/kills] [--seed 0]

The benchmark runs once undisturbed. Then it is started again and again in one folder, and killed (SIGKILL) after a time
drawn evenly from 0 to what the undisturbed one took, until it gets to its end; then in the next folder,
until it has been killed so often. After every kill each row that is there must be one of the undisturbed run's, and the
pictures it names the same; at each end the stores must be equal (time, memory and dates aside).

Without BENCHMARK.yaml it is a small one of its own: an untrained network, five pictures of 16², two tasks, two methods.
Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from invdiff.bench import engines
from invdiff.bench.definition import load
from invdiff.bench.store import DATABASE, Row, Store
from invdiff.errors import RequestError

PART = 1.0
"""Of the undisturbed run's time, the longest that one is left alone before it is killed."""


@dataclass(kw_only=True)
class Found:
    """What came of it. wrong: in words, what differs."""

    kills: int = 0
    ends: int = 0
    """Runs that got to their end."""
    units: int = 0
    """Of the benchmark."""
    seconds: float = 0.0
    """Of the undisturbed run."""
    rows: list[int] = field(default_factory=list)
    """That were there at each kill."""
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        hit = sum(rows > 0 for rows in self.rows)
        said = "; ".join(self.wrong) or "every row and picture equal to the undisturbed run's, byte for byte"
        return (
            f"{self.kills} kills in {self.ends} runs of {self.units} units ({self.seconds:.1f} s undisturbed), {hit} "
            f"with some rows written: {said}"
        )


def kill(file: Path, out: Path, *, kills: int, workers: int = 1, seed: int = 0) -> Found:
    """Run and kill the benchmark in `file`, in folders in `out`, which must be new."""
    out.mkdir(parents=True)
    benchmark, draws, found = load(file), random.Random(seed), Found()
    preloads = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if preloads else "spawn")
    if preloads:  # torch is imported once, and not for every life
        context.set_forkserver_preload(
            ["invdiff.bench.engines", "invdiff.bench.work", "invdiff.priors.files"]
        )

    def started(folder: Path) -> Any:
        life = context.Process(target=engines.run, args=(benchmark, folder), kwargs={"workers": workers})
        life.start()
        return life

    for name in ("warm-up", "undisturbed"):  # the first of them waits for torch
        began, life = time.monotonic(), started(out / name)
        life.join()
        if life.exitcode != 0:
            raise RuntimeError(f"the undisturbed run ended with exit code {life.exitcode}")
        found.seconds = time.monotonic() - began
    whole, right = rows_in(out / "undisturbed"), fingerprint(out / "undisturbed")
    found.units = len({row.unit for row in whole.values()})
    while found.kills < kills:
        folder = out / f"killed-{found.ends}"
        while True:
            life = started(folder)
            life.join(draws.uniform(0, PART * found.seconds) if found.kills < kills else None)
            if life.exitcode is not None:
                break
            life.kill()
            life.join()
            found.kills += 1
            there = rows_in(folder)
            found.rows.append(len(there))
            found.wrong += [
                f"kill {found.kills}: {said}"
                for said in differences(folder, there, out / "undisturbed", whole)
            ]
        found.ends += 1
        if life.exitcode != 0:
            found.wrong.append(f"{folder.name}: ended with exit code {life.exitcode}")
            return found
        there = rows_in(folder)
        if fingerprint(folder) != right or len(there) != len(whole):
            found.wrong.append(f"{folder.name}: another fingerprint")
        found.wrong += [
            f"{folder.name}: {said}" for said in differences(folder, there, out / "undisturbed", whole)
        ]
        if list(folder.rglob("*.part")):
            found.wrong.append(f"{folder.name}: pictures half written are left")
    return found


Key = tuple[str, str]


def rows_in(folder: Path) -> dict[Key, Row]:
    """By unit and picture; none where the database is not there yet."""
    if not (folder / DATABASE).is_file():
        return {}
    try:
        with Store.read(folder) as store:
            return {(row.unit, row.picture): row for row in store.rows()}
    except RequestError:  # killed as it was made; were it broken, the next life would end with an error
        return {}


def fingerprint(folder: Path) -> str:
    with Store.read(folder) as store:
        return store.fingerprint()


def differences(folder: Path, there: dict[Key, Row], other: Path, whole: dict[Key, Row]) -> list[str]:
    """In what these rows, and the pictures they name, are not those of the other folder."""
    found = []
    for key, row in there.items():
        if key not in whole or timeless(row) != timeless(whole[key]):
            found.append(f"{key}: another row")
        for name in row.files.values():
            if not (folder / name).is_file() or (folder / name).read_bytes() != (other / name).read_bytes():
                found.append(f"{name}: missing, or other bytes")
    return found


def timeless(row: Row) -> str:
    """Every digit of it, but time and memory."""
    return json.dumps(
        {k: v for k, v in asdict(row).items() if k not in ("seconds", "peak_mib")}, sort_keys=True
    )


def small(folder: Path) -> Path:
    """The file of a benchmark whose units take milliseconds."""
    import torch

    from invdiff.priors import Card
    from invdiff.priors.files import save_prior
    from invdiff.priors.nets.unet import UNet
    from invdiff.priors.precondition import EDM

    (folder / "pictures").mkdir(parents=True)
    draws = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(draws.integers(30, 220, (16, 16, 3), np.uint8)).save(folder / "pictures" / f"{i}.png")
    network, random_draws = (
        UNet(channels=3, widths=(8,), blocks=(1,), embedding=16),
        torch.Generator().manual_seed(0),
    )
    for values in network.parameters():
        values.data = 0.1 * torch.randn(values.shape, generator=random_draws)
    save_prior(folder / "tiny.safetensors", network, EDM(), Card(name="tiny", channels=3))
    definition = {
        "name": "kills",
        "datasets": [{"name": "set", "path": "pictures"}],
        "tasks": [
            {"name": "half", "operator": {"mask": {"pattern": "random", "missing": 0.5}}},
            {"name": "sr", "operator": {"downsample": {"factor": 2, "kernel": "box"}}, "noise": 0.05},
        ],
        "priors": ["tiny.safetensors"],
        "methods": [{"method": "ddnm", "steps": 3}, {"method": "dps", "steps": 3, "samples": 2}],
        "metrics": ["psnr", "consistency", "diversity"],
        "root": ".",
    }
    path = folder / "kills.yaml"
    path.write_text(json.dumps(definition))  # JSON is YAML
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("benchmark", nargs="?", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"), help="a folder that is not there yet")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    if given.out.exists():
        parser.error(f"--out {given.out}: is there already; remove it, or choose another")
    file = given.benchmark or small(given.out / "benchmark")
    found = kill(file, given.out / "runs", kills=given.kills, workers=given.workers, seed=given.seed)
    (given.out / "found.json").write_text(json.dumps(asdict(found), indent=1) + "\n")
    print(found)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
