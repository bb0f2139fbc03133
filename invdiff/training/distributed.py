"""Several processes that train one network: each takes its part of the same global batch.

Started by torchrun or `accelerate launch`, one process for each GPU; without either, a run is one process and nothing
here is needed. Batches and noise are drawn by (seed, step) in every process alike, so the loss curve is one process's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from invdiff.errors import InvdiffError, RequestError
from invdiff.priors.network import resolve_device


class Processes:
    """This process among those of the run. `device` is its own."""

    def __init__(self, device: str = "auto") -> None:
        """RequestError where there are several and accelerate is not installed."""
        self.device, self._accelerator = resolve_device(device), None
        self.count, self.rank = 1, 0
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return
        try:
            from accelerate import Accelerator
        except ImportError:
            raise RequestError(
                "several processes train through accelerate, which is not installed; pip install 'invdiff[accelerate]'"
            ) from None
        accelerator: Any = Accelerator(cpu=self.device.type == "cpu", mixed_precision="no")
        self._accelerator, self.device = accelerator, accelerator.device
        self.count, self.rank = accelerator.num_processes, accelerator.process_index

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network, its gradients averaged over the processes."""
        return network if self._accelerator is None else self._accelerator.prepare_model(network)

    @contextmanager
    def gathering(self, network: nn.Module, now: bool) -> Iterator[None]:
        """Backward passes inside exchange gradients `now`, or only add to this process's own.

        InvdiffError where another process ended meanwhile.
        """
        alone = nullcontext() if self._accelerator is None or now else self._accelerator.no_sync(network)
        with self.lost(), alone:
            yield

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes."""
        if self._accelerator is None:
            return value
        with self.lost():
            return self._accelerator.reduce(value, "mean")

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process; all get the same answer."""
        if self._accelerator is None:
            return flag
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def finish(self) -> None:
        """Wait for the others, which wait for this one."""
        if self._accelerator is not None:
            with self.lost():
                self._accelerator.wait_for_everyone()
            self._accelerator.end_training()

    @contextmanager
    def lost(self) -> Iterator[None]:
        """InvdiffError for what torch says where another process ended."""
        try:
            yield
        except RuntimeError as error:
            said = " ".join(str(error).split())
            if self.count > 1 and any(word in said for word in ("gloo", "NCCL", "Connection", "peer")):
                raise InvdiffError(
                    "another process of this run ended; start them again with --resume to go on from the last "
                    f"checkpoint ({said[:120]})"
                ) from None
            raise

    def part(self, batch: int, parts: int, index: int) -> slice:
        """Which pictures of a global batch are this process's, in its part `index` of `parts`."""
        size = batch // (self.count * parts)
        begin = (index * self.count + self.rank) * size
        return slice(begin, begin + size)

    def check(self, batch: int, parts: int) -> None:
        """RequestError for a batch that cannot be divided alike."""
        if batch % (self.count * parts):
            raise RequestError(
                f"batch: expected a multiple of {self.count} processes × accumulate {parts}, got {batch}"
            )
