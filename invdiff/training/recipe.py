"""What a training recipe holds, with its defaults and the range of each number."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal

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
    """Folders, zip files, .npz files ({train,test}_{images,labels}) or single images, relative to `root`."""
    root: str | None = None
    """Where `train` is looked for; else the environment's INVDIFF_DATA, else the working directory."""
    crop: Count = 64
    whole: bool = False
    """The pictures are as large as the crop, and the prior is to know no other size: digits, aligned faces."""
    skip_small: bool = False
    """Leave images smaller than the crop out, instead of refusing them."""
    flip: bool = True
    """Mirror half of the crops; not for digits and letters."""
    square: Count | None = None
    """The middle square of every image, resized to this side (bicubic, antialiased)."""
    pad: WholeNumber = 0
    """This many black pixels are put around every image, e.g. 2 to make 32×32 of 28×28."""
    validation: WholeNumber = 24
    """This many images, spread evenly over the last source, are held out."""
    validation_crop: Count = 128
    """The middle of each, this large."""
    limit_mib: Positive | None = None
    """At most this much decoded data in memory, taken evenly from all images."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The arguments of `nets.UNet`, `nets.DiT` or `nets.Classifier`; what is of another kind stays as it is here."""

    kind: Literal["unet", "dit", "classifier"] = "unet"
    channels: Literal[1, 3] = 3
    classes: WholeNumber = 0
    """Labels that the network is told (or, a classifier, tells); 0: none."""
    dropout: Decay = 0.0
    variance: bool = False
    """A second output: the variance of DDPM's step, learned by the hybrid loss (objective.kind ddpm)."""
    widths: Annotated[list[Count], Field(min_length=1)] = field(default_factory=lambda: [96, 128, 192])
    blocks: Annotated[list[Count], Field(min_length=1)] = field(default_factory=lambda: [2, 2, 2])
    fold: Count = 2
    embedding: Count = 128
    attention: list[WholeNumber] = field(default_factory=list)
    """Levels with attention, 0 the finest."""
    size: Count | None = None
    """A DiT's height and width; left out, those of the crop."""
    patch: Count = 4
    width: Count = 256
    depth: Count = 6
    heads: Count = 4

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths: expected one for each of blocks, got {len(self.widths)} and {len(self.blocks)}"
            )
        for item in fields(self):
            if item.name in _SHAPE[self.kind] or item.name == "kind":
                continue
            default = item.default if item.default_factory is MISSING else item.default_factory()
            if getattr(self, item.name) != default:
                raise ValueError(
                    f"{item.name}: network.kind {self.kind} has no such thing; expected some of "
                    f"{', '.join(_SHAPE[self.kind])}"
                )
        if self.kind == "classifier" and not self.classes:
            raise ValueError("classes: expected how many classes the classifier tells apart, got 0")

    @property
    def multiple(self) -> int:
        """Sizes the network takes without padding are multiples of this."""
        return self.patch if self.kind == "dit" else self.fold * 2 ** (len(self.widths) - 1)

    def arguments(self, crop: int) -> dict[str, Any]:
        """What the network's class is called with, to train on crops of this size."""
        named = {name: getattr(self, name) for name in _SHAPE[self.kind]}
        return {**named, "size": self.size or crop} if self.kind == "dit" else named


_UNET = ("channels", "widths", "blocks", "fold", "embedding")
_SHAPE = {
    "unet": (*_UNET, "attention", "dropout", "classes", "variance"),
    "dit": ("channels", "patch", "width", "depth", "heads", "classes", "variance", "dropout", "size"),
    "classifier": (*_UNET, "attention", "dropout", "classes"),
}
"""The arguments of each kind of network."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the network is taught to predict, at which noise levels, and how errors count (docs/training.md)."""

    kind: Literal["edm", "ddpm", "vp", "ve", "flow"] = "edm"
    prediction: Literal["epsilon", "x0", "v", "velocity", "score"] | None = None
    """None: the kind's own, ε for ddpm, vp and ve, the velocity for flow, and F for edm, which knows no other."""
    weighting: Literal["unit", "edm", "snr", "min_snr", "truncated_snr", "p2", "sigmoid"] | None = None
    """λ(σ) on |D − x₀|². None: as published: unit, |F − target|², and snr, σ²·|s − target|², of a score."""
    gamma: Positive = 5.0
    """Of min_snr."""
    bias: Finite = 2.0
    """Of sigmoid."""
    time: Literal["uniform", "log_normal", "logit_normal"] | None = None
    """How t is drawn in (0, 1), or ln σ (log_normal, by `noise`). None: log_normal for edm, else uniform."""
    mean: Finite = 0.0
    std: Positive = 1.0
    """Of logit_normal: ln t/(1−t) ~ N(mean, std²)."""
    schedule: Literal["linear", "scaled_linear", "cosine"] = "linear"
    """Of ddpm."""
    steps: Annotated[int, Field(ge=2)] = 1000
    """Of ddpm."""
    beta_start: Positive = 1e-4
    beta_end: Positive = 0.02
    """Of ddpm; vp's β_min and β_max are 1000 times these."""
    continuous: bool = False
    """Of ddpm: the noise level is drawn between two steps, and the network told √ᾱ (SR3; Chen et al. 2020)."""
    clock: Positive = 4.0
    """The network is told a time in [0, clock]; that of edm and ve is (ln σ)/4."""

    def __post_init__(self) -> None:
        if self.kind == "edm" and self.prediction is not None:
            raise ValueError(f"prediction: edm has one of its own, F; leave it out, got {self.prediction}")
        if self.kind == "ddpm" and self.time == "log_normal":
            raise ValueError(
                "time: ddpm has discrete steps; expected uniform or logit_normal, got log_normal"
            )
        if self.continuous and self.kind != "ddpm":
            raise ValueError(f"continuous: of objective.kind ddpm alone, got {self.kind}")
        if not self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start, beta_end: expected beta_start ≤ beta_end < 1, got {self.beta_start} and {self.beta_end}"
            )


@dataclass(frozen=True, kw_only=True)
class Noise:
    """ln σ ~ N(mean, std²) in the network's range, [-1, 1] (twice image units), as in EDM; a share `uniform`
    of the draws has ln σ uniform over [ln sigma_min, ln sigma_max] instead, so that no level is left
    unseen. The range is that of edm, ve and flow; ddpm and vp have their own."""

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
class Condition:
    """A conditional network, D(x, σ; y): every picture is measured on the fly, and y shown beside x_σ."""

    operator: Any
    """As in a spec file, and any value in it may be drawn anew for every picture: {uniform: [0.5, 3]}, {log_uniform:
    [a, b]}, {integer: [30, 95]} (both ends among them), {choice: [2, 4, 8]}, which may choose whole operators."""
    noise: NotNegative | tuple[NotNegative, NotNegative] = 0.0
    """σ_y in image units, or the two ends it is drawn between."""
    augment: NotNegative = 0.0
    """Noise is added to what is shown, its σ drawn from 0 to this, and told (Ho et al. 2021, arXiv:2106.15282)."""
    dropout: Decay = 0.0
    """Of the pictures, this share is shown nothing, for classifier-free guidance."""
    residual: bool = False
    """The network denoises x₀ − shown; noise.sigma_data is then that difference's, in [-1, 1]."""
    control: bool = False
    """`start_from` is frozen, and a copy of its encoder, which is shown y, trained beside it (Zhang et al. 2023,
    arXiv:2302.05543)."""

    def __post_init__(self) -> None:
        low, high = self.noise if isinstance(self.noise, tuple) else (self.noise, self.noise)
        if not low <= high:
            raise ValueError(f"noise: expected the lower end first, got {low} and {high}")
        if self.control and self.residual:
            raise ValueError(
                "residual: not with control, whose frozen prior denoises pictures; leave one out"
            )

    @property
    def sigmas(self) -> tuple[float, float]:
        """The ends of σ_y."""
        return self.noise if isinstance(self.noise, tuple) else (self.noise, self.noise)


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
    task: Literal["prior", "classifier"] = "prior"
    """A denoiser, or a classifier of noisy pictures for classifier guidance."""
    network: Network = Network()
    condition: Condition | None = None
    """None: the network is shown x_σ alone."""
    objective: Objective = Objective()
    noise: Noise = Noise()
    optimiser: Optimiser = Optimiser()
    checkpoint: Checkpoint = Checkpoint()
    images: Count = 1_000_000
    """Crops to train on in all: the length of the run and of its cosine."""
    batch: Count = 16
    """Crops of one step, over all processes."""
    accumulate: Count = 1
    """Parts that a batch goes through the network in, where memory is short."""
    label_dropout: Share = 0.1
    """Of the pictures, this share goes without its label, for classifier-free guidance."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    start_from: str | None = None
    """A prior (name or file) whose weights to begin with, with a fresh optimiser."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    device: str = "auto"
    validate_minutes: NotNegative = 5.0
    samples: WholeNumber = 16
    """Pictures sampled at every validation, into samples.png; of each class alike where there are classes."""
    sample_steps: Count = 20
    tensorboard: bool = False
    """Losses, scores and pictures for TensorBoard too, in OUT/tensorboard."""
    licence: str = "unknown"
    training_data: str = "unknown"
    summary: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: expected a name for the prior, got nothing")
        if self.images < self.batch:
            raise ValueError(f"images: expected at least one batch, {self.batch}, got {self.images}")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate: expected a divisor of batch, {self.batch}, got {self.accumulate}")
        if (self.task == "classifier") != (self.network.kind == "classifier"):
            raise ValueError(
                f"task: {self.task} cannot be done by network.kind {self.network.kind}; a classifier has "
                "task: classifier and network: {kind: classifier}"
            )
        if self.condition and self.task == "classifier":
            raise ValueError("condition: goes with task: prior, got task: classifier")
        if self.condition and self.condition.control and (self.network.kind != "unet" or not self.start_from):
            raise ValueError(
                "condition.control: expected network.kind unet and start_from, the prior to freeze, got "
                f"{self.network.kind} and {self.start_from or 'nothing'}"
            )
        if self.network.variance and self.objective.kind != "ddpm":
            raise ValueError(
                f"network.variance: learned by objective.kind ddpm alone, got {self.objective.kind}"
            )
        if self.network.size not in (None, self.data.crop):
            raise ValueError(f"network.size: expected data.crop, {self.data.crop}, got {self.network.size}")
        if self.data.crop % self.network.multiple:
            raise ValueError(
                f"data.crop: expected a multiple of {self.network.multiple}, which this network needs, "
                f"got {self.data.crop}"
            )

    @property
    def steps(self) -> int:
        return self.images // self.batch
