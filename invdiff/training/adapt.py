"""Adapting a prior to a handful of pictures without forgetting the others.

After DreamBooth (Ruiz et al. 2023, arXiv:2208.12242, section 3.2), whose prior preservation here is a distillation: a
share of every batch is samples of the prior itself, drawn once at the start, on which the network keeps answering what
it did. With D₀ the prior as it was and λ that of EDM (Karras et al. 2022, table 1), whatever the network predicts,

    loss = (1 − preserve)·E λ(σ)·|D(x₀ + σε, σ) − x₀|² + preserve·E λ(σ)·|D(x, σ) − D₀(x, σ)|²,  x = sample + σε
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from invdiff import config
from invdiff.errors import InvdiffError, RequestError
from invdiff.images import atomic
from invdiff.priors import Card, NetworkPrior, load_prior, save_prior
from invdiff.priors.conditional import condition_of
from invdiff.priors.files import IN_A_FOLDER, NETWORKS
from invdiff.priors.formats.base import checksum
from invdiff.priors.nets.lora import add_lora, merge_lora
from invdiff.priors.nets.ncsnpp import Fourier
from invdiff.priors.network import choose_precision, resolve_device
from invdiff.training import checkpoint
from invdiff.training.data import Pictures, evenly, load_pictures, middle, stream
from invdiff.training.logs import Logs
from invdiff.training.loop import VALIDATION_SIGMAS, Stopped, check_writable, learning_rate, stop_on_signal
from invdiff.training.objective import Task
from invdiff.training.progress import Reporter
from invdiff.training.recipe import Count, Data, Noise, Objective, Optimiser, Positive, WholeNumber
from invdiff.training.samples import sampled

RATES = {"full": 1e-4, "lora": 1e-3}
"""Learning rates where none is given."""

CROP = 64
"""Of a prior that knows pictures of any size."""

HELD_OUT = 5
"""One of so many pictures is held out, from four on."""

LOOKED_AT = 256
"""Pixels: a held-out picture is looked at in its middle, no larger than this."""

CHECKED = 8
"""Of the prior's samples, so many are for checking what it forgot, and not trained on."""

LOG_EVERY = 10
"""Steps that a row of log.csv is the mean of."""


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What to adapt, to what, and how. `lora` None: all weights are trained."""

    images: Annotated[list[str], Field(min_length=1)]
    """Files. One that is there twice counts once."""
    prior: str = "natural"
    name: str | None = None
    """Of the new prior; None: its folder's."""
    lora: Count | None = None
    """Rank of the low-rank companions trained in the weights' place, and merged into them in the end."""
    steps: Count = 300
    crop: Count | None = None
    """None: the prior's own size, or CROP."""
    batch: Count = 8
    learning_rate: Positive | None = None
    """None: RATES."""
    preserve: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """The share of each batch, and so of the loss, that keeps what the prior knew; 0: none."""
    samples: Annotated[int, Field(gt=CHECKED)] = 40
    """The prior's own pictures that stand for what it knew."""
    sample_steps: Count = 15
    label: WholeNumber | None = None
    """What the pictures are, of a prior with classes; None: no class in particular."""
    flip: bool = True
    """Mirror half of the crops; not for digits and letters."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: str = "auto"
    minutes: Annotated[float, Field(ge=0)] = 5.0
    """Between two checkpoints; 0: after every step."""

    def __post_init__(self) -> None:
        if self.preserve and self.batch < 2:
            raise ValueError(f"batch: expected 2 or more, one of them the prior's own, got {self.batch}")

    @property
    def own(self) -> int:
        """How many of a batch are the prior's own pictures."""
        return min(max(round(self.preserve * self.batch), 1), self.batch - 1) if self.preserve else 0

    @property
    def optimiser(self) -> Optimiser:
        rate = self.learning_rate or RATES["lora" if self.lora else "full"]
        return Optimiser(learning_rate=rate, warmup=min(20, self.steps // 10), weight_decay=0.0)


def adapt(settings: Adaptation, out: str | Path, *, resume: bool = False, offline: bool = False) -> Path:
    """Fine-tune a prior on some pictures; returns the new prior's file, OUT/prior.safetensors, in plain weights.

    OUT also receives recipe.json (resolved, with checksums), log.csv, validation.csv (denoising PSNR before and after,
    on held-out pictures where there are four or more, and on the prior's own), denoised.png and checkpoints/. With
    resume a run goes on from its checkpoint with the draws it would have made; a stop (Ctrl-C, SIGTERM) writes one
    and raises Stopped. RequestError for pictures or a prior that cannot serve, an OUT that holds a prior already, or a
    run with other settings.
    """
    out = Path(out)
    newest = checkpoint.newest(out / "checkpoints")
    if resume and newest is None:
        raise RequestError(f"{out}: no run to resume; start without --resume")
    if not resume and (newest is not None or (out / IN_A_FOLDER).exists()):
        raise RequestError(f"{out}: already holds a prior; choose another --out, or --resume its run")
    check_writable(out)
    run = Run(settings, out, Reporter(), offline=offline)
    run.begin(checkpoint.load(newest) if newest else None)
    run.to_the_end()
    run.compare()
    return run.path


class Run:
    """One adaptation: the prior as it was (`original`; `before`, in the precision of training), the network that is
    trained, and how far it is."""

    def __init__(
        self, settings: Adaptation, out: Path, report: Reporter | None = None, *, offline: bool = False
    ) -> None:
        self.settings, self.out, self.report = settings, out, report or Reporter()
        self.device = resolve_device(settings.device)
        self.precision = choose_precision("auto", self.device)
        self.original = _loaded(settings, self.device, offline)
        self.card = card = self.original.card
        self.crop = _crop(settings, card)
        self.task = Task(Objective(weighting="edm"), _noise(card), self.original.precondition)
        files = _apart(settings.images)
        places = evenly(len(files), max(1, len(files) // HELD_OUT)) if len(files) >= 4 else []
        self.held_files = [files[place] for place in places]
        self.files = [file for place, file in enumerate(files) if place not in places]
        channels = card.channels or 3
        self.pictures = _read(self.files, channels, settings.flip, self.crop)
        self.held = _read(self.held_files, channels, settings.flip, card.size or 1).train if places else []
        self.network = copy.deepcopy(self.original.network)
        self.before = NetworkPrior(
            copy.deepcopy(self.network), self.original.precondition, card, precision=self.precision
        )
        self.step, self.seconds = 0, 0.0
        self._recent: list[tuple[float, float]] = []

    def begin(self, saved: tuple[dict[str, Tensor], dict[str, Any]] | None = None) -> None:
        """Take what is to be trained, and the prior's own pictures, from a checkpoint or anew."""
        settings = self.settings
        self.trained = self._trained()
        self.optimiser = torch.optim.AdamW(
            self.trained.values(),
            lr=settings.optimiser.learning_rate,
            betas=settings.optimiser.betas,
            weight_decay=settings.optimiser.weight_decay,
        )
        self.logs = Logs(self.out)
        if saved is None:
            own = self._draw_own()
        else:
            self._check_same()
            own = self._restore(*saved)
        self.own, self.checked = own[CHECKED:], own[:CHECKED].float() / 255
        self.kept = Pictures(list(self.own), torch.empty(0))

    def to_the_end(self) -> None:
        """Train to the last step. Stopped, after saving, at a signal."""
        settings, begun = self.settings, self.step
        self.out.mkdir(parents=True, exist_ok=True)
        self._write_recipe()
        self.logs.begin(begun)
        saved = time.monotonic()
        with stop_on_signal() as stop, self.report.progress(settings.steps, begun, settings.batch) as advance:
            while self.step < settings.steps and not stop:
                began = time.monotonic()
                loss, norm = self.one_step()
                self.seconds += time.monotonic() - began
                advance(self.step, loss)
                self._log(loss, norm)
                if time.monotonic() - saved > 60 * settings.minutes:
                    self.save()
                    saved = time.monotonic()
            self.save()
        if self.step < settings.steps:
            raise Stopped(
                f"stopped at step {self.step} of {settings.steps}; the same command with --resume goes on",
                stop[0] if stop else signal.SIGTERM,
            )

    def one_step(self) -> tuple[float, float]:
        """One optimiser step on the batch that (seed, step) fixes; the loss and the gradient's norm."""
        rate = learning_rate(self.settings.optimiser, self.step, self.settings.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.losses().mean()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained.values(), self.settings.optimiser.clip)
        if not torch.isfinite(norm):
            raise InvdiffError(
                f"the gradient is not finite at step {self.step}; start anew with a lower --learning-rate"
            )
        self.optimiser.step()
        self.step += 1
        return float(loss.detach()), float(norm)

    def losses(self) -> Tensor:
        """(B,) of this step's batch: the user's crops, then the prior's own, which have D₀ for their clean pictures."""
        settings, task, own = self.settings, self.task, self.settings.own
        clean = self.pictures.batch(self.step, size=settings.batch - own, crop=self.crop, seed=settings.seed)
        if own:
            mine = self.kept.batch(self.step, size=own, crop=self.crop, seed=settings.seed + 1)
            turns = torch.randint(4, (own,), generator=stream(settings.seed, self.step, 6)).tolist()
            mine = torch.stack([picture.rot90(k, (1, 2)) for picture, k in zip(mine, turns, strict=True)])
            clean = torch.cat([clean, mine])
        sigma = task.draw_sigma(settings.batch, stream(settings.seed, self.step, 1))
        epsilon = torch.randn(clean.shape, generator=stream(settings.seed, self.step, 2))
        noisy = clean + sigma[:, None, None, None] * epsilon
        labels = self._labels()
        noisy, sigma, wanted = (t.to(self.device) for t in (noisy, sigma, clean))
        labels = None if labels is None else labels.to(self.device)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            if own:
                x, level = noisy[-own:], sigma[-own:]
                with torch.no_grad():
                    before = task.output(
                        self.before.network, x, level, None if labels is None else labels[-own:]
                    )
                wanted = torch.cat([wanted[:-own], task.precondition.denoised(x, level, before)])
            output = task.output(self.network, noisy, sigma, labels)
        return task.errors(noisy, sigma, output, wanted)

    def prior(self) -> NetworkPrior:
        """What has been learned so far as a prior, on a copy of the weights."""
        network = copy.deepcopy(self.network)
        if self.settings.lora:
            merge_lora(network)
        return NetworkPrior(network, self.original.precondition, self._new_card())

    def save(self) -> None:
        """A checkpoint, and the prior's file."""
        tensors = checkpoint.joined(
            trained=self.trained,
            optimiser=checkpoint.of_optimiser(self.optimiser),
            own={"pictures": torch.cat([(self.checked * 255).round().to(torch.uint8), self.own])},
        )
        checkpoint.save(self.out / "checkpoints", self.step, tensors, {"seconds": self.seconds})
        prior = self.prior()
        save_prior(self.path, prior.network, prior.precondition, prior.card)

    @property
    def path(self) -> Path:
        return self.out / IN_A_FOLDER

    @torch.inference_mode()
    def compare(self) -> dict[str, dict[str, list[float]]]:
        """Denoising PSNR (dB, mean over pictures, at VALIDATION_SIGMAS) of what, before and after; told and written.

        "held out": the user's pictures that were not trained on, where there are any. "own": samples of the prior.
        """
        after = load_prior(
            self.path, device=self.device, precision="float32"
        )  # what was saved, as it was saved
        assert isinstance(after, NetworkPrior)
        label = self.settings.label
        shown = [middle(p, min(*p.shape[1:], self.card.size or LOOKED_AT)) for p in self.held]
        groups = {"held out": (shown, label), "own": ([(p * 255).byte() for p in self.checked], None)}
        found: dict[str, dict[str, list[float]]] = {}
        rows: dict[str, dict[str, str]] = {"before": {}, "after": {}}
        for group, (pictures, told) in groups.items():
            if not pictures:
                continue
            found[group] = {
                "before": self.psnr(self.original.given(told), pictures),
                "after": self.psnr(after.given(told), pictures),
            }
            for when, values in found[group].items():
                names = (f"{group.replace(' ', '_')}_psnr{level}" for level in VALIDATION_SIGMAS)
                rows[when] |= dict(zip(names, (f"{value:.3f}" for value in values), strict=True))
        (self.out / "validation.csv").unlink(missing_ok=True)
        for step, when in ((0, "before"), (self.step, "after")):
            self.logs.row("validation.csv", step, **rows[when])
        crops = shown or [
            middle(p, min(*p.shape[1:], self.card.size or LOOKED_AT)) for p in self.pictures.train
        ]
        self._picture(crops[:6], after)
        self._tell(found)
        return found

    # ------------------------------------------------------------------------------------------------ parts

    def _trained(self) -> dict[str, nn.Parameter]:
        settings = self.settings
        if settings.lora:
            try:
                add_lora(self.network, settings.lora, generator=stream(settings.seed, 0, 7))
            except ValueError as error:
                raise RequestError(f"lora: {error}") from None
        else:
            self.network.requires_grad_(True)
            for layer in self.network.modules():
                if isinstance(layer, Fourier):  # drawn once, and no weights
                    layer.requires_grad_(False)
        return {name: value for name, value in self.network.named_parameters() if value.requires_grad}

    def _draw_own(self) -> Tensor:
        """uint8 (N, C, crop, crop): samples of the prior, eight at a time."""
        settings = self.settings
        count = settings.samples if settings.preserve else CHECKED
        self.report.line(f"drawing {count} pictures of {self.card.name} itself, {self.crop}×{self.crop}")
        parts = [
            sampled(
                self.original, min(8, count - begin), self.crop, settings.sample_steps,
                settings.seed * 2**20 + begin, self.device,
            )
            for begin in range(0, count, 8)
        ]  # fmt: skip
        return (torch.cat(parts) * 255).round().to(torch.uint8)

    def _labels(self) -> Tensor | None:
        """(B,): what the network is told of this step's pictures; of its own, any class or none."""
        settings, classes = self.settings, self.card.classes
        if not classes:
            return None
        told = classes if settings.label is None else settings.label
        mine = torch.randint(classes + 1, (settings.own,), generator=stream(settings.seed, self.step, 4))
        return torch.cat([torch.full((settings.batch - settings.own,), told), mine])

    def _restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Tensor:
        try:
            trained, optimiser, own = checkpoint.grouped(tensors, "trained", "optimiser", "own")
            with torch.no_grad():
                for name, value in self.trained.items():
                    value.copy_(trained[name])
            checkpoint.into_optimiser(self.optimiser, optimiser)
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            return own["pictures"]
        except (KeyError, RuntimeError, TypeError, ValueError):
            raise RequestError(f"{self.out}: its checkpoint is of another network") from None

    def _record(self) -> dict[str, Any]:
        """recipe.json."""
        settings = {**config.dump(self.settings), "crop": self.crop}
        settings["learning_rate"] = self.settings.optimiser.learning_rate
        settings["images"] = {str(file): checksum(file) for file in self.files}
        held = {str(file): checksum(file) for file in self.held_files}
        return {"command": "adapt", **settings, "held_out": held, "prior_sha256": self.card.checksum}

    def _check_same(self) -> None:
        """RequestError where the run in OUT was begun with anything else but its length and where it computes."""
        path = self.out / "recipe.json"
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RequestError(f"{path}: cannot be read; start anew with another --out") from None
        now = json.loads(json.dumps(self._record()))
        free = ("steps", "device", "minutes", "name")
        for key in now:
            ours, theirs = (
                sorted(value.values()) if key in ("images", "held_out") and isinstance(value, dict) else value
                for value in (now[key], before.get(key))
            )
            if key not in free and ours != theirs:
                raise RequestError(
                    f"{self.out}: its run was begun with other {key}; resume with the same, or choose another --out"
                )

    def _write_recipe(self) -> None:
        with atomic(self.out / "recipe.json") as part:
            part.write_text(json.dumps(self._record(), indent=2) + "\n", encoding="utf-8")

    def _new_card(self) -> Card:
        card, settings = self.card, self.settings
        count = f"{len(self.files)} picture{'s' * (len(self.files) != 1)}"
        return dataclasses.replace(
            card,
            name=settings.name or self.out.resolve().name,
            training_data=f"{card.training_data}; adapted to {count} of the user's",
            images_seen=card.images_seen + self.step * settings.batch,
            summary=f"{card.name}, adapted to {count}",
        )

    def _log(self, loss: float, norm: float) -> None:
        self._recent.append((loss, norm))
        if self.step % LOG_EVERY and self.step < self.settings.steps:
            return
        loss, norm = (sum(column) / len(column) for column in zip(*self._recent, strict=True))
        self._recent.clear()
        self.logs.row(
            "log.csv", self.step, seconds=f"{self.seconds:.1f}", loss=f"{loss:.5f}", gradient=f"{norm:.4f}"
        )

    def _noisy(self, clean: Tensor, index: int, level: int) -> Tensor:
        return clean + level / 255 * torch.randn(clean.shape, generator=stream(self.settings.seed, index, 3))

    def _denoised(self, prior: NetworkPrior, noisy: Tensor, level: int) -> Tensor:
        return prior(noisy[None].to(self.device), level / 255)[0].clamp(0, 1).cpu()

    def psnr(self, prior: NetworkPrior, pictures: list[Tensor]) -> list[float]:
        """dB, mean over pictures, uint8 (C, H, W), at each of VALIDATION_SIGMAS."""
        found = []
        for level in VALIDATION_SIGMAS:
            total = 0.0
            for index, picture in enumerate(pictures):
                clean = picture.float() / 255
                denoised = self._denoised(prior, self._noisy(clean, index, level), level)
                total -= 10 * math.log10(max(float((denoised - clean).square().mean()), 1e-12))
            found.append(total / len(pictures))
        return found

    def _picture(self, crops: list[Tensor], after: NetworkPrior) -> None:
        """denoised.png: clean, noisy at the strongest level, before, after, a column each."""
        level, side = VALIDATION_SIGMAS[-1], min(crop.shape[1] for crop in crops)
        columns = []
        for index, crop in enumerate(crops):
            clean = middle(crop, side).float() / 255
            noisy = self._noisy(clean, index, level)
            told = self.settings.label
            both = [self._denoised(p.given(told), noisy, level) for p in (self.original, after)]
            columns.append(torch.cat([clean, noisy.clamp(0, 1), *both], dim=1))
        self.logs.picture("denoised.png", self.step, torch.cat(columns, dim=2))

    def _tell(self, found: Mapping[str, Mapping[str, list[float]]]) -> None:
        levels = ", ".join(map(str, VALIDATION_SIGMAS))
        self.report.line(f"denoising PSNR (dB) at σ = {levels} of 255, before → after:")
        count = len(self.held)
        names = {"held out": f"held-out pictures ({count})", "own": f"{self.card.name}'s own pictures"}
        for group, values in found.items():
            told = ", ".join(
                f"{b:.2f} → {a:.2f} ({a - b:+.2f})"
                for b, a in zip(values["before"], values["after"], strict=True)
            )
            self.report.line(f"  {names[group]}: {told}")
        if "held out" not in found:
            self.report.line(
                "  no picture held out, since there are fewer than 4: whether it helps is not measured"
            )
        else:
            gain = sum(found["held out"]["after"]) - sum(found["held out"]["before"])
            if gain <= 0:
                self.report.line(
                    "  it did not help on pictures it was not shown: fewer --steps, or more pictures"
                )
        self.report.line(f"invdiff restore IMAGE --prior {self.out} ... restores with it")


def _loaded(settings: Adaptation, device: torch.device, offline: bool) -> NetworkPrior:
    """The prior as it is. RequestError for one whose weights could not be saved again, or without such a label."""
    name, condition = condition_of(settings.prior)
    if condition is not None:
        raise RequestError(f"prior {name} is a conditional model ({condition.said}), which cannot be adapted")
    prior = load_prior(settings.prior, device=device, precision="float32", offline=offline)
    if not isinstance(prior, NetworkPrior) or type(prior.network) not in NETWORKS.values():
        what = prior.card.format or type(prior).__name__
        raise RequestError(
            f"prior {prior.card.name}: {what} cannot be adapted; expected a network of {', '.join(NETWORKS)}"
        )
    prior.given(settings.label)
    return prior


def _crop(settings: Adaptation, card: Card) -> int:
    """RequestError for a size that the network does not take."""
    crop = settings.crop or card.size or math.ceil(CROP / card.multiple) * card.multiple
    if card.size not in (None, crop):
        raise RequestError(
            f"crop: prior {card.name} knows pictures of {card.size}×{card.size} alone, got {crop}"
        )
    if crop % card.multiple:
        raise RequestError(
            f"crop: expected a multiple of {card.multiple}, which {card.name} needs, got {crop}"
        )
    return crop


def _noise(card: Card) -> Noise:
    """EDM's noise levels over the prior's own range; `Noise` states them in [-1, 1]."""
    return Noise(sigma_min=2 * card.sigma_min, sigma_max=2 * card.sigma_max, sigma_data=2 * card.data_std)


def _apart(images: list[str]) -> list[Path]:
    """The files, each content once. RequestError for one that is not there."""
    found: dict[str, Path] = {}
    for name in images:
        path = Path(name).expanduser().absolute()
        if not path.is_file():
            raise RequestError(f"{name}: no such file")
        found.setdefault(checksum(path), path)
    return list(found.values())


def _read(files: list[Path], channels: int, flip: bool, least: int) -> Pictures:
    """RequestError for a picture smaller than `least`."""
    data = Data(train=[str(file) for file in files], crop=1, validation=0, validation_crop=1, flip=flip)
    pictures = load_pictures(data, channels)
    for file, picture in zip(files, pictures.train, strict=True):
        height, width = picture.shape[1:]
        if min(height, width) < least:
            raise RequestError(
                f"{file}: {width}×{height} pixels, smaller than the crop of {least}; leave it out, or lower --crop"
            )
    return pictures
