"""A unit of a benchmark from its pictures' files to its rows.

All that is drawn is drawn by the seed, the picture and what is measured of it: the operator's own randomness, the
measurement's noise and the sampler's. So what a unit gives depends on nothing but itself, and every method is given the
same measurements.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import invdiff
from invdiff import config, images, specs
from invdiff.bench import scores
from invdiff.bench.definition import Benchmark, Dataset, Method, Task
from invdiff.bench.peers import PEERS
from invdiff.bench.plan import Picture, Unit
from invdiff.bench.store import PICTURES, Row, flush
from invdiff.errors import InvdiffError, RequestError
from invdiff.masks import checked, read_mask_file
from invdiff.measurements import Problem
from invdiff.methods import METHODS
from invdiff.methods.streams import checksum
from invdiff.noise import NoiseSpec
from invdiff.operators import GaussianNoise, Mask, Noise, Operator
from invdiff.priors.network import resolve_device
from invdiff.profiling import Peak
from invdiff.restore import measured
from invdiff.spec_files import Composition, Stack
from invdiff.specs import Kept, Spec
from invdiff.training.data import middle, reduced

FAILURES = (InvdiffError, RuntimeError, MemoryError, ValueError, ArithmeticError, OSError)
"""What makes a picture's row a failed one, and lets the others go on; anything else is a bug, and stops the run."""

OPERATORS = 64
"""So many are kept from unit to unit: pictures of all sizes, a million of them, would fill the memory."""

SHOWN = 4
"""Of several samples so many are written, beside their mean and standard deviation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A picture and the measurement of it."""

    truth: Tensor
    """(1, C, H, W), float32, image units."""
    operator: Operator
    y: Tensor
    """(1, ...)."""
    sigma_y: float
    """In image units; where the noise is not Gaussian the root of its mean square."""
    noise: Noise | None
    picture: str
    """The truth's checksum."""
    measurement: str
    """A digest of all that decides y."""

    @property
    def given(self) -> dict[str, Any]:
        """As `restore` takes the noise."""
        return {"sigma_y": self.sigma_y} if self.noise is None else {"noise": self.noise}


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What restoring a picture gave. evaluations, seconds: for all its samples."""

    samples: Tensor
    """(S, C, H, W), float32, on the CPU, unclipped."""
    evaluations: float
    seconds: float
    peak_mib: float


class Worker:
    """Runs units. Every prior is loaded once, when a unit first asks for it.

    folder: the run's. device: in place of the benchmark's. RequestError where a metric's weights are missing, or for a
    setting that is none of its method's.
    """

    def __init__(self, benchmark: Benchmark, folder: str | Path, *, device: str | None = None) -> None:
        self.benchmark, self.folder = benchmark, Path(folder)
        self.device = resolve_device(device or benchmark.device)
        self._datasets: dict[str, Dataset] = {one.name: one for one in benchmark.datasets}
        self._tasks: dict[str, Task] = {one.name: one for one in benchmark.tasks}
        self._methods: dict[str, Method] = {one.name: one for one in benchmark.methods}
        self._priors: dict[str, Any] = {}
        self._operators: dict[tuple[str, tuple[int, ...]], Operator] = {}
        for one in benchmark.methods:
            if one.method in METHODS:  # all that a method of ours says of its settings, before anything runs
                steps = {} if one.steps is None else {"steps": one.steps}
                config.build(METHODS[one.method], {**one.settings, **steps}, f"methods.{one.name}.settings")
        self._lpips = scores.load_lpips(benchmark.metrics, device=str(self.device))

    def run(self, unit: Unit) -> list[Row]:
        """Its rows, a failed one for a picture that failed; their pictures are on the disk then.

        RequestError where its prior cannot be loaded; OSError where a picture cannot be written.
        """
        if len(self._operators) > OPERATORS:
            self._operators.clear()  # not within a unit, where one object is what makes pictures go together
        with settled(self.benchmark.threads, self.device):
            return self._run(unit)

    def _run(self, unit: Unit) -> list[Row]:
        method = self._methods[unit.method]
        prior = self.prior(unit.prior) if method.peer is None or PEERS[method.peer].uses_prior else None
        cases: dict[int, Case] = {}
        reasons: dict[int, str] = {}
        for place, picture in enumerate(unit.pictures):
            with _noting(reasons, place):
                cases[place] = self.case(unit, picture)
        found = self._restored_all(unit, method, prior, cases, reasons)
        rows = []
        for place, picture in enumerate(unit.pictures):
            row = Row.of(unit, picture)
            if place in found:
                with _noting(reasons, place):
                    row = self._scored(row, method, cases[place], found[place])
            if place in reasons:
                row = replace(row, status="failed", reason=reasons[place])
            elif self.benchmark.pictures:
                row = replace(row, files=self._written(unit, place, cases[place], found[place].samples))
            rows.append(row)
        return rows

    def prior(self, name: str) -> Any:
        if name not in self._priors:
            place = self.benchmark.prior_source(name)
            self._priors[name] = invdiff.load_prior(
                place, device=self.device, precision=self.benchmark.precision
            )
        return self._priors[name]

    # ------------------------------------------------------------------------------------------ the measurement

    def case(self, unit: Unit, picture: Picture) -> Case:
        dataset, task = self._datasets[unit.dataset], self._tasks[unit.task]
        truth = read(picture, dataset)
        shape = (truth.shape[1], truth.shape[2], truth.shape[3])
        spec, noise = self._spec(task, picture, shape), self.benchmark.noise_of(task)
        key = f"{unit.seed} {self._said(task, spec)} {checksum(truth[0])}"
        digest = hashlib.sha256(key.encode())
        seed = int.from_bytes(digest.digest()[:4], "big")
        operator = self._operator(task, spec, shape, seed)
        drawn = noise.model() if isinstance(noise, NoiseSpec) else GaussianNoise(noise)
        y = drawn.sample(operator.A(truth), torch.Generator().manual_seed(seed))
        if isinstance(operator, Mask):
            y = operator.A(y)  # what is not observed has no noise either
        model = None if isinstance(drawn, GaussianNoise) else drawn
        sigma_y = (
            float(measured(y, operator, noise=model).spread[0]) if isinstance(noise, NoiseSpec) else noise
        )
        return Case(
            truth=truth, operator=operator, y=y, sigma_y=sigma_y, noise=model,
            picture=checksum(truth[0]), measurement=digest.hexdigest(),
        )  # fmt: skip

    def _spec(self, task: Task, picture: Picture, shape: tuple[int, int, int]) -> Spec:
        masks = self.benchmark.masks_of(task)
        if masks is None:
            return self.benchmark.spec_of(task)
        name = Path(picture.member or picture.path)
        file = read_mask_file(masks.path_for(name), masks.keep)
        return Kept(keep=checked(file, name, (shape[1], shape[2]), masks.keep).keep)

    def _said(self, task: Task, spec: Spec) -> str:
        """What is measured, wherever the definition lies and whatever it is called there."""
        what = self.benchmark.task_record(task)
        if isinstance(spec, Kept) and spec.keep is not None:
            what = {
                "noise": what["noise"],
                "kept": hashlib.sha256(np.packbits(spec.keep > 0).data).hexdigest(),
            }
        return json.dumps(what, sort_keys=True)

    def _operator(self, task: Task, spec: Spec, shape: tuple[int, int, int], seed: int) -> Operator:
        """One object for all pictures of a size, where it is the same: they can go through a network together."""
        if isinstance(spec, Kept):
            return spec.operator(shape)
        own = seeded(spec, seed)
        if own is not spec:
            return own.operator(shape)
        key = task.name, shape
        if key not in self._operators:
            self._operators[key] = spec.operator(shape)
        return self._operators[key]

    # ------------------------------------------------------------------------------------------- the restoration

    def _restored_all(
        self, unit: Unit, method: Method, prior: Any, cases: dict[int, Case], reasons: dict[int, str]
    ) -> dict[int, Found]:
        """Those of one size and one operator together, and one by one where that fails, others one by one.

        A peer is told one σ_y for all it is given: where each has its own, as of photons, it is given one.
        """
        several = list(cases.values())
        alike = all(one.operator is several[0].operator for one in several)
        if method.peer is not None:
            alike = alike and all(one.sigma_y == several[0].sigma_y for one in several)
        if len(several) > 1 and alike:
            together: dict[int, str] = {}
            with _noting(together, 0):
                return dict(zip(cases, self._restored(unit, method, prior, several), strict=True))
            warnings.warn(
                f"{unit.method} on {unit.task}: {len(several)} pictures failed together ({together[0]}); "
                "each is tried by itself",
                stacklevel=2,
            )
        found = {}
        for place, case in cases.items():
            with _noting(reasons, place):
                found[place] = self._restored(unit, method, prior, [case])[0]
        return found

    def _restored(self, unit: Unit, method: Method, prior: Any, cases: Sequence[Case]) -> list[Found]:
        """These cases, of one operator, as one batch."""
        count = method.samples * method.best_of
        y = torch.cat([case.y for case in cases])
        peak = Peak(self.device)
        began = time.perf_counter()
        if method.peer is not None:
            place = self.device
            samples, evaluations = PEERS[method.peer].restore(
                y.to(place), cases[0].operator.to(place, y.dtype), prior, sigma_y=cases[0].sigma_y,
                noise=cases[0].noise, settings=method.settings, steps=method.steps, samples=count, seed=unit.seed,
            )  # fmt: skip
        else:
            result = invdiff.restore(
                y, cases[0].operator, prior, method=method.method or "auto", options=method.settings,
                steps=method.steps, effort=method.effort, samples=count, seed=unit.seed, batch=len(cases),
                device=self.device,
                precision=self.benchmark.precision, **cases[0].given,
            )  # fmt: skip
            samples, evaluations = result.samples, result.evaluations
        samples = samples.float().cpu()
        seconds, mib = time.perf_counter() - began, peak.mib()
        if samples.shape[:2] != (count, len(cases)) or not samples.isfinite().all():
            raise InvdiffError(
                f"{unit.method}: the result is not finite, or of a wrong shape {tuple(samples.shape)}"
            )
        return [
            Found(
                samples=self._best(samples[:, i], cases[i].truth[0], method),
                evaluations=float(evaluations) * count, seconds=seconds / len(cases), peak_mib=mib,
            )
            for i in range(len(cases))
        ]  # fmt: skip

    def _best(self, samples: Tensor, truth: Tensor, method: Method) -> Tensor:
        """Of every `best_of` samples the one nearest to the truth."""
        if method.best_of == 1:
            return samples
        colour, border = self.benchmark.colour, self.benchmark.border
        groups = samples.split(method.best_of)
        return torch.stack([one[scores.nearest(one, truth, colour=colour, border=border)] for one in groups])

    # ----------------------------------------------------------------------------------------------- the results

    def _scored(self, row: Row, method: Method, case: Case, found: Found) -> Row:
        metrics = scores.score(
            found.samples, case.truth[0], case.y, case.operator, case.sigma_y, self.benchmark.metrics,
            colour=self.benchmark.colour, border=self.benchmark.border, lpips=self._lpips,
        )  # fmt: skip
        numbers = found.samples.contiguous().numpy().astype("<f4", copy=False)
        return replace(
            row, metrics=metrics, seconds=found.seconds, evaluations=found.evaluations, peak_mib=found.peak_mib,
            checksum=hashlib.sha256(numbers.data).hexdigest(),
        )  # fmt: skip

    def _written(self, unit: Unit, place: int, case: Case, samples: Tensor) -> dict[str, str]:
        """What is shown of a picture → its file. Truth and measurement are shared by all who restore them."""
        seen = _seen(case)
        shown: dict[str, tuple[str, Callable[[Path], None]]] = {
            "truth": (f"truth/{case.picture[:2]}/{case.picture[:20]}", _writer(case.truth))
        }
        if seen is not None:
            shown["measured"] = f"measured/{case.measurement[:2]}/{case.measurement[:20]}", _writer(seen)
        own = f"{unit.id[:2]}/{unit.id}-{place}"
        shown["restored"] = f"{own}-restored", _writer(samples.mean(dim=0))
        if len(samples) > 1:
            std = samples.std(dim=0).square().mean(dim=0).sqrt().numpy()
            shown["std"] = f"{own}-std", lambda path: images.write_std(path, std)
            for i, sample in enumerate(samples[:SHOWN]):
                shown[f"sample_{i + 1}"] = f"{own}-sample{i + 1}", _writer(sample)
        files = {}
        for name, (file, write) in shown.items():
            files[name] = f"{PICTURES}/{file}.png"
            path = self.folder / files[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            flush(path)
        return files


# ------------------------------------------------------------------------------------------ pictures and operators


def read(picture: Picture, dataset: Dataset) -> Tensor:
    """(1, C, H, W), float32, image units: a data set's picture as it is restored, and compared with.

    Channels as training has them: colour from grey by repetition, grey from colour by ITU-R 601's luma. RequestError
    where its file cannot serve.
    """
    if picture.member is None:
        array, name = images.read_image(picture.path).array, str(picture.path)
    else:
        name = f"{picture.path}:{picture.member}"
        try:
            with zipfile.ZipFile(picture.path) as archive:
                content = archive.read(picture.member)
        except (OSError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise RequestError(f"{name}: cannot be read ({' '.join(str(error).split())})") from None
        array = images.decode_image(Path(name), content).array
    if array.shape[2] > dataset.channels:
        array = (array * np.array((0.299, 0.587, 0.114), np.float32)).sum(axis=2, keepdims=True)
    x = torch.from_numpy(array.transpose(2, 0, 1)).expand(dataset.channels, -1, -1)
    if dataset.resize is not None:
        whole = (middle(x, min(x.shape[1:])) * 255).round().to(torch.uint8)
        x = reduced(whole, dataset.resize).float() / 255
    if dataset.crop is not None:
        if min(x.shape[1:]) < dataset.crop:
            size = f"{x.shape[2]}×{x.shape[1]}"
            raise RequestError(
                f"{name}: expected at least {dataset.crop} pixels a side, for crop, got {size}"
            )
        x = middle(x, dataset.crop)
    return x[None].contiguous()


def seeded(spec: Spec, seed: int) -> Spec:
    """The spec, or where it is a random mask without a seed, that with this one."""
    if isinstance(spec, specs.Mask) and spec.pattern in ("random", "strokes") and spec.seed is None:
        return replace(spec, seed=seed)
    if isinstance(spec, Composition | Stack):
        parts = tuple(seeded(part, seed) for part in spec.parts)
        return (
            spec
            if all(a is b for a, b in zip(parts, spec.parts, strict=True))
            else replace(spec, parts=parts)
        )
    return spec


def _seen(case: Case) -> images.Array | None:
    """What is to be seen of a measurement, (H, W, C); None where there is nothing."""
    if case.y.ndim == 4 and case.y.shape[1] in (1, 3):
        return images.to_array(case.y)
    noise = 0.0 if case.noise else case.sigma_y
    seen = Problem(
        y=case.y, operator=case.operator, sigma_y=noise, noise=case.noise, fold=None, overhang=(0, 0)
    ).seen()
    return None if seen is None else seen[1]


def _writer(picture: Tensor | images.Array) -> Callable[[Path], None]:
    array = images.to_array(picture) if isinstance(picture, Tensor) else picture
    return lambda path: images.write_image(path, array)


# ------------------------------------------------------------------------------------------------ around a restoration


@contextmanager
def settled(threads: int, device: torch.device) -> Iterator[None]:
    """As many threads, and kernels of a GPU's that give the same bytes each time; as it was before, afterwards."""
    before = torch.get_num_threads()
    gpu = device.type == "cuda"
    cudnn = torch.backends.cudnn
    kept = {"enabled": cudnn.enabled, "allow_tf32": cudnn.allow_tf32}  # or `flags` sets them, one off, one on
    flags: Any = cudnn.flags(**kept, benchmark=False, deterministic=True) if gpu else nullcontext()
    torch.set_num_threads(threads)
    try:
        with flags:
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _noting(reasons: dict[int, str], place: int) -> Iterator[None]:
    """Puts down, in one line, why a picture failed."""
    try:
        yield
    except FAILURES as error:
        said = " ".join(str(error).split())
        if isinstance(error, MemoryError):
            said = said or "out of memory"
        elif not isinstance(error, InvdiffError):
            said = f"{type(error).__name__}: {said}"
        reasons[place] = said if len(said) <= 500 else f"{said[:499]}…"
