"""What is known only of all restored pictures together: FID and KID of a method on a task of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from invdiff import images
from invdiff.bench.scores import Extractor, inception, whole_run
from invdiff.bench.store import Row, Store

WAY = ("dataset", "task", "prior", "method")


def scored(store: Store, names: Sequence[str], *, extractor: Extractor | None = None) -> list[dict[str, Any]]:
    """For every data set, task, prior and method of a run its scores of these names; see `scores.whole_run`.

    Of several samples the first is taken, of several seeds every one. RequestError as `inception` raises it.
    """
    extractor = extractor or inception()
    found = []
    ways = groupby(store.rows(status="done"), key=lambda row: tuple(getattr(row, axis) for axis in WAY))
    for way in [way for way, _ in ways]:
        of_it = dict(zip(WAY, way, strict=True))
        truths, restored = (
            _pictures(store, of_it, roles) for roles in (("truth",), ("sample_1", "restored"))
        )
        found.append({**of_it, "metrics": whole_run(names, truths, restored, extractor=extractor)})
    return found


def _pictures(store: Store, of_it: dict[str, str], roles: Sequence[str]) -> Iterator[Tensor]:
    """(C, H, W) each, the first of these roles that a row has."""
    for row in store.rows(**of_it, status="done"):
        file = _file(row, roles)
        yield torch.from_numpy(images.read_image(store.folder / file).array.transpose(2, 0, 1))


def _file(row: Row, roles: Sequence[str]) -> str:
    return next(row.files[role] for role in roles if role in row.files)
