"""The training loop: resumable at any step, with streams that depend on the step alone."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from invdiff import config
from invdiff.errors import InvdiffError, RequestError
from invdiff.images import atomic
from invdiff.priors import EDM, Card, Condition, NetworkPrior, classifier, load_prior, save_prior
from invdiff.priors.conditional import ConditionalNetwork, centre_of
from invdiff.priors.files import IN_A_FOLDER, NETWORKS
from invdiff.priors.formats.native import CLASSIFIERS
from invdiff.priors.nets.control import ControlNet
from invdiff.priors.network import choose_precision
from invdiff.training import checkpoint, samples
from invdiff.training.data import load_pictures, stream
from invdiff.training.degrade import Family
from invdiff.training.distributed import Processes
from invdiff.training.logs import Logs
from invdiff.training.objective import Task
from invdiff.training.progress import Reporter
from invdiff.training.recipe import Optimiser, Recipe

VALIDATION_SIGMAS = (15, 25, 50)
"""Of 255, as in the denoising literature."""

CLASSIFIER_SIGMAS = (0, 25, 64, 128, 255)
"""Of 255: where a classifier's accuracy is measured."""

LOG_EVERY = 50
"""Steps that a row of log.csv is the mean of."""


class Stopped(InvdiffError):
    """A run was told to stop by a signal, and wrote a checkpoint to go on from."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def train(
    recipe_path: str | Path, out: str | Path, *, resume: bool = False, overrides: Sequence[str] = ()
) -> Path:
    """Train a prior, or a classifier, as a recipe says; returns the file with its weights, OUT/prior.safetensors.

    OUT also receives recipe.json (resolved), log.csv, validation.csv, denoised.png, samples.png and checkpoints/. With
    resume, a run goes on from its newest checkpoint with the draws it would have made; a stop (Ctrl-C,
    SIGTERM) writes one and raises Stopped. Several processes started by torchrun share the run; the first one writes.
    RequestError for a bad recipe, bad data, an unwritable OUT, an OUT that holds a run where resume was not asked for,
    or none where it was. InvdiffError where the training diverges.
    """
    recipe, out = config.load(Recipe, recipe_path, overrides), Path(out)
    folder = out / "checkpoints"
    newest = checkpoint.newest(folder)
    if newest and not resume:
        raise RequestError(f"{out}: already holds a run; give --resume to go on with it, or another --out")
    if resume and not folder.exists():
        raise RequestError(f"{out}: no run to resume; start without --resume")
    processes = Processes(recipe.device)
    check_writable(out)
    report = Reporter(quiet=not processes.first)
    run = Run(recipe, out, processes, report, checkpoint.load(newest) if newest else None)
    return run.to_the_end()


class Run:
    """One training run: network, its moving average, optimiser, and how far it is."""

    layout = torch.channels_last
    """The memory format of the weights: that in which our networks' convolutions are fastest."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        processes: Processes,
        report: Reporter,
        saved: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
    ) -> None:
        self.recipe, self.out, self.report, self.processes = recipe, out, report, processes
        processes.check(recipe.batch, recipe.accumulate)
        self.device = processes.device
        self.precision = choose_precision(recipe.precision, self.device)
        self.logs = Logs(out, recipe.tensorboard and processes.first)
        self.task = Task(recipe.objective, recipe.noise)
        self.family = self._family("crop")
        self.held_out = self._family("validation_crop") if recipe.data.validation else None
        network = self._network()
        self.step, self.seconds, self.images_before = 0, 0.0, 0
        if recipe.start_from and not saved:
            self.images_before = self._start_from(network, recipe.start_from)
        self.network = network.to(self.device).to(memory_format=self.layout)
        self.ema = AveragedModel(self.network, multi_avg_fn=_ema_with_warm_start(recipe.optimiser.ema))
        settings = recipe.optimiser
        self.optimiser = torch.optim.AdamW(
            [weights for weights in self.network.parameters() if weights.requires_grad],
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=self.device.type == "cuda" or None,
            foreach=self.device.type == "cpu" or None,
        )
        if saved:
            self.restore(*saved)
        self.shared = processes.wrapped(self.network)
        self.forward: Callable[..., Tensor] = torch.compile(self.shared) if recipe.compile else self.shared
        self.pictures = load_pictures(
            recipe.data, recipe.network.channels, report.line, classes=recipe.network.classes
        )
        self._recent: list[tuple[float, float]] = []
        self._validated = -1

    def to_the_end(self) -> Path:
        """Train to the last step; the file with the weights. Stopped, after saving, at a signal."""
        recipe, begun = self.recipe, self.step
        if self.processes.first:
            self.out.mkdir(parents=True, exist_ok=True)
            self._write_recipe()
            self.logs.begin(begun)
        saved = validated = time.monotonic()
        with stop_on_signal() as stop, self.report.progress(recipe.steps, begun, recipe.batch) as advance:
            while self.step < recipe.steps and not self.processes.any(bool(stop)):
                began = time.monotonic()
                loss, norm = self.one_step()
                self.seconds += time.monotonic() - began
                if not self.processes.first:
                    continue
                advance(self.step, loss)
                self._log_step(loss, norm)
                if time.monotonic() - validated > 60 * recipe.validate_minutes:
                    self.validate()
                    validated = time.monotonic()
                if time.monotonic() - saved > 60 * recipe.checkpoint.minutes:
                    self.save()
                    saved = time.monotonic()
            if self.processes.first:
                if self.step >= recipe.steps and self._validated < self.step > begun:
                    self.validate()
                self.save()
                self.logs.end()
            self.processes.finish()
        if self.step < recipe.steps:
            raise Stopped(
                f"stopped at step {self.step} of {recipe.steps}; go on with --resume --out {self.out}",
                stop[0] if stop else signal.SIGTERM,
            )
        return self.path

    def learning_rate(self) -> float:
        """That of the next step."""
        return learning_rate(self.recipe.optimiser, self.step, self.recipe.steps)

    def one_step(self) -> tuple[float, float]:
        """One optimiser step on the batch that (seed, step) fixes; the loss and the gradient's norm."""
        recipe, parts = self.recipe, self.recipe.accumulate
        sigma = self.task.draw_sigma(recipe.batch, stream(recipe.seed, self.step, 1))
        shape = (recipe.batch, recipe.network.channels, recipe.data.crop, recipe.data.crop)
        epsilon = torch.randn(shape, generator=stream(recipe.seed, self.step, 2))
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for index in range(parts):
            part = self.processes.part(recipe.batch, parts, index)
            with self.processes.gathering(self.shared, index == parts - 1), self._own_randomness(index):
                loss = self._loss(part, sigma[part], epsilon[part]) / parts
                loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), recipe.optimiser.clip)
        if not torch.isfinite(norm):
            raise InvdiffError(
                f"the gradient is not finite at step {self.step}; lower optimiser.learning_rate, and go on "
                "from the last checkpoint with --resume"
            )
        self.optimiser.step()
        self.ema.update_parameters(self.network)
        self.step += 1
        return float(self.processes.mean(total)), float(norm.detach())

    def _loss(self, part: slice, sigma: Tensor, epsilon: Tensor) -> Tensor:
        """The mean loss of these pictures of the step's batch."""
        recipe, seed = self.recipe, self.recipe.seed
        which: dict[str, Any] = {"size": recipe.batch, "seed": seed, "part": part}
        x0 = self.pictures.batch(self.step, crop=recipe.data.crop, **which)
        x0, sigma, epsilon = (t.to(self.device) for t in (x0, sigma, epsilon))
        labels = None
        if recipe.network.classes:
            labels = self.pictures.batch_labels(self.step, **which)
            if recipe.task == "prior":
                untold = torch.rand(recipe.batch, generator=stream(seed, self.step, 4))[part]
                labels = labels.where(untold >= recipe.label_dropout, recipe.network.classes)
            labels = labels.to(self.device)
        network = self.forward
        if self.family:
            shown = self.family.shown(x0, seed, self.step, recipe.batch, part)
            x0 = x0 - centre_of(self.family.condition, shown, x0.shape[1])
            network = beside(network, shown)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            if recipe.task == "classifier":
                losses = self.task.cross_entropy(network, x0, sigma, epsilon, cast(Tensor, labels))
            else:
                losses = self.task.loss(network, x0, sigma, epsilon, labels)
        return losses.mean()

    @contextmanager
    def _own_randomness(self, index: int) -> Iterator[None]:
        """Dropout draws by (seed, step, process, part) too, and leaves the global state as it was."""
        if not self.recipe.network.dropout:
            yield
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            where = self.processes.rank * self.recipe.accumulate + index
            torch.manual_seed(stream(self.recipe.seed, self.step, 6).initial_seed() + (where << 56))
            yield

    @torch.inference_mode()
    def validate(self) -> None:
        """What the moving average makes of the held-out crops, in numbers, and pictures of it and its samples."""
        if self.recipe.task == "classifier":
            self._validate_classifier()
            return
        recipe, prior = self.recipe, self.prior()
        if isinstance(prior, ConditionalNetwork):
            self._validate_conditional(prior)
            return
        if recipe.samples:
            size = recipe.data.crop
            pictures = samples.sampled(
                prior, recipe.samples, size, recipe.sample_steps, recipe.seed, self.device
            )
            self.logs.picture("samples.png", self.step, samples.sheet(pictures))
        clean = self.pictures.validation
        if not len(clean):
            return
        scores: dict[str, str] = {}
        rows = [clean[:6]]
        for level in VALIDATION_SIGMAS:
            noise = torch.randn(clean.shape, generator=stream(recipe.seed, 0, 3))
            noisy = clean + level / 255 * noise
            denoised = self._denoised(prior, noisy, level / 255).clamp(0, 1)
            errors = (denoised - clean).square().mean(dim=(1, 2, 3))
            scores[f"psnr{level}"] = f"{-10 * errors.log10().mean():.3f}"
            rows += [noisy[:6], denoised[:6]]
        self._tell("validation.csv", scores, " dB")
        sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
        self.logs.picture("denoised.png", self.step, sheet)

    def _validate_conditional(self, prior: ConditionalNetwork) -> None:
        """Held-out pictures restored from measurements of the recipe's kind, a sample of each: its PSNR, and that of
        what was shown; and by D of much noise, which is nearly the mean of what they may be."""
        recipe, clean = self.recipe, self.pictures.validation
        if self.held_out is None or not len(clean):
            return
        shown = self.held_out.shown(clean, recipe.seed, 0, len(clean), untold=False)
        found: list[list[Tensor]] = []
        for index in range(0, len(clean), 8):
            seen = shown[index : index + 8].to(self.device)
            found.append(
                samples.restored(prior, seen, clean.shape[1], recipe.sample_steps, recipe.seed + index)
            )
        sample, mean = (torch.cat(parts) for parts in zip(*found, strict=True))
        pictures = (shown[:, : clean.shape[1]] + 1) / 2
        scores = {
            name: f"{_psnr(what, clean):.3f}"
            for name, what in (("shown", pictures), ("sample", sample), ("mean", mean))
        }
        self._tell("validation.csv", scores, " dB")
        rows = [what[:8].clamp(0, 1) for what in (pictures, sample, mean, clean)]
        self.logs.picture(
            "samples.png", self.step, torch.cat([torch.cat(list(r), dim=2) for r in rows], dim=1)
        )

    def _denoised(self, prior: NetworkPrior, noisy: Tensor, sigma: float) -> Tensor:
        """D of held-out pictures, told their labels where there are any."""
        labels = self.pictures.validation_labels
        groups: list[tuple[int | None, Tensor]] = [(None, torch.arange(len(noisy)))]
        if labels is not None:
            groups = [(int(label), (labels == label).nonzero()[:, 0]) for label in labels.unique()]
        out = torch.empty_like(noisy)
        for label, rows in groups:
            for some in rows.split(8):
                out[some] = prior.given(label)(noisy[some].to(self.device), sigma).cpu()
        return out

    def _validate_classifier(self) -> None:
        """The share of the held-out crops whose class is found, at some noise levels."""
        clean, labels = self.pictures.validation, self.pictures.validation_labels
        if not len(clean) or labels is None:
            return
        network = copy.deepcopy(self.ema.module).eval()
        scores: dict[str, str] = {}
        for level in CLASSIFIER_SIGMAS:
            noise = torch.randn(clean.shape, generator=stream(self.recipe.seed, 0, 3))
            right = 0
            for x0, epsilon, truth in zip(clean.split(64), noise.split(64), labels.split(64), strict=True):
                sigma = torch.full((len(x0),), max(level / 255, self.task.range[0]))
                given = (t.to(self.device) for t in (x0, sigma, epsilon))
                right += int((self.task.logits(network, *given).argmax(dim=1).cpu() == truth).sum())
            scores[f"accuracy{level}"] = f"{right / len(clean):.4f}"
        self._tell("validation.csv", scores, "")

    def _tell(self, name: str, scores: dict[str, str], unit: str) -> None:
        self._validated = self.step
        self.log(name, **scores)
        self.report.line(f"step {self.step}: " + ", ".join(f"{k} {v}{unit}" for k, v in scores.items()))

    def prior(self) -> NetworkPrior:
        """The moving average as a prior, on a copy of the weights."""
        kind = ConditionalNetwork if self.family else NetworkPrior
        return kind(
            copy.deepcopy(self.ema.module), self.task.precondition, self.card(), precision=self.precision
        )

    @property
    def images(self) -> int:
        """Crops seen so far, those of the weights it started from included."""
        return self.images_before + self.step * self.recipe.batch

    def card(self) -> Card:
        recipe, (sigma_min, sigma_max) = self.recipe, self.task.range
        return Card(
            name=recipe.name,
            channels=recipe.network.channels,
            size=recipe.data.crop if recipe.data.whole or recipe.network.kind == "dit" else None,
            classes=recipe.network.classes,
            condition=self.family.condition if self.family else None,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            data_mean=self.pictures.mean,
            data_std=recipe.noise.sigma_data / 2,
            licence=recipe.licence,
            training_data=recipe.training_data,
            images_seen=self.images,
            summary=recipe.summary,
        )

    def save(self) -> Path:
        """A checkpoint, and the moving average as a prior's file."""
        tensors = checkpoint.joined(
            network=self.network.state_dict(),
            ema=self.ema.state_dict(),
            optimiser=checkpoint.of_optimiser(self.optimiser),
        )
        state = {"seconds": self.seconds, "images_before": self.images_before, "images": self.images}
        checkpoint.save(self.out / "checkpoints", self.step, tensors, state, self.recipe.checkpoint.part_mib)
        save_prior(self.path, self.ema.module, self.task.precondition, self.card())
        return self.path

    @property
    def path(self) -> Path:
        """The file with the weights."""
        return self.out / (IN_A_FOLDER if self.recipe.task == "prior" else classifier.IN_A_FOLDER)

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. RequestError where it is of another network."""
        try:
            network, ema, optimiser = checkpoint.grouped(tensors, "network", "ema", "optimiser")
            self.network.load_state_dict(network)
            self.ema.load_state_dict(ema)
            checkpoint.into_optimiser(self.optimiser, optimiser)
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            seen = int(state.get("images", state["images_before"] + self.step * self.recipe.batch))
        except (KeyError, RuntimeError, TypeError, ValueError):
            raise RequestError(
                f"{self.out}: its checkpoint is of another network than the recipe's"
            ) from None
        self.images_before = seen - self.step * self.recipe.batch  # right for another batch than before, too

    def log(self, name: str, **values: str) -> None:
        """A row of a CSV file in OUT."""
        self.logs.row(name, self.step, images=str(self.images), seconds=f"{self.seconds:.1f}", **values)

    def _log_step(self, loss: float, norm: float) -> None:
        self._recent.append((loss, norm))
        if self.step % LOG_EVERY and self.step < self.recipe.steps:
            return
        loss, norm = (sum(column) / len(column) for column in zip(*self._recent, strict=True))
        self._recent.clear()
        rate = f"{self.learning_rate():.3e}"
        self.log("log.csv", loss=f"{loss:.5f}", gradient=f"{norm:.4f}", learning_rate=rate)

    def _family(self, crop: str) -> Family | None:
        """The recipe's measurements of pictures of data.crop or data.validation_crop. RequestError where impossible."""
        given, size = self.recipe.condition, getattr(self.recipe.data, crop)
        if given is None:
            return None
        try:
            return Family(given, (self.recipe.network.channels, size, size))
        except RequestError as error:
            raise RequestError(f"{error}{f' (data.{crop})' if crop != 'crop' else ''}") from None

    def _network(self) -> nn.Module:
        """The recipe's network, new. RequestError for a shape that cannot be."""
        recipe, arguments = self.recipe, self.recipe.network.arguments(self.recipe.data.crop)
        kind: str = recipe.network.kind
        if self.family:
            arguments["condition"] = self.family.channels
            kind = "control" if self.family.given.control else kind
        with torch.random.fork_rng(devices=[]):  # initial weights alone come from here, not from a `stream`
            torch.default_generator.manual_seed(recipe.seed)
            try:
                return {**NETWORKS, **CLASSIFIERS}[kind](**arguments)
            except ValueError as error:
                raise RequestError(f"network: {error}") from None

    def _start_from(self, network: nn.Module, source: str) -> int:
        """Copy a prior's weights; how many images they have seen. RequestError where they do not fit."""
        start, ours = load_prior(source, precision="float32"), self.task.precondition
        if not isinstance(start, NetworkPrior):
            raise RequestError(f"start_from: expected a prior of the recipe's network, {source} is none")
        before, now = start.card.condition, self.family.condition if self.family else None
        anew = now is not None and now.residual and not (before and before.residual)
        if anew and isinstance(ours, EDM) and isinstance(start.precondition, EDM):
            # a residual has a σ_data of its own
            ours = dataclasses.replace(ours, sigma_data=start.precondition.sigma_data)
        if start.precondition != ours:
            raise RequestError(f"start_from: expected a prior with {ours}, {source} has {start.precondition}")
        if before and now and _parts(before) != _parts(now):
            raise RequestError(
                f"start_from: {source} was shown {_parts(before)}, the recipe shows {_parts(now)}; expected the same"
            )
        weights = start.network.state_dict()
        try:
            if isinstance(network, ControlNet) and not isinstance(start.network, ControlNet):
                network.take(weights)
            else:
                network.load_state_dict(widened(weights, network, anew=anew))
        except RuntimeError:
            raise RequestError(
                f"start_from: {source} is a network of another shape than the recipe's"
            ) from None
        return start.card.images_seen

    def _write_recipe(self) -> None:
        """recipe.json; what it held before, if a resumed run differs, is told."""
        path, ours = self.out / "recipe.json", json.loads(json.dumps(config.dump(self.recipe)))
        if self.step and path.is_file():
            before, now = _flat(json.loads(path.read_text(encoding="utf-8"))), _flat(ours)
            changed = [f"{k} {before.get(k)} → {now[k]}" for k in now if now[k] != before.get(k, now[k])]
            if changed:
                self.report.line(f"resumed with another recipe: {', '.join(changed)}")
        with atomic(path) as part:
            part.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")


def beside(network: Callable[..., Tensor], shown: Tensor) -> Callable[..., Tensor]:
    """The network, shown (B, K, H, W) beside what it is given."""

    def told(x: Tensor, *rest: Tensor) -> Tensor:
        return network(torch.cat([x, shown], dim=1).contiguous(memory_format=torch.channels_last), *rest)

    return told


def widened(weights: Mapping[str, Tensor], network: nn.Module, *, anew: bool = False) -> dict[str, Tensor]:
    """A prior's weights for a network that is shown more channels beside x: those have no effect at first.

    anew: it is to answer another question, so that its head begins at zero, as a new network's.
    """
    own = network.state_dict()
    found = dict(weights)
    if getattr(network, "condition", 0) and "stem.weight" in found:
        stem, wanted = found["stem.weight"], own["stem.weight"]
        if stem.ndim == wanted.ndim and stem.shape[1] < wanted.shape[1]:
            more = stem.new_zeros(stem.shape[0], wanted.shape[1] - stem.shape[1], *stem.shape[2:])
            found["stem.weight"] = torch.cat([stem, more], dim=1)
    if anew:
        found |= {name: torch.zeros_like(value) for name, value in found.items() if name.startswith("head.")}
    return found


def _parts(condition: Condition) -> str:
    """What a conditional network is shown, and how, in words."""
    parts = ["pictures", *["masks"] * condition.mask, *["the noise added"] * (condition.augment > 0)]
    return " and ".join(parts) + ", as a residual" * condition.residual


def learning_rate(settings: Optimiser, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to `final` of the peak."""
    decay = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.learning_rate * warm * max(decay, settings.final)


def _psnr(pictures: Tensor, clean: Tensor) -> float:
    """dB, the mean over pictures."""
    errors = (pictures.clamp(0, 1) - clean).square().mean(dim=(1, 2, 3)).clamp(min=1e-12)
    return float(-10 * errors.log10().mean())


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def check_writable(out: Path) -> None:
    """RequestError unless files can be made in OUT, or in the nearest folder above that is there."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise RequestError(f"{out}: cannot be written to ({error.strerror}); choose another --out") from None


def _ema_with_warm_start(decay: float) -> Any:
    """decay, but min(decay, (1 + n)/(10 + n)) after n averages: the first steps are forgotten quickly."""

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return average


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """A list that becomes true at the first Ctrl-C or SIGTERM; a second Ctrl-C interrupts at once."""
    stop: list[int] = []

    def note(number: int, frame: object) -> None:
        stop.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: nothing to catch there
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
