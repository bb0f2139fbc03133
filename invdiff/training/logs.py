"""What a run leaves beside its weights: rows of CSV files and pictures, and the same for TensorBoard."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from torch import Tensor

from invdiff.errors import RequestError
from invdiff.images import atomic, write_image

WHERE = "tensorboard"
"""The folder in OUT."""


class Logs:
    """CSV files and pictures in OUT, and TensorBoard's events where asked for."""

    def __init__(self, out: Path, tensorboard: bool = False) -> None:
        """RequestError where TensorBoard is asked for and not installed."""
        self.out, self._board, self._wanted = out, None, tensorboard
        if tensorboard:
            _writer_class()

    def begin(self, step: int) -> None:
        """Forget what was logged after this step, which is done again."""
        for name in ("log.csv", "validation.csv"):
            _drop_rows_after(self.out / name, step)
        if self._wanted:
            self._board = _writer_class()(str(self.out / WHERE), purge_step=step + 1 if step else None)

    def row(self, name: str, step: int, **values: str) -> None:
        """A row of a CSV file in OUT; numbers are curves for TensorBoard."""
        path, row = self.out / name, {"step": step, **values}
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(f"{Path(name).stem}/{key}", float(value), step)

    def picture(self, name: str, step: int, sheet: Tensor) -> None:
        """A (C, H, W) picture, 0 to 1, as OUT/name."""
        array = sheet.permute(1, 2, 0).numpy()
        write_image(self.out / name, array)
        if self._board is not None:
            self._board.add_image(Path(name).stem, array.clip(0, 1), step, dataformats="HWC")

    def end(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RequestError(
            "tensorboard: asked for and not installed; pip install 'invdiff[tensorboard]', or tensorboard: false"
        ) from None
    return SummaryWriter


def _drop_rows_after(path: Path, step: int) -> None:
    """Take out what a run logged after the checkpoint it now goes on from: those steps are done again."""
    if not path.exists():
        return
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if int(row.partition(",")[0] or 0) <= step]
    with atomic(path) as part:
        part.write_text("\n".join([header, *kept, ""]), encoding="utf-8")
