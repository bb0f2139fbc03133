"""Freed memory is kept, where the C library lets us ask for it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import warnings

import pytest
import torch

import invdiff
from invdiff import allocator, operators
from invdiff.cli import main as cli
from invdiff.priors import Card, FunctionPrior, GaussianPrior

PROGRAM = """
import resource, sys
import invdiff
from invdiff import allocator, operators
from invdiff.priors import Card, FunctionPrior, GaussianPrior
how = sys.argv[1]
if how != "never asked for":
    assert allocator.keep_freed()
large, windows = "large" in how, "windows" in how
side = 1024 + 512 * (large or windows) + 2560 * (large and windows)
allocator.suit(side**2, whole=not windows)
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(2**27)
    ctypes.memset(block, 1, 2**27)
    libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
@pytest.mark.parametrize(
    ("how", "again"),
    [
        ("kept", False),
        ("of a large picture", True),
        ("in windows", False),
        ("of a very large picture in windows", True),
        ("never asked for", True),
    ],
)
def test_a_block_asked_for_again_needs_no_new_pages(how: str, again: bool) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    faults = int(done.stdout)
    assert faults > 50 if again else faults < 10  # 32,768 pages of 4 KiB, or 64 huge ones


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_keeps", False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not allocator.keep_freed()
    monkeypatch.setattr(sys, "platform", "linux")

    class Other:
        def __init__(self, name: None) -> None:
            pass

    monkeypatch.setattr(ctypes, "CDLL", Other)
    assert not allocator.keep_freed()
    allocator.suit(1, whole=True)


def test_the_command_line_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(cli, "keep_freed", lambda: asked.append(True))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(sys, "argv", ["invdiff", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    assert asked == [True]


def test_restorations_and_samples_say_how_large_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, bool]] = []
    monkeypatch.setattr(allocator, "suit", lambda pixels, *, whole: told.append((pixels, whole)))
    white = GaussianPrior.white()
    tile = FunctionPrior(white, Card(name="tile", channels=1, size=8))
    for prior in (white, tile):
        invdiff.restore(
            torch.rand(1, 1, 12, 12),
            operators.Identity((1, 12, 12)),
            prior,
            sigma_y=0.1,
            method="ddnm",
            steps=2,
        )
        invdiff.sample(prior, (1, 12, 12), steps=2)
    assert told == [(144, True), (144, True), (144, False), (144, False)]
