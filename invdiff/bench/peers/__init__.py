"""Restorations by other people's code, given the same prior and the same measurement as ours.

`PEERS` names them and says what each needs; no torch, and none of the packages, is imported before `Peer.restore`. The
code that translates is in `classical` (scikit-image, Pillow, OpenCV), `of_deepinv` and `of_azula`.

No setting is chosen with the truth at hand. Samplers run with their packages' defaults, the classical ones with what
did best on crops of BSDS500's training pictures (blur 1.6 and noise .01; noise 25/255), or with what a benchmark says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from invdiff.catalog import Ability
from invdiff.errors import RequestError, nearest, unknown
from invdiff.spec_files import Composition
from invdiff.specs import SPECS, Shape, Spec

if TYPE_CHECKING:
    from torch import Tensor

    from invdiff.operators import Noise, Operator
    from invdiff.priors import Prior


@dataclass(frozen=True, kw_only=True)
class Package:
    """What a peer's code comes in. module: what is imported; least: the version its adapter is written for."""

    title: str
    module: str
    distribution: str
    least: tuple[int, int]
    extra: str = ""
    """The extra of invdiff that brings it; "" where invdiff itself does."""

    def missing(self) -> str | None:
        """One line, with pip's, where it is not installed or is older; nothing is imported to find out."""
        from importlib.metadata import PackageNotFoundError, version
        from importlib.util import find_spec

        wanted = f"{self.distribution}>={'.'.join(map(str, self.least))}"
        remedy = f"pip install 'invdiff[{self.extra}]'" if self.extra else f"pip install '{wanted}'"
        if find_spec(self.module) is None:
            return f"needs {self.title}, which is not installed: {remedy}"
        try:
            found = version(self.distribution)
        except PackageNotFoundError:  # another distribution of the same module, such as OpenCV's with windows
            return None
        numbers = [int(part) if part.isdigit() else 0 for part in found.split(".")[:2]]
        return f"needs {wanted}, this is {found}: {remedy}" if tuple(numbers) < self.least else None


PACKAGES: dict[str, Package] = {
    "pillow": Package(title="Pillow", module="PIL", distribution="pillow", least=(10, 3)),
    "skimage": Package(title="scikit-image", module="skimage", distribution="scikit-image", least=(0, 24)),
    "opencv": Package(
        title="OpenCV",
        module="cv2",
        distribution="opencv-python-headless",
        least=(4, 9),
        extra="peers",
    ),
    "deepinv": Package(title="deepinv", module="deepinv", distribution="deepinv", least=(0, 5)),
    "azula": Package(title="azula", module="azula", distribution="azula", least=(0, 11), extra="peers"),
}


SHOWN = 5
"""Of the peers that would do, an error names so many."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A restoration by another package.

    needs: what it asks of the operator; only: the operators it knows, of those in `specs.SPECS`, () for all that can
    do what it needs; whole: y must be of the picture's size; noisy: it wants σ_y > 0; defaults: its settings; steps:
    how many where none are asked for, None where it takes none; uses_prior: whether it is given D(x, σ), else it is
    classical, deterministic and free of network evaluations; stochastic: whether its samples differ; settings: with
    what it runs, for tables; note: what to know when reading its figures.
    """

    name: str
    title: str
    package: str
    needs: Ability
    only: tuple[str, ...] = ()
    whole: bool = False
    noisy: bool = False
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    steps: int | None = None
    uses_prior: bool = True
    stochastic: bool = True
    oracle: bool = False
    """Whether its settings are chosen with the truth at hand; none of ours are."""
    settings: str
    note: str = ""

    def missing(self) -> str | None:
        """One line where its package is not there."""
        return PACKAGES[self.package].missing()

    def check(
        self,
        spec: Spec,
        shape: Shape | None,
        sigma_y: float,
        *,
        settings: Mapping[str, Any] = MappingProxyType({}),
        steps: int | None = None,
        samples: int = 1,
    ) -> None:
        """RequestError, in one line, for what it cannot do; nothing heavy is imported. shape: the picture's."""
        found = self.missing()
        if found is not None:
            raise RequestError(f"{self.name}: {found}")
        self.check_settings(settings, steps, samples)
        self._check_operator(_kinds(spec), spec.abilities(shape), sigma_y)
        if self.whole and spec.overhang != (0, 0):
            raise RequestError(
                f"{self.name}: expected a measurement of the picture's size; this one's border is valid"
            )

    def check_settings(self, settings: Mapping[str, Any], steps: int | None = None, samples: int = 1) -> None:
        """RequestError for a setting it does not have, or of another kind, and steps or samples it does not take."""
        for key, value in settings.items():
            if key not in self.defaults:
                known = ", ".join(self.defaults) or "none"
                raise RequestError(
                    f"{self.name}: unknown setting {key!r}.{nearest(str(key), self.defaults)} Known: {known}"
                )
            default = self.defaults[key]
            number = isinstance(value, int) and not isinstance(value, bool)
            if type(value) is not type(default) and not (isinstance(default, float) and number):
                kind = {float: "a number", int: "a whole number", str: "a word"}[type(default)]
                raise RequestError(f"{self.name}: {key}: expected {kind}, got {value!r}")
        if steps is not None and self.steps is None:
            raise RequestError(f"{self.name}: takes no steps, got {steps}; leave steps out")
        if steps is not None and steps < 2:
            raise RequestError(f"{self.name}: steps: expected at least 2, got {steps}")
        if samples < 1:
            raise RequestError(f"{self.name}: samples: expected at least 1, got {samples}")
        if samples > 1 and not self.stochastic:
            raise RequestError(
                f"{self.name}: gives one answer and no samples; expected samples: 1, got {samples}"
            )

    def _check_operator(self, kinds: Collection[str], abilities: Collection[str], sigma_y: float) -> None:
        if not self._accepts(kinds, abilities, sigma_y):
            others = [p.name for p in PEERS.values() if p._accepts(kinds, abilities, sigma_y)]
            others[SHOWN:] = ["..."] if len(others) > SHOWN else []
            kind = {
                "any": "any operator",
                "identity": "denoising",
                "mask": "masks",
                "spectral": "singular values",
            }
            wanted = " or ".join(self.only) or kind.get(self.needs, f"{self.needs} operators")
            noise = ", with noise" if self.noisy else ""
            raise RequestError(
                f"{self.name}: is for {wanted}{noise}; this is {' or '.join(sorted(kinds)) or 'another operator'} with "
                f"σ_y {sigma_y:g}. Peers for it: {', '.join(others) or 'none'}"
            )

    def _accepts(self, kinds: Collection[str], abilities: Collection[str], sigma_y: float) -> bool:
        known = not self.only or any(kind in self.only for kind in kinds)
        return known and self.needs in abilities and (sigma_y > 0 or not self.noisy)

    def restore(
        self,
        y: Tensor,
        op: Operator,
        prior: Prior | None,
        *,
        sigma_y: float,
        noise: Noise | None = None,
        settings: Mapping[str, Any] = MappingProxyType({}),
        steps: int | None = None,
        samples: int = 1,
        seed: int = 0,
    ) -> tuple[Tensor, float]:
        """(S, B, C, H, W), unclipped, as y is, and the network evaluations of a sample.

        y: (B, *op.out_shape), image units; op may be one for each picture. prior: D(x, σ), None for a classical one.
        Noise that is not Gaussian is met as white noise of sigma_y; samplers meet less than `likelihood.NOISE_FLOOR`
        as that. Each sample is drawn by itself, by (seed, its picture's measurement, its index) alone, from torch's
        global generator on y's device, which is put back.

        RequestError for what cannot be; InvdiffError where the result is no picture.
        """
        from . import run

        return run.restored(
            self, y, op, prior, sigma_y=sigma_y, settings=settings, steps=steps, samples=samples, seed=seed
        )


def peer(name: str) -> Peer:
    """The peer of that name. RequestError, naming the nearest, where there is none."""
    if name not in PEERS:
        raise unknown("peer", name, PEERS)
    return PEERS[name]


def _kinds(spec: Spec) -> set[str]:
    """The names in SPECS of what it is; nothing where it is several in a row."""
    while isinstance(spec, Composition) and len(spec.parts) == 1:
        spec = spec.parts[0]
    return {spec.name} & set(SPECS)


_SDE = "VE (α .25, σ 80 → .001), Euler, the last state denoised: its own example"
_DDIM = "DDIM, η 1 as in its own example, VPSchedule()"

PEERS: dict[str, Peer] = {
    one.name: one
    for one in (
        Peer(
            name="bicubic",
            title="bicubic",
            package="pillow",
            needs="any",
            only=("downsample",),
            uses_prior=False,
            stochastic=False,
            settings="Pillow's bicubic enlargement of y",
        ),
        Peer(
            name="biharmonic",
            title="biharmonic",
            package="skimage",
            needs="mask",
            uses_prior=False,
            stochastic=False,
            settings="scikit-image's inpaint_biharmonic, region by region",
        ),
        Peer(
            name="wiener",
            title="Wiener",
            package="skimage",
            needs="linear",
            only=("blur",),
            whole=True,
            defaults=MappingProxyType({"balance": 0.01}),
            uses_prior=False,
            stochastic=False,
            settings="scikit-image's wiener, balance .01, Laplacian regulariser",
            note="it takes the border for circular",
        ),
        Peer(
            name="richardson-lucy",
            title="Richardson–Lucy",
            package="skimage",
            needs="linear",
            only=("blur",),
            whole=True,
            defaults=MappingProxyType({"iterations": 30}),
            uses_prior=False,
            stochastic=False,
            settings="scikit-image's richardson_lucy, 30 iterations, y wrapped around",
            note="it takes the border for circular",
        ),
        Peer(
            name="tv",
            title="total variation",
            package="skimage",
            needs="identity",
            noisy=True,
            defaults=MappingProxyType({"weight": 0.7}),
            uses_prior=False,
            stochastic=False,
            settings="scikit-image's denoise_tv_chambolle, weight .7 σ_y",
        ),
        Peer(
            name="nl-means",
            title="NL-means",
            package="skimage",
            needs="identity",
            noisy=True,
            defaults=MappingProxyType({"h": 0.55, "patch": 5, "reach": 9}),
            uses_prior=False,
            stochastic=False,
            settings="scikit-image's denoise_nl_means, told σ_y, h .55 σ_y, patches of 5, 9 pixels around",
        ),
        Peer(
            name="opencv/telea",
            title="Telea",
            package="opencv",
            needs="mask",
            defaults=MappingProxyType({"radius": 3.0}),
            uses_prior=False,
            stochastic=False,
            settings="OpenCV's INPAINT_TELEA, radius 3",
            note="it sees y in 8 bits; kept pixels are ours",
        ),
        Peer(
            name="opencv/ns",
            title="Navier–Stokes",
            package="opencv",
            needs="mask",
            defaults=MappingProxyType({"radius": 3.0}),
            uses_prior=False,
            stochastic=False,
            settings="OpenCV's INPAINT_NS, radius 3",
            note="it sees y in 8 bits; kept pixels are ours",
        ),
        Peer(
            name="deepinv/dps",
            package="deepinv",
            title="DPS",
            needs="any",
            defaults=MappingProxyType({"weight": 1.0, "guidance": "norm"}),
            steps=1000,
            settings="defaults: VP, DDPM steps, weight 1, guidance norm",
            note="in effect unconditional: its weight multiplies a score, which asks for hundreds",
        ),
        Peer(
            name="deepinv/dps-annealed",
            package="deepinv",
            title="DPS, annealed",
            needs="any",
            defaults=MappingProxyType({"weight": 1.0}),
            steps=100,
            settings=f"DPSDataFidelity, guidance annealed, weight 1; {_SDE}",
            note="the setting in which deepinv's DPS listens to y",
        ),
        Peer(
            name="deepinv/pigdm",
            package="deepinv",
            title="ΠGDM",
            needs="linear",
            defaults=MappingProxyType({"weight": 1.0, "iterations": 10}),
            steps=100,
            settings=f"PiGDMDataFidelity, weight 1, cg_max_iter 10; {_SDE}",
        ),
        Peer(
            name="deepinv/mmps",
            package="deepinv",
            title="moment matching",
            needs="linear",
            defaults=MappingProxyType({"weight": 1.0, "iterations": 3}),
            steps=100,
            settings=f"MomentMatchingDataFidelity, weight 1, cg_max_iter 3; {_SDE}",
        ),
        Peer(
            name="deepinv/score-ald",
            package="deepinv",
            title="score-ALD",
            needs="linear",
            defaults=MappingProxyType({"weight": 1.0}),
            steps=100,
            settings=f"ALDDataFidelity, weight 1; {_SDE}",
        ),
        Peer(
            name="deepinv/ilvr",
            package="deepinv",
            title="ILVR",
            needs="linear",
            defaults=MappingProxyType({"weight": 1.0}),
            steps=100,
            settings=f"ILVRDataFidelity, weight 1; {_SDE}",
        ),
        Peer(
            name="deepinv/ddrm",
            package="deepinv",
            title="DDRM",
            needs="spectral",
            defaults=MappingProxyType({"eta": 0.85, "eta_b": 1.0}),
            steps=20,
            settings="defaults: σ from 1 to 0 in even steps, η .85, η_b 1",
            note="its noise is short by √2, it starts what is unseen at 0 and not at the mean, and it may alter y",
        ),
        Peer(
            name="deepinv/diffpir",
            package="deepinv",
            title="DiffPIR",
            needs="linear",
            defaults=MappingProxyType({"weight": 7.0, "zeta": 0.1}),
            steps=100,
            settings="defaults: λ 7, ζ .1; data fidelity L2(), sigma=σ_y",
            note="it clips x̂₀ to [0, 1], and starts from Aᵀy with noise",
        ),
        Peer(
            name="deepinv/dpir",
            package="deepinv",
            title="plug-and-play (DPIR)",
            needs="linear",
            stochastic=False,
            settings="DPIR(sigma=σ_y): half-quadratic splitting, 8 iterations, σ from 49/255 to σ_y",
            note="one answer, no samples; it starts from Aᵀy, and was made for the denoiser DRUNet",
        ),
        Peer(
            name="azula/dps",
            package="azula",
            title="DPS",
            needs="linear",
            defaults=MappingProxyType({"zeta": 1.0}),
            steps=1000,
            settings="defaults: ζ 1, DDPM steps, VPSchedule()",
            note="its norm is the whole batch's: ζ is rescaled row by row to what each has alone",
        ),
        Peer(
            name="azula/pigdm",
            package="azula",
            title="ΠGDM",
            needs="linear",
            defaults=MappingProxyType({"eta": 1.0}),
            steps=100,
            settings="DDIM, η 1 as in the paper (its default is 0), VPSchedule()",
            note="knows no σ_y",
        ),
        Peer(
            name="azula/mmps",
            package="azula",
            title="MMPS",
            needs="linear",
            defaults=MappingProxyType({"eta": 1.0, "iterations": 1, "solver": "gmres"}),
            steps=100,
            settings=f"defaults: GMRES, 1 iteration; {_DDIM}",
        ),
        Peer(
            name="azula/tmpd",
            package="azula",
            title="TMPD",
            needs="linear",
            defaults=MappingProxyType({"eta": 1.0}),
            steps=100,
            settings=_DDIM,
        ),
        Peer(
            name="azula/diffpir",
            package="azula",
            title="DiffPIR",
            needs="linear",
            defaults=MappingProxyType({"eta": 1.0, "weight": 10.0, "iterations": 1, "solver": "gmres"}),
            steps=100,
            settings=f"defaults: λ 10, GMRES, 1 iteration; {_DDIM}",
        ),
        Peer(
            name="azula/repaint",
            package="azula",
            title="RePaint",
            needs="mask",
            defaults=MappingProxyType({"eta": 1.0, "iterations": 3}),
            steps=100,
            settings="defaults: 3 iterations a step; DDIM, η 1 as in the paper (its default is 0), VPSchedule()",
            note="knows no σ_y",
        ),
    )
}
