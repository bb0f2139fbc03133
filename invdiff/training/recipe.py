"""What a training recipe holds, with its defaults and the range of each number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
WholeNumber = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Data:
    train: list[str] = field(default_factory=list)
    """Folders, zip files or single images, relative to `root`."""
    root: str | None = None
    """Where `train` is looked for; else the environment's INVDIFF_DATA, else the working directory."""
    crop: Count = 64
    skip_small: bool = False
    """Leave images smaller than the crop out, instead of refusing them."""
    validation: WholeNumber = 24
    """This many images, spread evenly over the last source, are held out."""
    validation_crop: Count = 128
    """The middle of each, this large."""
    limit_mib: Positive | None = None
    """At most this much decoded data in memory, taken evenly from all images."""


@dataclass(frozen=True, kw_only=True)
class Network:
    kind: Literal["unet"] = "unet"
    channels: Literal[1, 3] = 3
    widths: Annotated[list[Count], Field(min_length=1)] = field(default_factory=lambda: [96, 128, 192])
    blocks: Annotated[list[Count], Field(min_length=1)] = field(default_factory=lambda: [2, 2, 2])
    fold: Count = 2
    embedding: Count = 128

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths: expected one for each of blocks, got {len(self.widths)} and {len(self.blocks)}"
            )

    @property
    def multiple(self) -> int:
        """Sizes the network takes without padding are multiples of this."""
        return self.fold * 2 ** (len(self.widths) - 1)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """ln σ ~ N(mean, std²) in the network's range, [-1, 1] (twice image units), as in EDM; a share `uniform`
    of the draws has ln σ uniform over [ln sigma_min, ln sigma_max] instead, so that no level is left
    unseen."""

    mean: Finite = -1.4
    std: NotNegative = 1.4
    uniform: Share = 0.1
    sigma_min: Positive = 0.004
    sigma_max: Positive = 80.0
    sigma_data: Positive = 0.5

    def __post_init__(self) -> None:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min: expected less than sigma_max {self.sigma_max}, got {self.sigma_min}"
            )


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    learning_rate: Positive = 1e-3
    final: Share = 0.01
    """The cosine ends at this fraction of the learning rate."""
    warmup: WholeNumber = 200
    """Steps."""
    weight_decay: NotNegative = 0.01
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    ema: Decay = 0.999


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    minutes: NotNegative = 5.0
    """Between two of them; 0: after every step."""
    part_mib: Positive | None = None
    """A checkpoint is cut into files no larger than this, where files must stay small."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. YAML overrides these defaults and nothing else."""

    name: str
    data: Data
    network: Network = Network()
    noise: Noise = Noise()
    optimiser: Optimiser = Optimiser()
    checkpoint: Checkpoint = Checkpoint()
    images: Count = 1_000_000
    """Crops to train on in all: the length of the run and of its cosine."""
    batch: Count = 16
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    start_from: str | None = None
    """A prior (name or file) whose weights to begin with, with a fresh optimiser."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    device: str = "auto"
    validate_minutes: NotNegative = 5.0
    licence: str = "unknown"
    training_data: str = "unknown"
    summary: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: expected a name for the prior, got nothing")
        if self.images < self.batch:
            raise ValueError(f"images: expected at least one batch, {self.batch}, got {self.images}")
        if self.data.crop % self.network.multiple:
            raise ValueError(
                f"data.crop: expected a multiple of {self.network.multiple}, which this network needs, "
                f"got {self.data.crop}"
            )

    @property
    def steps(self) -> int:
        return self.images // self.batch
