"""What a network is taught: its preconditioning, the noise levels drawn, and how errors count.

One loss serves every objective: w(σ)·|F − target|², F the network's output and the target what `Precondition` says it
ought to be. A weighting is λ(σ) on |D − x₀|² in the network's range, and w = λ·c_out².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.priors.precondition import EDM, VE, VP, Flow, Precondition
from invdiff.training.recipe import Noise, Objective

Net = Callable[..., Tensor]
"""network(x, c_noise), or network(x, c_noise, labels)."""

WEIGHTINGS: dict[str, Callable[[Tensor, Objective, float], Tensor]] = {
    "edm": lambda sigma, _, data: (sigma**2 + data**2) / (sigma * data) ** 2,
    "snr": lambda sigma, _, data: sigma**-2,
    "min_snr": lambda sigma, o, data: (sigma**-2).clamp(max=o.gamma),
    "truncated_snr": lambda sigma, _, data: (sigma**-2).clamp(min=1.0),
    "p2": lambda sigma, _, data: sigma**-2 / (1 + sigma**-2),
    "sigmoid": lambda sigma, o, data: sigma**-2 * torch.sigmoid(o.bias + 2 * sigma.log()),
}
"""λ(σ) on |D − x₀|², σ in the network's range, SNR = 1/σ². edm: Karras et al. 2022, table 1; snr: ε's own, |F − ε|²
(Ho et al. 2020, L_simple); min_snr: Hang et al. 2023, arXiv:2303.09556; truncated_snr: Salimans & Ho 2022, sec. 4;
p2: Choi et al. 2022, arXiv:2204.00227, with k = γ = 1; sigmoid: Kingma & Gao 2023, arXiv:2303.00848. `unit`, which is
λ = 1/c_out², needs no entry."""

SDE_START = 1e-5
"""The smallest t of the VP SDE (Song et al. 2021, appendix C)."""

VLB_SHARE = 0.001
"""λ of the hybrid loss (Nichol & Dhariwal 2021, sec. 3.1)."""


@dataclass(frozen=True)
class Task:
    """An objective with its preconditioning: draws noise levels and measures errors. σ's are in image units."""

    objective: Objective
    noise: Noise
    given: Precondition | None = None
    """A network's own, in place of the objective's: with kind edm, whose noise levels and weighting suit any."""

    @cached_property
    def precondition(self) -> Precondition:
        o = self.objective
        if self.given is not None:
            return self.given
        if o.kind == "edm":
            return EDM(sigma_data=self.noise.sigma_data)
        if o.kind == "flow":
            return Flow(prediction=o.prediction or "velocity", scale=o.clock)
        prediction = o.prediction or "epsilon"
        if o.kind == "ve":
            return VE(prediction=prediction, clock="ln_sigma", scale=0.25)
        vp = VP(prediction=prediction, beta_start=o.beta_start, beta_end=o.beta_end)
        if o.kind == "vp":
            return replace(vp, schedule="sde", scale=o.clock)
        if o.continuous:
            return replace(vp, schedule=o.schedule, steps=o.steps, told="level", scale=o.clock)
        return replace(vp, schedule=o.schedule, steps=o.steps, scale=o.clock / (o.steps - 1))

    @cached_property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest σ."""
        if self.objective.kind == "ddpm":
            return float(self._levels[0]), float(self._levels[-1])
        if self.objective.kind == "vp":
            low, high = (float(self._sigma_at(torch.tensor(t))) / 2 for t in (SDE_START, 1.0))
            return low, high
        return self.noise.sigma_min / 2, self.noise.sigma_max / 2

    @cached_property
    def _levels(self) -> Tensor:
        """The steps' σ, rising, in float64, for ddpm."""
        precondition = self.precondition
        ladder = precondition.ladder if isinstance(precondition, VP) else precondition.levels
        return torch.tensor(ladder, dtype=torch.float64)

    def draw_sigma(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) noise levels by the objective's `time`."""
        o = self.objective
        time = o.time or ("log_normal" if o.kind == "edm" else "uniform")
        if time == "log_normal":
            sigma = log_normal(self.noise, count, generator)
            return sigma.clamp(*self.range) if o.kind == "vp" else sigma
        if time == "uniform":
            t = torch.rand(count, generator=generator)
        else:
            t = torch.sigmoid(o.mean + o.std * torch.randn(count, generator=generator))
        return (self._sigma_at(t) / 2).clamp(*self.range)

    def loss(
        self, network: Net, x0: Tensor, sigma: Tensor, epsilon: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """(B,): mean over (C, H, W) of w(σ)·|F − target|², with the variance's bound where F has one.

        x0, epsilon: (B, C, H, W), image units; sigma: (B,); labels: (B,), of a network that is told any.
        """
        x = x0 + sigma[:, None, None, None] * epsilon
        output = self.output(network, x, sigma, labels)
        errors = self.errors(x, sigma, output, x0)
        if output.shape[1] == x.shape[1]:
            return errors
        denoised = self.precondition.denoised(x, sigma, output.detach())
        return errors + VLB_SHARE * self.bound(x0, denoised, output[:, x.shape[1] :], sigma)

    def errors(self, x: Tensor, sigma: Tensor, output: Tensor, wanted: Tensor) -> Tensor:
        """(B,): mean over (C, H, W) of w(σ)·|F − target|², the target what F is where D(x, σ) is what is wanted."""
        target = self.precondition.target(wanted, x, sigma)
        errors = (output[:, : x.shape[1]] - target).square().mean(dim=(1, 2, 3))
        weight = self.weight(sigma)
        return errors if weight is None else weight * errors

    def weight(self, sigma: Tensor) -> Tensor | None:
        """w(σ) = λ(σ)·c_out² on |F − target|², (B,); None for 1."""
        name = self.objective.weighting or ("snr" if self.objective.prediction == "score" else "unit")
        if name == "unit":
            return None
        gain = self.precondition.white - self.precondition.black
        _, c_out, _, _ = self.precondition.scalings(gain * sigma)
        return WEIGHTINGS[name](2 * sigma, self.objective, self.noise.sigma_data) * (2 / gain * c_out) ** 2

    def bound(self, x0: Tensor, denoised: Tensor, variance: Tensor, sigma: Tensor) -> Tensor:
        """(B,): L_vlb, T times the step's term of it, bits per dimension (Nichol & Dhariwal 2021, eq. 4 to 7, 15).

        variance: v in [-1, 1] → ln Σ between ln β̃_t and ln β_t. The mean is D's, which gets no gradient from here.
        """
        levels = 2 * self._levels.to(sigma.device)
        kept = 1 / (1 + levels**2)
        before = torch.cat([kept.new_ones(1), kept[:-1]])
        beta = 1 - kept / before
        posterior = beta * (1 - before) / (1 - kept)
        posterior[0] = posterior[1]  # the paper's way around ln 0
        pull = before.sqrt() * beta / (1 - kept)
        step = (levels[None] - 2 * sigma.double()[:, None]).abs().argmin(dim=1)
        log_beta, log_posterior, pull = (
            c[step].float()[:, None, None, None] for c in (beta.log(), posterior.log(), pull)
        )
        share = (variance + 1) / 2
        log_variance = share * log_beta + (1 - share) * log_posterior
        error = 2 * (x0 - denoised)  # in the network's range
        divergence = (
            log_variance - log_posterior + (log_posterior - log_variance).exp() - 1
            + (pull * error) ** 2 * (-log_variance).exp()
        ) / 2  # fmt: skip
        likelihood = -_log_bin(2 * x0 - 1, error, log_variance)
        term = torch.where((step == 0)[:, None, None, None], likelihood, divergence)
        return len(levels) * term.mean(dim=(1, 2, 3)) / math.log(2)

    def cross_entropy(
        self, network: Net, x0: Tensor, sigma: Tensor, epsilon: Tensor, labels: Tensor
    ) -> Tensor:
        """(B,): −log p(label | x_σ) in nats, of a classifier."""
        return F.cross_entropy(self.logits(network, x0, sigma, epsilon), labels, reduction="none")

    def logits(self, network: Net, x0: Tensor, sigma: Tensor, epsilon: Tensor) -> Tensor:
        """(B, classes) of the noisy pictures."""
        return self.output(network, x0 + sigma[:, None, None, None] * epsilon, sigma, None)

    def output(self, network: Net, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """F, float32, at the noisy pictures x (B, C, H, W) in image units."""
        given, c_noise = self.precondition.inputs(x, sigma)
        told = () if labels is None else (labels,)
        return network(given.contiguous(memory_format=torch.channels_last), c_noise, *told).float()

    def _sigma_at(self, t: Tensor) -> Tensor:
        """σ in the network's range at t in [0, 1] of the process."""
        o, noise = self.objective, self.noise
        if o.kind == "flow":
            return t / (1 - t)
        if o.kind == "vp":
            low, high = 1000 * o.beta_start, 1000 * o.beta_end
            t = t.clamp(min=SDE_START)
            return (low * t + (high - low) * t**2 / 2).expm1().sqrt()
        if o.kind == "ddpm":
            steps = (t * len(self._levels)).long().clamp(max=len(self._levels) - 1)
            if not o.continuous:
                return 2 * self._levels[steps].float()
            kept = torch.cat([torch.ones(1, dtype=torch.float64), 1 / (1 + (2 * self._levels) ** 2)])
            within = t.double() * len(self._levels) - steps
            alpha = torch.lerp(kept[steps], kept[steps + 1], within)  # uniform between two steps' ᾱ
            return (1 / alpha - 1).sqrt().clamp(min=2 * float(self._levels[0])).float()
        low, high = math.log(noise.sigma_min), math.log(noise.sigma_max)
        return (low + (high - low) * t).exp()


def log_normal(noise: Noise, count: int, generator: torch.Generator) -> Tensor:
    """(count,) noise levels in image units; `noise` states them in the network's range, twice as large."""
    log_normal = noise.mean + noise.std * torch.randn(count, generator=generator)
    low, high = math.log(noise.sigma_min), math.log(noise.sigma_max)
    uniform = low + (high - low) * torch.rand(count, generator=generator)
    pick = torch.rand(count, generator=generator) < noise.uniform
    return torch.where(pick, uniform, log_normal).clamp(low, high).exp() / 2


def _log_bin(x0: Tensor, error: Tensor, log_variance: Tensor) -> Tensor:
    """ln of the normal's mass on each 8-bit value's bin, x0 on [-1, 1], error = x0 − mean (Ho et al. 2020, eq. 13)."""
    scale = (-log_variance / 2).exp()
    upper = torch.special.ndtr((error + 1 / 255) * scale).where(x0 < 0.999, 1.0)
    lower = torch.special.ndtr((error - 1 / 255) * scale).where(x0 > -0.999, 0.0)
    return (upper - lower).clamp(min=1e-12).log()
