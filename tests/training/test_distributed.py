"""Two processes with one global batch train as one process does; what is left of a killed run goes on."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from invdiff.errors import RequestError
from invdiff.training import train
from invdiff.training.distributed import Processes

pytest.importorskip("accelerate")

# One interpreter imports everything and forks, as torchrun would start them, each pair of processes.
LAUNCHER = """
import json, os, signal, socket, sys
import torch
from accelerate import Accelerator
from pathlib import Path
from invdiff.training import checkpoint, loop, train

torch.set_num_threads(1)
loop.LOG_EVERY = 1
recipe, out = sys.argv[1:]
one_step = loop.Run.one_step

def dies(run):
    if run.step == 15 and run.processes.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return one_step(run)

def launched(resume):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in ("0", "1"):
        child = os.fork()
        if not child:
            os.environ.update(WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE="2")
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            code = 99
            if not resume:
                loop.Run.one_step = dies
            try:
                train(recipe, out, resume=resume)
                code = 0
            except loop.InvdiffError as error:
                print(rank, error, file=sys.stderr, flush=True)
                code = error.exit_code
            finally:
                os._exit(code)
        children.append(child)
    return children

def ended(children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

killed = ended(launched(False))
step = checkpoint.load(checkpoint.newest(Path(out) / "checkpoints"))[1]["step"]
print(json.dumps({"killed": killed, "step": step, "resumed": ended(launched(True))}))
"""


def losses(out: Path) -> dict[str, float]:
    with (out / "log.csv").open(newline="") as file:
        return {row["step"]: float(row["loss"]) for row in csv.DictReader(file)}


CONDITION = {
    "operator": {
        "choice": [
            {"mask": {"pattern": "random", "missing": 0.5, "seed": {"integer": [0, 99]}}},
            {"downsample": {"factor": 2}},
        ]
    },
    "noise": [0.0, 0.1],
    "augment": 0.1,
    "dropout": 0.2,
}
"""A conditional network has more to draw than any other."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_processes_make_one_processes_loss_curve_and_a_killed_one_can_be_resumed(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = {"images": 160, "data": {"validation": 0}, "condition": CONDITION}
    path = recipe(accumulate=2, samples=0, checkpoint={"minutes": 0}, **alike)
    command = [sys.executable, "-c", LAUNCHER, str(path), str(tmp_path / "two")]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["killed"] == [1, -9], done.stderr
    assert "another process of this run ended; start them again with --resume" in done.stderr
    assert told["resumed"] == [0, 0], done.stderr
    assert told["step"] == 15
    assert done.stderr.count("step 40/40") == 1  # the second process is silent

    monkeypatch.setattr("invdiff.training.loop.LOG_EVERY", 1)
    train(recipe(**alike), tmp_path / "one")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == list(two) == [str(step) for step in range(1, 41)]
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-4)


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    processes = Processes("cpu")
    processes.count = 2
    with pytest.raises(RequestError, match="batch: expected a multiple of 2 processes × accumulate 3, got 8"):
        processes.check(8, 3)
    parts = []
    for processes.rank in (0, 1):
        parts += [processes.part(12, 3, index) for index in range(3)]
    assert sorted(i for part in parts for i in range(12)[part]) == list(range(12))


def test_several_processes_without_accelerate_are_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        RequestError, match=r"accelerate, which is not installed; pip install 'invdiff\[accelerate\]'"
    ):
        Processes("cpu")
