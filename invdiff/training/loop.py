"""The training loop: resumable at any step, with streams that depend on the step alone."""

from __future__ import annotations

import copy
import csv
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
from invdiff.images import atomic, write_image
from invdiff.priors import EDM, Card, NetworkPrior, load_prior, save_prior
from invdiff.priors.files import IN_A_FOLDER
from invdiff.priors.nets.unet import UNet
from invdiff.priors.network import choose_precision, resolve_device
from invdiff.training import checkpoint
from invdiff.training.data import load_pictures, stream
from invdiff.training.loss import draw_sigma, edm_loss
from invdiff.training.progress import Reporter
from invdiff.training.recipe import Recipe

VALIDATION_SIGMAS = (15, 25, 50)
"""Of 255, as in the denoising literature."""

LOG_EVERY = 50
"""Steps that a row of log.csv is the mean of."""


def train(
    recipe_path: str | Path, out: str | Path, *, resume: bool = False, overrides: Sequence[str] = ()
) -> Path:
    """Train a prior as a recipe says; returns the file with its weights, OUT/prior.safetensors.

    OUT also receives recipe.json (resolved), log.csv, validation.csv, denoised.png and checkpoints/. With
    resume, a run goes on from its newest checkpoint with the draws it would have made; a stop (Ctrl-C,
    SIGTERM) writes one. RequestError for a bad recipe, bad data, an unwritable OUT, an OUT that holds a run
    where resume was not asked for, or none where it was. InvdiffError where the training diverges.
    """
    recipe, out = config.load(Recipe, recipe_path, overrides), Path(out)
    folder = out / "checkpoints"
    newest = checkpoint.newest(folder)
    if newest and not resume:
        raise RequestError(f"{out}: already holds a run; give --resume to go on with it, or another --out")
    if resume and not folder.exists():
        raise RequestError(f"{out}: no run to resume; start without --resume")
    device = resolve_device(recipe.device)
    _check_writable(out)
    run = Run(recipe, out, device, Reporter(), checkpoint.load(newest) if newest else None)
    return run.to_the_end()


class Run:
    """One training run: network, its moving average, optimiser, and how far it is."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        device: torch.device,
        report: Reporter,
        saved: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
    ) -> None:
        self.recipe, self.out, self.device, self.report = recipe, out, device, report
        self.precision = choose_precision(recipe.precision, device)
        shape = {key: value for key, value in config.dump(recipe.network).items() if key != "kind"}
        with torch.random.fork_rng(devices=[]):  # initial weights alone come from here, not from a `stream`
            torch.default_generator.manual_seed(recipe.seed)
            network = UNet(**shape)
        self.precondition = EDM(sigma_data=recipe.noise.sigma_data)
        self.step, self.seconds, self.images_before = 0, 0.0, 0
        if recipe.start_from and not saved:
            self.images_before = self._start_from(network, recipe.start_from)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.ema = AveragedModel(self.network, multi_avg_fn=_ema_with_warm_start(recipe.optimiser.ema))
        settings = recipe.optimiser
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        if saved:
            self.restore(*saved)
        self.forward: Callable[..., Tensor] = torch.compile(self.network) if recipe.compile else self.network
        self.pictures = load_pictures(recipe.data, recipe.network.channels, report.line)
        self._recent: list[tuple[float, float]] = []
        self._validated = -1

    def to_the_end(self) -> Path:
        """Train to the last step, or to a signal to stop; the file with the weights."""
        recipe, begun = self.recipe, self.step
        self.out.mkdir(parents=True, exist_ok=True)
        self._write_recipe()
        for name in ("log.csv", "validation.csv"):
            _drop_rows_after(self.out / name, begun)
        saved = validated = time.monotonic()
        with _stop_on_signal() as stop, self.report.progress(recipe.steps, begun, recipe.batch) as advance:
            while self.step < recipe.steps and not stop:
                began = time.monotonic()
                loss, norm = self.one_step()
                self.seconds += time.monotonic() - began
                advance(self.step, loss)
                self._log_step(loss, norm)
                if time.monotonic() - validated > 60 * recipe.validate_minutes:
                    self.validate()
                    validated = time.monotonic()
                if time.monotonic() - saved > 60 * recipe.checkpoint.minutes:
                    self.save()
                    saved = time.monotonic()
            if self.step >= recipe.steps and self._validated < self.step > begun:
                self.validate()
            path = self.save()
        if self.step < recipe.steps:
            self.report.line(
                f"stopped at step {self.step} of {recipe.steps}; go on with --resume --out {self.out}"
            )
        return path

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to `final` of the peak."""
        settings = self.recipe.optimiser
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.recipe.steps)))
        warm = min(1.0, (self.step + 1) / max(1, settings.warmup))
        return settings.learning_rate * warm * max(decay, settings.final)

    def one_step(self) -> tuple[float, float]:
        """One optimiser step on the batch that (seed, step) fixes; the loss and the gradient's norm."""
        recipe, seed = self.recipe, self.recipe.seed
        x0 = self.pictures.batch(self.step, size=recipe.batch, crop=recipe.data.crop, seed=seed)
        sigma = draw_sigma(recipe.noise, recipe.batch, stream(seed, self.step, 1))
        epsilon = torch.randn(x0.shape, generator=stream(seed, self.step, 2))
        x0, sigma, epsilon = (t.to(self.device) for t in (x0, sigma, epsilon))
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            loss = edm_loss(self.forward, self.precondition, x0, sigma, epsilon).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), recipe.optimiser.clip)
        if not torch.isfinite(norm):
            raise InvdiffError(
                f"the gradient is not finite at step {self.step}; lower optimiser.learning_rate, and go on "
                "from the last checkpoint with --resume"
            )
        self.optimiser.step()
        self.ema.update_parameters(self.network)
        self.step += 1
        return float(loss.detach()), float(norm.detach())

    @torch.inference_mode()
    def validate(self) -> None:
        """PSNR of the moving average's D on the held-out crops, and a picture of some of them."""
        clean = self.pictures.validation
        if not len(clean):
            return
        prior = self.prior()
        scores: dict[str, str] = {}
        rows = [clean[:6]]
        for level in VALIDATION_SIGMAS:
            noise = torch.randn(clean.shape, generator=stream(self.recipe.seed, 0, 3))
            noisy = clean + level / 255 * noise
            parts = [prior(part.to(self.device), level / 255).cpu() for part in noisy.split(8)]
            denoised = torch.cat(parts).clamp(0, 1)
            errors = (denoised - clean).square().mean(dim=(1, 2, 3))
            scores[f"psnr{level}"] = f"{-10 * errors.log10().mean():.3f}"
            rows += [noisy[:6], denoised[:6]]
        self._validated = self.step
        self.log("validation.csv", **scores)
        self.report.line(f"step {self.step}: " + ", ".join(f"{k} {v} dB" for k, v in scores.items()))
        sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
        write_image(self.out / "denoised.png", sheet.permute(1, 2, 0).numpy())

    def prior(self) -> NetworkPrior:
        """The moving average as a prior, on a copy of the weights."""
        return NetworkPrior(
            copy.deepcopy(self.ema.module), self.precondition, self.card(), precision=self.precision
        )

    @property
    def images(self) -> int:
        """Crops seen so far, those of the weights it started from included."""
        return self.images_before + self.step * self.recipe.batch

    def card(self) -> Card:
        recipe, noise = self.recipe, self.recipe.noise
        return Card(
            name=recipe.name,
            channels=recipe.network.channels,
            sigma_min=noise.sigma_min / 2,
            sigma_max=noise.sigma_max / 2,
            data_std=noise.sigma_data / 2,
            licence=recipe.licence,
            training_data=recipe.training_data,
            images_seen=self.images,
            summary=recipe.summary,
        )

    def save(self) -> Path:
        """A checkpoint, and the moving average as a prior's file."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for index, slots in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": v for k, v in slots.items()}
        state = {"seconds": self.seconds, "images_before": self.images_before, "images": self.images}
        checkpoint.save(self.out / "checkpoints", self.step, tensors, state, self.recipe.checkpoint.part_mib)
        path = self.out / IN_A_FOLDER
        save_prior(path, cast(UNet, self.ema.module), self.precondition, self.card())
        return path

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. RequestError where it is of another network."""
        groups: dict[str, dict[str, Tensor]] = {"network": {}, "ema": {}, "optimiser": {}}
        try:
            for name, value in tensors.items():
                group, _, rest = name.partition(".")
                groups[group][rest] = value
            self.network.load_state_dict(groups["network"])
            self.ema.load_state_dict(groups["ema"])
            slots: dict[int, dict[str, Tensor]] = {}
            for name, value in groups["optimiser"].items():
                index, _, slot = name.partition(".")
                slots.setdefault(int(index), {})[slot] = value
            self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": slots})
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            seen = int(state.get("images", state["images_before"] + self.step * self.recipe.batch))
        except (KeyError, RuntimeError, TypeError, ValueError):
            raise RequestError(
                f"{self.out}: its checkpoint is of another network than the recipe's"
            ) from None
        self.images_before = seen - self.step * self.recipe.batch  # right for another batch than before, too

    def log(self, name: str, **values: str) -> None:
        """A row of a CSV file in OUT."""
        path = self.out / name
        row = {"step": self.step, "images": self.images, "seconds": f"{self.seconds:.1f}", **values}
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)

    def _log_step(self, loss: float, norm: float) -> None:
        self._recent.append((loss, norm))
        if self.step % LOG_EVERY and self.step < self.recipe.steps:
            return
        loss, norm = (sum(column) / len(column) for column in zip(*self._recent, strict=True))
        self._recent.clear()
        rate = f"{self.learning_rate():.3e}"
        self.log("log.csv", loss=f"{loss:.5f}", gradient=f"{norm:.4f}", learning_rate=rate)

    def _start_from(self, network: UNet, source: str) -> int:
        """Copy a prior's weights; how many images they have seen. RequestError where they do not fit."""
        start = cast(NetworkPrior, load_prior(source, precision="float32"))
        if start.precondition != self.precondition:
            raise RequestError(
                f"start_from: expected a prior with {self.precondition}, {source} has {start.precondition}"
            )
        try:
            network.load_state_dict(start.network.state_dict())
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
            changed = [f"{k} {before.get(k)} → {now[k]}" for k in now if now[k] != before.get(k)]
            if changed:
                self.report.line(f"resumed with another recipe: {', '.join(changed)}")
        with atomic(path) as part:
            part.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _drop_rows_after(path: Path, step: int) -> None:
    """Take out what a run logged after the checkpoint it now goes on from: those steps are done again."""
    if not path.exists():
        return
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    kept = [row for row in rows if int(row.partition(",")[0] or 0) <= step]
    with atomic(path) as part:
        part.write_text("\n".join([header, *kept, ""]), encoding="utf-8")


def _check_writable(out: Path) -> None:
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
def _stop_on_signal() -> Iterator[list[int]]:
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
