"""What exists: tasks, methods and priors, by name, in three literal dicts.

Nothing here imports torch, so that listings, help and impossible requests answer at once. The code behind a
name lives elsewhere (`invdiff.methods`, `invdiff.tasks`, `invdiff.priors`); tests hold the keys equal.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import RequestError, unknown

Ability = Literal["any", "proximal", "linear", "spectral", "mask", "identity"]
"""What a method may ask of an operator: A and autograd alone; a prox too; an adjoint and a pseudo-inverse too;
singular values too; that the operator is a mask; or that it is the identity (denoising)."""

ANY: frozenset[Ability] = frozenset({"any"})
PROXIMAL: frozenset[Ability] = ANY | {"proximal"}
LINEAR: frozenset[Ability] = PROXIMAL | {"linear"}
SPECTRAL: frozenset[Ability] = LINEAR | {"spectral"}
MASK: frozenset[Ability] = SPECTRAL | {"mask"}
IDENTITY: frozenset[Ability] = SPECTRAL | {"identity"}


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """A method as the listings and the checks before any weight is loaded know it.

    needs: the ability it asks of the operator; noisy_needs: the same where sigma_y > 0 ("" = as `needs`,
    "no" = exact measurements only); any_noise: whether it knows every noise that has a score, and meets no other as a
    Gaussian; gradient: it differentiates through the network (two to three times an evaluation's time and memory);
    evaluations: network evaluations per step of the grid; exact: under what its samples are the posterior's as steps
    grow; guided: an x̂₀ that any integrator walks; conditional: it is for networks that are shown y, which must have
    been trained for that task; own: its settings that not every method has.
    """

    name: str
    title: str
    needs: Ability
    noisy_needs: Literal["", "no", "any", "proximal", "linear", "spectral", "mask"] = ""
    any_noise: bool = False
    gradient: bool
    evaluations: str
    exact: str
    source: str
    summary: str
    guided: bool = True
    conditional: bool = False
    own: tuple[str, ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its settings: those of every method, and its own."""
        common = ("steps", "sigma_max", "sigma_min", "grid", "jump", "repeats")
        return (*common, *(("integrator", "clip") if self.guided else ()), *self.own)

    def accepts(self, abilities: Collection[str], sigma_y: float) -> bool:
        """Whether it can treat an operator of these abilities under noise sigma_y (image units)."""
        return self.needs in abilities and (sigma_y <= 0 or (self.noisy_needs or self.needs) in abilities)


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """A task of the command line.

    needs: the options it cannot do without; operator: a name in `invdiff.operators.OPERATORS`; abilities:
    what that operator can do whatever the options (a blur with circular borders can do more).
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    operator: str
    abilities: frozenset[Ability]


PRIORS_VARIABLE = "INVDIFF_PRIORS"
"""The environment variable that names a folder of priors' weights."""


@dataclass(frozen=True, kw_only=True)
class PriorInfo:
    """A prior that is known by name, as its file's card has it; σ in image units.

    file: of a packaged prior inside the package's folder, "/"-separated; of another, which is shipped beside the
    package, the name its file has in any of `places()`. sha256: what its bytes must hash to; card: its page; size: the
    side of its pictures where it knows no other; multiple: what sizes are padded to; classes: how many labels it knows.
    Of a conditional model tasks and noise: the measurements it was trained on, as its card's `condition` has them;
    instead_of: the prior of the same pictures, in whose stead the method sr3 takes it.
    """

    name: str
    file: str
    sha256: str
    summary: str
    channels: int
    licence: str
    training_data: str
    card: str
    packaged: bool = True
    tasks: tuple[str, ...] = ()
    noise: float = 0.0
    instead_of: str = ""
    multiple: int = 1
    size: int | None = None
    classes: int = 0
    sigma_min: float = 0.002
    sigma_max: float = 40.0

    def places(self) -> tuple[Path, ...]:
        """Where its file is looked for, in order: the package, and for one that is not packaged the checkout's
        experiments/weights, the folder $INVDIFF_PRIORS and ~/.cache/invdiff/priors."""
        package = Path(__file__).resolve().parent
        if self.packaged:
            return (package / self.file,)
        given = os.environ.get(PRIORS_VARIABLE)
        folders = (
            package / "weights",
            package.parent / "experiments" / "weights",
            *([Path(given).expanduser()] if given else []),
            prior_cache(),
        )
        return tuple(folder / self.file for folder in folders)

    @property
    def path(self) -> Path:
        """Its file: the first of `places()` that is there, or, where none is, the one to put it at."""
        places = self.places()
        return next((place for place in places if place.is_file()), places[-1])

    @property
    def size_rule(self) -> str:
        """The sizes it takes, in words."""
        return size_rule(self.size, self.multiple)

    def missing(self) -> str:
        """What to do where its file is not there, as one line."""
        if self.packaged:
            return f"prior {self.name}: {self.path.name} is missing from this installation; reinstall"
        return (
            f"prior {self.name}: {self.file} does not come with the package; put it at {self.path}, or in a folder "
            f"that {PRIORS_VARIABLE} names"
        )


def size_rule(size: int | None, multiple: int) -> str:
    """The sizes a prior takes, in words, from its card's `size` and `multiple`."""
    if size is not None:
        return f"{size}×{size}"
    return "any" if multiple == 1 else f"any, padded to multiples of {multiple}"


def prior_cache() -> Path:
    """The folder for weights that do not come with the package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "invdiff" / "priors"


METHODS: dict[str, MethodInfo] = {
    "dps": MethodInfo(
        name="dps",
        title="Diffusion Posterior Sampling",
        needs="any",
        any_noise=True,
        gradient=True,
        evaluations="1 with gradient",
        exact="no",
        source="Chung et al. 2023, arXiv:2209.14687",
        summary="An ancestral step, then a gradient step on ‖y − A(D)‖: any operator, many steps.",
        own=("zeta",),
    ),
    "pigdm": MethodInfo(
        name="pigdm",
        title="ΠGDM, pseudoinverse guidance",
        needs="linear",
        gradient=True,
        evaluations="1 with gradient",
        exact="white Gaussian priors",
        source="Song et al. 2023, ICLR (OpenReview 9_gsMA8MRKQ)",
        summary="Guidance under a Gaussian p(x₀ given x_σ) of one variance for all pixels.",
        own=("tau",),
    ),
    "mmps": MethodInfo(
        name="mmps",
        title="Moment Matching Posterior Sampling",
        needs="linear",
        gradient=True,
        evaluations="1 with gradient, and 1 gradient per inner iteration",
        exact="Gaussian priors, its system solved",
        source="Rozet et al. 2024, arXiv:2405.13712",
        summary="Guidance under the covariance σ²·∂D/∂x, by a few safeguarded conjugate-gradient steps.",
        own=("iterations", "warm", "plain_below"),
    ),
    "tmpd": MethodInfo(
        name="tmpd",
        title="Tweedie Moment Projected Diffusions",
        needs="linear",
        gradient=True,
        evaluations="1 with 2 gradients",
        exact="white Gaussian priors, masks",
        source="Boys et al. 2024, arXiv:2310.06721",
        summary="Guidance under the covariance σ²·∂D/∂x, its row sums in place of an inverse.",
    ),
    "ddrm": MethodInfo(
        name="ddrm",
        title="Denoising Diffusion Restoration Models",
        needs="spectral",
        gradient=False,
        evaluations="1",
        exact="no",
        source="Kawar et al. 2022, arXiv:2201.11793",
        summary="Each singular vector by itself: the measurement where it is the better known. Few steps.",
        guided=False,
        own=("eta", "eta_b"),
    ),
    "ddnm": MethodInfo(
        name="ddnm",
        title="Denoising Diffusion Null-space Model",
        needs="linear",
        noisy_needs="spectral",
        gradient=False,
        evaluations="1",
        exact="no",
        source="Wang et al. 2023, arXiv:2212.00490",
        summary="D's range-space part replaced by the measurement's, per singular value if noisy.",
        own=("eta",),
    ),
    "diffpir": MethodInfo(
        name="diffpir",
        title="Denoising diffusion for plug-and-play image restoration",
        needs="proximal",
        gradient=False,
        evaluations="1",
        exact="no",
        source="Zhu et al. 2023, arXiv:2305.08995",
        summary="A proximal step of the data term on D at every level: fast, no gradients.",
        own=("weight", "zeta"),
    ),
    "repaint": MethodInfo(
        name="repaint",
        title="RePaint",
        needs="mask",
        noisy_needs="no",
        gradient=False,
        evaluations="1, times the resamplings",
        exact="white Gaussian priors",
        source="Lugmayr et al. 2022, arXiv:2201.09865",
        summary="Known pixels pasted in at every noise level, with jumps back up that harmonise the rest.",
    ),
    "ilvr": MethodInfo(
        name="ilvr",
        title="Iterative Latent Variable Refinement",
        needs="linear",
        gradient=False,
        evaluations="1",
        exact="no",
        source="Choi et al. 2021, arXiv:2108.02938",
        summary="The state projected onto the noised measurement at every level.",
    ),
    "mcg": MethodInfo(
        name="mcg",
        title="Manifold Constrained Gradients",
        needs="linear",
        gradient=True,
        evaluations="1 with gradient",
        exact="no",
        source="Chung et al. 2022, arXiv:2206.00941",
        summary="DPS's gradient step, then the projection of ILVR.",
        own=("zeta",),
    ),
    "red_diff": MethodInfo(
        name="red_diff",
        title="Regularisation by Denoising Diffusion",
        needs="any",
        any_noise=True,
        gradient=False,
        evaluations="1",
        exact="no: a mode",
        source="Mardani et al. 2024, arXiv:2305.04391",
        summary="Adam on the picture itself, the denoiser's residual as its regulariser: one answer, no samples.",
        guided=False,
        own=("weight", "rate"),
    ),
    "daps": MethodInfo(
        name="daps",
        title="Decoupled Annealing Posterior Sampling",
        needs="any",
        any_noise=True,
        gradient=False,
        evaluations="5",
        exact="no",
        source="Zhang et al. 2025, arXiv:2407.01521",
        summary="The ODE down to a picture, Langevin steps towards y, noise again: nonlinear operators.",
        guided=False,
        own=("ode_steps", "integrator", "langevin", "rate", "tau"),
    ),
    "score_ald": MethodInfo(
        name="score_ald",
        title="Score-based annealed Langevin dynamics",
        needs="any",
        any_noise=True,
        gradient=False,
        evaluations="10 by its own integrator, 1 by ancestral steps",
        exact="no",
        source="Jalal et al. 2021, arXiv:2108.01368",
        summary="Langevin steps at every level, the likelihood widened by the level's noise.",
        own=("gamma",),
    ),
    "smc": MethodInfo(
        name="smc",
        title="Sequential Monte Carlo, twisted diffusion",
        needs="linear",
        gradient=True,
        evaluations="1 with gradient, per particle",
        exact="any prior, as particles and steps grow",
        source="Wu et al. 2023, arXiv:2306.17775",
        summary="ΠGDM's steps as proposals of many particles, weighted and resampled; slow.",
        guided=False,
        own=("particles", "tau"),
    ),
    "ula": MethodInfo(
        name="ula",
        title="Unadjusted Langevin algorithm",
        needs="any",
        any_noise=True,
        gradient=False,
        evaluations="1",
        exact="any prior, as size and sigma_min fall and steps grow",
        source="Roberts & Tweedie 1996, Bernoulli 2(4)",
        summary="Langevin steps on the posterior itself; slow, a reference.",
        guided=False,
        own=("size",),
    ),
    "mala": MethodInfo(
        name="mala",
        title="Metropolis-adjusted Langevin algorithm",
        needs="any",
        any_noise=True,
        gradient=False,
        evaluations="2",
        exact="any prior, as sigma_min falls and steps grow",
        source="Roberts & Tweedie 1996, Bernoulli 2(4)",
        summary="ULA with every step accepted or refused; slow, a reference.",
        guided=False,
        own=("size",),
    ),
    "ancestral": MethodInfo(
        name="ancestral",
        title="Ancestral sampling from the noisy picture",
        needs="identity",
        gradient=False,
        evaluations="1",
        exact="any prior, by noisy steps",
        source="Ho et al. 2020, arXiv:2006.11239",
        summary="Denoising: the measurement is x_σ at σ = σ_y; one step gives the posterior mean.",
    ),
    "sr3": MethodInfo(
        name="sr3",
        title="SR3, a network that is shown the measurement",
        needs="any",
        any_noise=True,
        gradient=False,
        evaluations="1",
        exact="any prior, by noisy steps",
        source="Saharia et al. 2021, arXiv:2104.07636",
        summary="A network trained for the task, shown y: few steps, no tuning; where there is one for it.",
        conditional=True,
        own=("consistency", "zeta"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class IntegratorInfo:
    """An integrator as the listings know it; order: of convergence, "" where it is not an ODE's."""

    name: str
    title: str
    evaluations: str
    order: str = ""
    source: str
    options: tuple[str, ...] = ()


INTEGRATORS: dict[str, IntegratorInfo] = {
    info.name: info
    for info in (
        IntegratorInfo(
            name="ancestral",
            title="DDPM's steps; eta < 1: DDIM(η)",
            evaluations="1",
            source="Ho et al. 2020, arXiv:2006.11239",
            options=("eta",),
        ),
        IntegratorInfo(
            name="ddim",
            title="DDIM(η), by default deterministic",
            evaluations="1",
            order="1",
            source="Song et al. 2021, arXiv:2010.02502",
            options=("eta",),
        ),
        IntegratorInfo(
            name="renew",
            title="The same share of fresh noise at every step",
            evaluations="1",
            source="Zhu et al. 2023, arXiv:2305.08995",
            options=("fresh",),
        ),
        IntegratorInfo(
            name="euler",
            title="Euler on the probability-flow ODE, with churn",
            evaluations="1",
            order="1",
            source="Karras et al. 2022, arXiv:2206.00364",
            options=("churn", "churn_min", "churn_max", "churn_noise"),
        ),
        IntegratorInfo(
            name="heun",
            title="Heun on the probability-flow ODE, with churn (EDM)",
            evaluations="2",
            order="2",
            source="Karras et al. 2022, arXiv:2206.00364",
            options=("churn", "churn_min", "churn_max", "churn_noise"),
        ),
        IntegratorInfo(
            name="dpmpp_2m",
            title="DPM-Solver++ (2M)",
            evaluations="1",
            order="2",
            source="Lu et al. 2022, arXiv:2211.01095",
        ),
        IntegratorInfo(
            name="euler_maruyama",
            title="Euler–Maruyama on the reverse SDE, form ve or vp",
            evaluations="1",
            source="Song et al. 2021, arXiv:2011.13456",
            options=("form",),
        ),
        IntegratorInfo(
            name="predictor_corrector",
            title="Reverse diffusion and Langevin corrections, form ve or vp",
            evaluations="1 and 1 per correction",
            source="Song et al. 2021, arXiv:2011.13456",
            options=("form", "corrections", "snr"),
        ),
        IntegratorInfo(
            name="annealed_langevin",
            title="Langevin steps at every level (NCSN)",
            evaluations="1 per correction",
            source="Song & Ermon 2019, arXiv:1907.05600",
            options=("corrections", "size"),
        ),
    )
}

TASKS: dict[str, TaskInfo] = {
    "inpaint": TaskInfo(
        name="inpaint",
        summary="Fill in the pixels a mask marks.",
        needs=("mask",),
        operator="mask",
        abilities=MASK,
    ),
    "outpaint": TaskInfo(
        name="outpaint",
        summary="Continue a picture beyond its edges.",
        needs=("margin",),
        operator="mask",
        abilities=MASK,
    ),
    "deblur": TaskInfo(
        name="deblur",
        summary="Undo a known blur (spectral methods too where --border is circular).",
        needs=("kernel",),
        operator="blur",
        abilities=LINEAR,
    ),
    "sr": TaskInfo(
        name="sr",
        summary="Super-resolution: enlarge by an integer factor.",
        needs=("scale",),
        operator="downsample",
        abilities=SPECTRAL,
    ),
    "denoise": TaskInfo(
        name="denoise",
        summary="Remove noise.",
        needs=("noise",),
        operator="identity",
        abilities=IDENTITY,
    ),
    "colorize": TaskInfo(
        name="colorize",
        summary="Give a grey picture colours.",
        needs=(),
        operator="grayscale",
        abilities=SPECTRAL,
    ),
    "demosaic": TaskInfo(
        name="demosaic",
        summary="Colours from a sensor's mosaic (--pattern, by default rggb).",
        needs=(),
        operator="demosaic",
        abilities=SPECTRAL,
    ),
    "dejpeg": TaskInfo(
        name="dejpeg",
        summary="Undo JPEG compression, as its file tells it, or by --quality.",
        needs=(),
        operator="jpeg",
        abilities=PROXIMAL,
    ),
    "hdr": TaskInfo(
        name="hdr",
        summary="Restore what is over- and underexposed (--gain, by default 2).",
        needs=(),
        operator="clip",
        abilities=PROXIMAL,
    ),
    "dequantize": TaskInfo(
        name="dequantize",
        summary="Restore tones from few bits.",
        needs=("bits",),
        operator="quantize",
        abilities=PROXIMAL,
    ),
}

PRIORS: dict[str, PriorInfo] = {
    "natural": PriorInfo(
        name="natural",
        file="weights/natural.safetensors",
        sha256="ca9890679555c410206fa61a8b06c279130a76cf06e822c1d60e99c1a2871d8f",
        summary="Photographs in colour, any size.",
        channels=3,
        licence="Apache-2.0 (weights); training data under their own terms, see the card",
        training_data="BSDS500 train and test, ImageNet (1000 images)",
        card="docs/natural.md",
        multiple=8,
    ),
    "mnist": PriorInfo(
        name="mnist",
        file="mnist.safetensors",
        sha256="fe8ff9c6319e1856dbf706c58caa727b1d3de1394c2c834689cd9b95e7907170",
        summary="Handwritten digits, grey, 32×32; labels 0 to 9.",
        channels=1,
        licence="Apache-2.0 (weights); training data CC BY-SA 3.0",
        training_data="MNIST's training digits",
        card="docs/mnist.md",
        packaged=False,
        multiple=8,
        size=32,
        classes=10,
    ),
    "celeba64": PriorInfo(
        name="celeba64",
        file="celeba64.safetensors",
        sha256="85c02fcbba4edad5d207061ab70a60e21fa92597ee932811b8d4256694d678ac",
        summary="Faces, aligned as CelebA's, in colour, 64×64.",
        channels=3,
        licence="Apache-2.0 (weights); training data for non-commercial research, see the card",
        training_data="CelebA, aligned, images 1 to 9,600",
        card="docs/conditional.md",
        packaged=False,
        multiple=16,
        size=64,
    ),
    "celeba64-sr4": PriorInfo(
        name="celeba64-sr4",
        file="celeba64-sr4.safetensors",
        sha256="87e98178793cfee5f93c1e2dd5833ee519befce238c41f593d0ba956b96c1b6c",
        summary="Faces, aligned as CelebA's, in colour, from 16×16 to 64×64.",
        channels=3,
        licence="Apache-2.0 (weights); training data for non-commercial research, see the card",
        training_data="CelebA, aligned, images 1 to 9,600",
        card="docs/conditional.md",
        packaged=False,
        tasks=("super-resolution ×4 (bicubic)",),
        noise=0.0,
        instead_of="celeba64",
        multiple=16,
        size=64,
        sigma_max=10.0,
    ),
    "natural-sr4": PriorInfo(
        name="natural-sr4",
        file="weights/natural-sr4.safetensors",
        sha256="600bb1745718fe4fa49f7c3db1e03489d61f727a7d8b4500823886d36aa42ac7",
        summary="Photographs in colour, enlarged four times, any size.",
        channels=3,
        licence="Apache-2.0 (weights); training data under their own terms, see the card",
        training_data="BSDS500 train and test, ImageNet (1000 images)",
        card="docs/conditional.md",
        tasks=("super-resolution ×4 (bicubic)",),
        noise=0.0,
        instead_of="natural",
        multiple=8,
        sigma_max=40.0,
    ),
}

FORMATS: tuple[tuple[str, str], ...] = (
    ("a name", "of the list above"),
    ("FILE.safetensors, FOLDER", "what invdiff train and save_prior write"),
    (
        "FOLDER",
        "a diffusers model or pipeline: UNet2DModel, DiTTransformer2DModel in pixels, its scheduler beside it",
    ),
    ("OWNER/NAME[@REVISION]", "the same on the Hugging Face hub; --offline takes it from the cache alone"),
    (
        "FILE.pt .pth .ckpt .bin .safetensors",
        "weights of guided-diffusion (ADM), EDM or score_sde (NCSN++, DDPM++)",
    ),
)
"""What --prior takes: how it is given, and what it is. What is pickled code rather than weights is refused."""


def is_hub_name(text: str) -> bool:
    """Whether it has the form "owner/name" or "owner/name@revision", and no local folder is called as its owner."""
    path = Path(text)
    return (
        bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?", text))
        and not path.suffix[1:].isalpha()
        and not path.parent.exists()
    )


def check_label(
    prior: str, classes: int | None, label: int | None, guidance: float, dropout: float | None = None
) -> None:
    """RequestError for a label that the prior does not have, or guidance that is none. classes: None if not known.

    dropout: of a conditional prior, which guidance takes towards its measurement where it was trained with some; None
    of any other, which it takes towards a label.
    """
    if not math.isfinite(guidance):
        raise RequestError(f"guidance: expected a finite number, got {guidance}")
    if dropout == 0 and guidance != 1:
        raise RequestError(
            f"guidance {guidance:g}: prior {prior} was always shown its measurement (condition.dropout 0); leave "
            "guidance out"
        )
    if label is None:
        if guidance != 1 and dropout is None:
            remedy = "which knows none; leave guidance out" if classes == 0 else "give one it knows"
            raise RequestError(f"guidance {guidance:g}: needs a label of prior {prior}, {remedy}")
        return
    if isinstance(label, bool) or not isinstance(label, int):
        raise RequestError(f"label: expected a whole number, got {label!r}")
    if classes == 0:
        raise RequestError(
            f"label {label}: prior {prior} knows no labels; leave it out, or use a prior with classes"
        )
    if label < 0 or (classes is not None and label >= classes):
        knows = "labels from 0" if classes is None else f"labels 0 to {classes - 1}"
        raise RequestError(f"label {label}: prior {prior} knows {knows}")


OPERATOR_TASKS: dict[str, str] = {
    "mask": "inpainting",
    "blur": "deblurring",
    "identity": "denoising",
    "diagonal": "flat-fielding",
    "demosaic": "demosaicing",
    "grayscale": "colourisation",
    "compressed_sensing": "compressed sensing",
    "clip": "declipping",
    "quantize": "dequantisation",
    "jpeg": "JPEG restoration",
    "phase_retrieval": "phase retrieval",
}
"""What undoing an operator of `invdiff.operators.OPERATORS` is called, but for those with a factor (`enlargement`)."""

_ONCE = ("inpainting", "deblurring", "flat-fielding")
_THEN = ", then "


def enlargement(factor: int, how: str) -> str:
    """What undoing a reduction by this factor is called. how: it was reduced."""
    return f"super-resolution ×{factor} ({how})"


def one_after_another(tasks: Iterable[str]) -> str:
    """What undoing several operators is called, in the order in which light meets them.

    It says no more than `operators.composed` leaves: the identity is left out, of neighbours of one kind one is named.
    """
    found: list[str] = []
    for task in (one for several in tasks for one in several.split(_THEN)):
        last = found[-1] if found else ""
        if task == OPERATOR_TASKS["identity"] or (task == last and task in _ONCE):
            continue
        if {last, task} == {"inpainting", "flat-fielding"}:
            found[-1] = "flat-fielding"
        else:
            found.append(task)
    return _THEN.join(found) or OPERATOR_TASKS["identity"]


def together(tasks: Iterable[str]) -> str:
    """What restoring from several measurements of one picture is called."""
    return " with ".join(task.replace(_THEN, " and ") for task in tasks)


def trained_for(tasks: Iterable[str], noise: float) -> str:
    """The measurements that a conditional model was trained on, in words. No tasks: any; noise may be infinite."""
    noises = "any noise" if math.isinf(noise) else f"noise up to {noise:g}" if noise else "without noise"
    return f"{' or '.join(tasks) or 'any measurement'}, {noises}"


def check_trained(prior: str, tasks: Collection[str], noise: float, task: str, sigma_y: float) -> None:
    """RequestError, with what it was trained for, where a conditional model was not trained for such measurements."""
    if tasks and task not in tasks:
        raise RequestError(f"prior {prior} was trained for {trained_for(tasks, noise)}; got {task}")
    if sigma_y > noise + NOISE_SLACK:
        raise RequestError(
            f"prior {prior} was trained for {trained_for(tasks, noise)}; got noise {sigma_y:.3g}"
        )


def needs_a_measurement(prior: str, tasks: Iterable[str], noise: float) -> str:
    """One line for where a conditional model that cannot do without a measurement was asked without one."""
    return (
        f"prior {prior} must be shown a measurement ({trained_for(tasks, noise)}); invdiff restore does that"
    )


def model_for(prior: str, task: str, sigma_y: float) -> str | None:
    """The conditional model that stands for a prior in such a task, as `conditional.task_of` names it; None: none."""
    return next((info.name for info in _models(prior, task, sigma_y) if info.path.is_file()), None)


def no_model(prior: str, task: str, sigma_y: float) -> str:
    """That there is none, or none here, and what is done instead, as one line."""
    instead = "Restoring with the method auto instead"
    absent = next((info for info in _models(prior, task, sigma_y) if not info.path.is_file()), None)
    if absent is not None:
        return f"sr3: {absent.missing()}. {instead}"
    noise = f" with noise {sigma_y:.3g}" if sigma_y else ""
    made = [
        f"{name} ({trained_for(info.tasks, info.noise)})"
        for name, info in PRIORS.items()
        if info.instead_of == prior
    ]
    there = f"; there is {', '.join(made)}" if made else ""
    return (
        f"sr3: no conditional model of prior {prior} for {task}{noise}{there}. {instead}; "
        "invdiff train makes one, see docs/conditional.md"
    )


def _models(prior: str, task: str, sigma_y: float) -> list[PriorInfo]:
    """The conditional models in a prior's stead that were trained for such measurements, whether here or not."""
    mine = (info for info in PRIORS.values() if info.instead_of == prior)
    return [info for info in mine if task in info.tasks and sigma_y <= info.noise + NOISE_SLACK]


NOISE_SLACK = 0.005
"""Noise of files, in image units, that a model trained without noise is not spoilt by: little more than rounding."""

AUTO = "auto"
"""The method name that stands for a choice by operator and noise; not one of METHODS."""


def method_info(name: str) -> MethodInfo:
    """The entry of METHODS called `name`; RequestError with the nearest name otherwise."""
    if name not in METHODS:
        raise unknown("method", name, (*METHODS, AUTO))
    return METHODS[name]


def task_info(name: str) -> TaskInfo:
    """The entry of TASKS called `name`; RequestError with the nearest name otherwise."""
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def usable_methods(abilities: Collection[str], sigma_y: float) -> tuple[str, ...]:
    """Names of the methods that can treat an operator of these abilities with noise sigma_y (image units)."""
    able = (name for name, info in METHODS.items() if info.accepts(abilities, sigma_y))
    return tuple(name for name in able if not METHODS[name].conditional)


def check_method(name: str, abilities: Collection[str], sigma_y: float) -> None:
    """Raise RequestError, naming the methods that would do, unless `name` can do this or is "auto".

    abilities: the operator's (e.g. SPECTRAL), sigma_y: noise of the measurement in image units.
    """
    if name != AUTO:
        check_info(method_info(name), abilities, sigma_y)


def check_info(info: MethodInfo, abilities: Collection[str], sigma_y: float) -> None:
    """As `check_method`, for a method that METHODS may not know."""
    if info.accepts(abilities, sigma_y):
        return
    would_do = ", ".join(usable_methods(abilities, sigma_y))
    if info.needs not in abilities:
        reason = f"needs {_IN_WORDS[info.needs]}"
    elif info.noisy_needs == "no":
        reason = f"is for exact measurements only (noise here: {sigma_y:g})"
    else:
        reason = f"needs {_IN_WORDS[info.noisy_needs]} where there is noise (here {sigma_y:g})"
    raise RequestError(f"method {info.name!r} {reason}; methods that can do this: {would_do}.")


_IN_WORDS: dict[str, str] = {
    "any": "an operator",
    "proximal": "an operator with a proximal map",
    "linear": "a linear operator",
    "spectral": "an operator with singular values",
    "mask": "a mask",
    "identity": "a noisy picture (denoising)",
}
