"""How far every method is from the exact posterior, and why: the one table of laws 2 and 3.

Affine methods on Gaussian priors have their moments propagated without sampling (`invdiff.evaluation.moments`): what is
recorded is the method's own bias, to 1e-4, and any change of a formula shows. The others are sampled with fixed
seeds; there the tolerance is the Monte-Carlo error of the stated number of samples, at most.
"""

from __future__ import annotations

from dataclasses import dataclass

from invdiff.methods import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    ILVR,
    MALA,
    MCG,
    MMPS,
    SMC,
    SR3,
    TMPD,
    ULA,
    Ancestral,
    DiffPIR,
    Method,
    PiGDM,
    RedDiff,
    RePaint,
    ScoreALD,
)


@dataclass(frozen=True)
class Row:
    """A method's distance to the posterior of `problems.known(prior, operator, sigma_y)`.

    mean: in root-mean-square posterior standard deviations; covariance: relative, in Frobenius norm (`moment_errors`).
    samples: 0 where the moments are propagated. exact: what is left vanishes in the limit that `info.exact` states.
    """

    method: Method
    prior: str
    operator: str
    sigma_y: float
    mean: float
    covariance: float
    reason: str
    samples: int = 0
    tolerance: float = 1e-4
    exact: bool = False

    @property
    def id(self) -> str:
        return f"{self.method.info.name}-{self.prior}-{self.operator}-{self.sigma_y:g}"


_FINE = {"integrator": "heun", "steps": 80, "sigma_max": 50.0, "sigma_min": 1e-3}
_COUNTED = "bias known from the approximation: y, which D sees already, is counted again"
_HEUN = "discretisation: of second order in 1/steps, and the start's 1/sigma_max in the mean"
_DDPM = "exact but for ancestral steps: 1/steps in the covariance, nothing in the mean"
_FLOOR = "exact but for ancestral steps, and NOISE_FLOOR in place of σ_y = 0"
_EQUAL = "bias known from the approximation: p(x₀ given x_σ) of one variance for all directions"
_ROWS = "bias known from the approximation: row sums in place of an inverse"
_ONE = "bias known from the approximation: one conjugate-gradient iteration of those needed"
_UNTOLD = (
    "bias known from the approximation: what is not measured does not learn of y through the prior's score"
)
_ZETA = "bias known from the approximation: a gradient of fixed length ζ, whatever σ_y"
_GAUSSIAN = "bias known from the approximation: p(x₀ given x_σ) taken as Gaussian"
_DECOUPLED = "bias known from the approximation: p(x₀ given x_σ) = N(x̂₀, σ² I)"
_SHORT = _DECOUPLED + ", and too few and small Langevin steps to reach y"
_WIDENED = "bias known from the approximation: the likelihood widened by γσ; and Langevin steps of size .2"
_MODE = "bias known from the approximation: a mode, not samples"
_BLUR = "exact but for the blur by sigma_min, and, unadjusted, the step's size"
_STIFF = "the blur by sigma_min, and steps as short as NOISE_FLOOR asks, too few to mix"

_SOLVED = {
    "white": {"mask": 1, "blur": 1, "reflected blur": 1, "downsample": 1, "matrix": 1},
    "correlated": {"mask": 7, "blur": 6, "reflected blur": 6, "downsample": 4, "matrix": 6},
}
"""Conjugate-gradient iterations that solve MMPS's system."""


def _exact(name: str, prior: str, operator: str, mean: float, covariance: float) -> Row:
    method: Method
    if name == "mmps":
        method = MMPS(iterations=_SOLVED[prior][operator], **_FINE)
    else:
        method = {"pigdm": PiGDM, "tmpd": TMPD}[name](**_FINE)
    return Row(method, prior, operator, 0.05, mean, covariance, _HEUN, exact=True)


MOMENTS: tuple[Row, ...] = (
    _exact("mmps", "white", "mask", 0.0006, 0.0050),
    _exact("mmps", "white", "blur", 0.0022, 0.0051),
    _exact("mmps", "white", "reflected blur", 0.0022, 0.0051),
    _exact("mmps", "white", "downsample", 0.0015, 0.0050),
    _exact("mmps", "white", "matrix", 0.0015, 0.0050),
    _exact("mmps", "correlated", "mask", 0.0032, 0.0054),
    _exact("mmps", "correlated", "blur", 0.0030, 0.0060),
    _exact("mmps", "correlated", "reflected blur", 0.0026, 0.0060),
    _exact("mmps", "correlated", "downsample", 0.0031, 0.0057),
    _exact("mmps", "correlated", "matrix", 0.0021, 0.0055),
    _exact("pigdm", "white", "mask", 0.0006, 0.0050),
    _exact("pigdm", "white", "blur", 0.0022, 0.0051),
    _exact("pigdm", "white", "reflected blur", 0.0022, 0.0051),
    _exact("pigdm", "white", "downsample", 0.0015, 0.0050),
    _exact("pigdm", "white", "matrix", 0.0015, 0.0050),
    _exact("tmpd", "white", "mask", 0.0006, 0.0050),
    _exact("tmpd", "white", "identity", 0.0042, 0.0077),
    _exact("tmpd", "white", "weights", 0.0037, 0.0059),
    _exact("tmpd", "white", "hadamard", 0.0006, 0.0050),
    Row(Ancestral(steps=800, sigma_min=1e-3), "correlated", "identity", 0.5, 0.0000, 0.0086, _DDPM, exact=True),
    Row(RePaint(jump=10, repeats=2, **_FINE), "white", "mask", 0.0, 0.0000, 0.0041, _HEUN, exact=True),
    Row(ULA(steps=800, sigma_min=0.02), "white", "mask", 0.05, 0.0002, 0.0505, _BLUR, exact=True),
    Row(SR3(**_FINE), "white", "blur", 0.05, 0.0022, 0.0051, _HEUN, exact=True),
    Row(SR3(**_FINE), "correlated", "mask", 0.05, 0.0032, 0.0054, _HEUN, exact=True),
    Row(SR3(**_FINE), "correlated", "weights", 0.05, 0.0037, 0.0061, _HEUN, exact=True),
    Row(SR3(**_FINE), "correlated", "downsample", 0.0, 0.0005, 0.0056, _HEUN, exact=True),
    # Approximations, at settings people use.
    Row(Ancestral(steps=1), "correlated", "identity", 0.05, 0.0000, 1.0000, "one step: the posterior mean, no spread"),
    Row(MMPS(steps=50, iterations=7), "white", "mask", 0.0, 0.0000, 0.1537, _FLOOR),
    Row(MMPS(steps=50, iterations=7), "correlated", "mask", 0.0, 0.0003, 0.1588, _FLOOR),
    Row(PiGDM(steps=50), "correlated", "mask", 0.05, 0.0921, 0.1555, _EQUAL),
    Row(PiGDM(steps=50), "correlated", "blur", 0.05, 0.0719, 0.1657, _EQUAL),
    Row(PiGDM(steps=50), "white", "mask", 0.0, 0.0000, 0.1537, _DDPM),
    Row(PiGDM(steps=50), "correlated", "mask", 0.0, 0.0942, 0.1532, _EQUAL),
    Row(TMPD(steps=50), "correlated", "mask", 0.05, 0.0753, 0.1403, _ROWS),
    Row(TMPD(steps=50), "correlated", "downsample", 0.05, 0.2559, 0.1694, _ROWS),
    Row(TMPD(steps=50), "white", "blur", 0.05, 0.4855, 0.2586, _ROWS),
    Row(TMPD(steps=50), "correlated", "mask", 0.0, 0.1083, 0.1408, _ROWS),
    Row(DDRM(), "white", "mask", 0.05, 0.0004, 0.3824, _UNTOLD),
    Row(DDRM(), "correlated", "mask", 0.05, 0.2745, 0.3050, _UNTOLD),
    Row(DDRM(), "correlated", "blur", 0.05, 0.4545, 0.7234, _UNTOLD),
    Row(DDRM(), "correlated", "downsample", 0.0, 0.0418, 0.3856, _UNTOLD),
    Row(DDRM(eta=0.5, eta_b=0.7), "correlated", "mask", 0.05, 0.4266, 0.5734, _UNTOLD),
    Row(DDNM(steps=50), "white", "mask", 0.05, 0.0054, 0.3018, _UNTOLD),
    Row(DDNM(steps=50), "correlated", "mask", 0.05, 0.1499, 0.2293, _UNTOLD),
    Row(DDNM(steps=50), "correlated", "mask", 0.0, 0.1990, 0.2226, _UNTOLD),
    Row(DDNM(steps=20, jump=5, repeats=3), "correlated", "mask", 0.0, 0.2162, 0.2798, _UNTOLD),
    Row(DDNM(steps=20), "correlated", "blur", 0.05, 0.4545, 0.7234, _UNTOLD),
    Row(DiffPIR(steps=50), "white", "mask", 0.05, 0.0043, 0.1032, _UNTOLD),
    Row(DiffPIR(steps=50), "correlated", "mask", 0.05, 0.3512, 0.7002, _UNTOLD),
    Row(DiffPIR(steps=50), "correlated", "mask", 0.0, 0.3860, 0.7274, _UNTOLD),
    Row(DiffPIR(steps=50), "correlated", "reflected blur", 0.05, 0.8199, 0.1865, _UNTOLD),
    Row(DiffPIR(steps=50, weight=3.0, zeta=0.5), "correlated", "mask", 0.05, 0.2359, 0.3235, _UNTOLD),
    Row(RePaint(steps=50), "white", "mask", 0.0, 0.0000, 0.1626, _DDPM),
    Row(RePaint(steps=50), "correlated", "mask", 0.0, 0.1238, 0.1181, _UNTOLD + "; harmonising makes it less"),
    Row(RePaint(steps=50, repeats=1), "correlated", "mask", 0.0, 0.3109, 0.3386, _UNTOLD),
    Row(ILVR(steps=50), "white", "mask", 0.0, 0.0000, 0.1537, _DDPM),
    Row(ILVR(steps=50), "correlated", "downsample", 0.0, 0.0410, 0.1582, _UNTOLD),
    Row(ILVR(steps=50), "correlated", "downsample", 0.05, 0.0565, 0.1965, _UNTOLD),
    Row(DAPS(steps=20, langevin=20), "white", "mask", 0.05, 0.5620, 0.5762, _SHORT),
    Row(DAPS(steps=20, langevin=20, rate=1e-2), "correlated", "mask", 0.05, 0.2053, 0.6570, _DECOUPLED),
    Row(DAPS(steps=20, langevin=20), "correlated", "mask", 0.0, 0.2574, 0.2386, _SHORT),
    Row(ScoreALD(), "white", "mask", 0.05, 0.0252, 0.4418, _WIDENED),
    Row(ScoreALD(), "correlated", "mask", 0.05, 0.2781, 1.0241, _WIDENED),
    Row(ScoreALD(), "correlated", "mask", 0.0, 0.3094, 1.0291, _WIDENED),
    Row(ULA(steps=400, sigma_min=0.05), "correlated", "mask", 0.0, 0.2601, 0.7614, _STIFF),
    Row(SR3(), "correlated", "mask", 0.05, 0.0003, 0.3416, _DDPM),
    Row(SR3(steps=50, consistency=True), "correlated", "mask", 0.0, 0.0003, 0.1588, _DDPM),
)  # fmt: skip

_NEAR = {"steps": 120, "sigma_max": 2.0, "sigma_min": 0.02}
SAMPLED: tuple[Row, ...] = (
    Row(DPS(steps=200, zeta=0.03), "white", "mask", 0.05, 0.029, 0.074, _ZETA, 4000, 0.03),
    Row(DPS(steps=200, zeta=0.03), "correlated", "mask", 0.05, 0.085, 0.174, _ZETA, 4000, 0.03),
    Row(DPS(steps=100, zeta=0.1), "correlated", "mask", 0.0, 0.196, 0.208, _ZETA, 4000, 0.03),
    Row(MCG(steps=100, zeta=0.03), "correlated", "mask", 0.05, 0.127, 0.269, _ZETA, 4000, 0.03),
    Row(MCG(steps=100, zeta=0.03), "correlated", "mask", 0.0, 0.091, 0.220, _ZETA, 4000, 0.03),
    Row(RedDiff(), "correlated", "mask", 0.05, 0.112, 0.427, _MODE, 1000, 0.01),
    Row(RedDiff(), "correlated", "mask", 0.0, 0.094, 0.415, _MODE, 1000, 0.01),
    Row(SMC(particles=8, **_NEAR), "correlated", "mask", 0.05, 0.032, 0.098, _DDPM, 1000, 0.05, exact=True),
    Row(SMC(steps=50, particles=8), "mixture", "mask", 0.2, 0.035, 0.064, _DDPM, 1000, 0.05, exact=True),
    Row(SMC(steps=50, particles=8), "correlated", "mask", 0.0, 0.046, 0.171, _FLOOR, 1000, 0.05),
    Row(MALA(steps=400, sigma_min=0.05, size=0.8), "white", "mask", 0.1, 0.025, 0.096, _BLUR, 2000, 0.05, exact=True),
    Row(MALA(steps=600, sigma_min=0.05, size=0.8), "white", "mask", 0.0, 0.034, 0.146, _STIFF, 1000, 0.05),
    Row(ULA(steps=1000, sigma_min=0.02, size=0.1), "mixture", "identity", 0.2, 0.039, 0.137, _BLUR, 1000, 0.05,
        exact=True),
    Row(Ancestral(steps=200), "mixture", "identity", 0.2, 0.012, 0.067, _DDPM, 4000, 0.05, exact=True),
    Row(SR3(steps=100), "mixture", "mask", 0.2, 0.021, 0.040, _DDPM, 2000, 0.05, exact=True),
    Row(SR3(steps=100), "mixture", "downsample", 0.0, 0.020, 0.111, _DDPM, 2000, 0.05, exact=True),
    Row(SR3(steps=100, consistency=True), "correlated", "mask", 0.05, 0.034, 0.105, _COUNTED, 2000, 0.03),
    Row(MMPS(steps=50), "correlated", "mask", 0.05, 0.065, 0.181, _ONE, 4000, 0.03),
    Row(MMPS(steps=50), "correlated", "blur", 0.05, 0.064, 0.171, _ONE, 4000, 0.03),
    Row(MMPS(steps=50, iterations=3), "mixture", "mask", 0.2, 0.154, 0.165, _GAUSSIAN, 2000, 0.05),
    Row(PiGDM(steps=50), "mixture", "mask", 0.2, 0.043, 0.083, _EQUAL, 2000, 0.05),
    Row(DiffPIR(steps=50), "mixture", "mask", 0.2, 0.365, 0.589, _UNTOLD, 2000, 0.05),
)  # fmt: skip


@dataclass(frozen=True)
class Coverage:
    """How often the central 50, 80 and 95 % intervals of the samples of a pixel hold the truth.

    shares: the levels themselves where exact, else the recorded ones, from `truths` draws of the prior.
    """

    method: Method
    prior: str
    operator: str
    sigma_y: float
    shares: tuple[float, float, float] = (0.5, 0.8, 0.95)
    exact: bool = False
    truths: int = 400

    @property
    def id(self) -> str:
        return f"{self.method.info.name}-{self.prior}-{self.operator}-{self.sigma_y:g}"


_ODE = {"integrator": "heun", "steps": 60, "sigma_max": 50.0, "sigma_min": 1e-3}
CALIBRATED: tuple[Coverage, ...] = (
    Coverage(MMPS(iterations=1, **_ODE), "white", "blur", 0.05, exact=True),
    Coverage(MMPS(iterations=7, **_ODE), "correlated", "mask", 0.05, exact=True),
    Coverage(PiGDM(**_ODE), "white", "mask", 0.05, exact=True, truths=2000),
    Coverage(PiGDM(**_ODE), "white", "matrix", 0.05, exact=True, truths=2000),
    Coverage(TMPD(**_ODE), "white", "mask", 0.05, exact=True, truths=2000),
    Coverage(RePaint(jump=10, repeats=2, **_ODE), "white", "mask", 0.0, exact=True, truths=2000),
    Coverage(SMC(particles=4, **_NEAR), "correlated", "mask", 0.05, exact=True, truths=150),
    Coverage(SMC(particles=4, **_NEAR), "mixture", "mask", 0.2, exact=True, truths=150),
    Coverage(ULA(steps=800, sigma_min=0.03, size=0.1), "white", "mask", 0.2, exact=True),
    Coverage(MALA(steps=400, sigma_min=0.03, size=0.8), "white", "mask", 0.2, exact=True, truths=250),
    Coverage(Ancestral(steps=800), "correlated", "identity", 0.2, exact=True),
    Coverage(Ancestral(steps=800), "mixture", "identity", 0.2, exact=True),
    Coverage(SR3(**_ODE), "correlated", "mask", 0.05, exact=True),
    Coverage(SR3(**_ODE), "mixture", "mask", 0.2, exact=True),
    Coverage(SR3(), "correlated", "mask", 0.05, (0.416, 0.706, 0.926)),
    Coverage(PiGDM(steps=50), "correlated", "mask", 0.05, (0.464, 0.767, 0.942)),
    Coverage(TMPD(steps=50), "correlated", "downsample", 0.05, (0.461, 0.770, 0.943)),
    Coverage(MMPS(steps=50), "correlated", "mask", 0.05, (0.453, 0.757, 0.939)),
    Coverage(MMPS(steps=50, iterations=7), "mixture", "mask", 0.2, (0.484, 0.781, 0.945)),
    Coverage(DPS(steps=200, zeta=0.03), "white", "mask", 0.05, (0.348, 0.599, 0.900)),
    Coverage(DPS(steps=200, zeta=0.03), "correlated", "mask", 0.05, (0.340, 0.584, 0.896)),
    Coverage(DDRM(), "correlated", "blur", 0.05, (0.262, 0.486, 0.871)),
    Coverage(DDNM(steps=50), "correlated", "mask", 0.05, (0.367, 0.634, 0.908)),
    Coverage(DiffPIR(steps=50), "correlated", "mask", 0.05, (0.479, 0.776, 0.944)),
    Coverage(RePaint(steps=50), "correlated", "mask", 0.0, (0.473, 0.765, 0.941)),
    Coverage(ILVR(steps=50), "correlated", "downsample", 0.05, (0.436, 0.735, 0.934)),
    Coverage(MCG(steps=100, zeta=0.03), "correlated", "mask", 0.05, (0.402, 0.676, 0.919)),
    Coverage(RedDiff(), "correlated", "mask", 0.05, (0.261, 0.458, 0.865)),
    Coverage(DAPS(steps=20, langevin=20, rate=1e-2), "correlated", "mask", 0.05, (0.576, 0.866, 0.966)),
    Coverage(ScoreALD(), "correlated", "mask", 0.05, (0.565, 0.857, 0.964)),
)  # fmt: skip
