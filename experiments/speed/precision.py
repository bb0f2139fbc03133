"""What bfloat16 costs in quality: every method in the two precisions, on the same pictures, measurements and draws.

    INVDIFF_DATA=<data folder> python experiments/speed/precision.py [--pictures 10] [--size 96] [--out runs/precision]

Per method the paired mean difference, bfloat16 less float32, with its 95 % interval, and the ratio of the seconds. It
goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from invdiff.bench.definition import load
from invdiff.bench.engines import run
from invdiff.bench.statistics import paired
from invdiff.bench.store import Store

METHODS = {
    "mmps": 20, "dps": 100, "diffpir": 50, "ddrm": 20, "ddnm": 30, "pigdm": 30, "repaint": 30,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("runs/precision"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "precision.yaml"
    definition = {
        "name": "precision",
        "datasets": [{"name": "cbsd68", "path": "eval/cbsd68", "crop": given.size, "limit": given.pictures}],
        "tasks": [{"name": "inpaint80", "operator": {"mask": {"pattern": "random", "missing": 0.8}}}],
        "methods": [{"method": name, "steps": steps} for name, steps in METHODS.items()],
        "metrics": ["psnr", "lpips_squeeze"],
        "pictures": False,
    }
    path.write_text(json.dumps(definition))  # JSON is YAML
    rows = {}
    for precision in ("bfloat16", "float32"):
        benchmark = load(path, [f"precision={precision}"])
        run(benchmark, given.out / precision)
        with Store.read(given.out / precision) as store:
            rows[precision] = list(store.rows(status="done"))
    print("| method | PSNR, dB | LPIPS, % | seconds |\n|---|---|---|---|")
    for name in METHODS:
        cells = []
        for metric, higher in (("psnr", True), ("lpips_squeeze", False)):
            half, full = (
                {row.picture: row.metrics[metric] for row in rows[precision] if row.method == name}
                for precision in ("bfloat16", "float32")
            )
            found = paired(half, full, higher=higher)
            mean = sum(value or 0.0 for value in full.values()) / len(full)
            scale, sign = (1.0, "") if higher else (100 / mean, " %")
            low, high = (value * scale for value in (found.low or 0.0, found.high or 0.0))
            cells.append(f"{(found.difference or 0.0) * scale:+.3f}{sign} [{low:+.3f}, {high:+.3f}]")
        half, full = (
            sum(row.seconds for row in rows[precision] if row.method == name)
            for precision in ("bfloat16", "float32")
        )
        print(f"| {name} | {' | '.join(cells)} | {half / full:.2f}× |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
