"""Our integrators beside diffusers' schedulers, step by step: the same denoiser, the same draws, the same states.

Their networks predict the noise on [-1, 1], from u = √ᾱ·(2·x₀ − 1) + √(1 − ᾱ)·ε or from v = u/√ᾱ, of noise
σ_v = √((1 − ᾱ)/ᾱ). Ours is x = (v + 1)/2, of noise σ = σ_v/2.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff.methods import integrator
from invdiff.priors.analytic import MixturePrior

SHAPE = (1, 4, 4)
BATCH = 3


@pytest.fixture(scope="module")
def diffusers() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers")


def scheduler(diffusers: ModuleType, name: str, steps: int, **settings: Any) -> Any:
    """Its alphas in float64, so that no rounding of theirs hides a difference; σ's stay in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = getattr(diffusers, name)(**settings)
        made.set_timesteps(steps)
    made.alphas_cumprod = made.alphas_cumprod.double()
    return made


def mixture() -> MixturePrior:
    """Not Gaussian, so that D is not linear in x."""
    return MixturePrior.make(torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(3)), 0.1)


class Network:
    """The mixture's denoiser as theirs: the noise in u at the level σ_v."""

    def __init__(self) -> None:
        self.prior = mixture()

    def __call__(self, u: Tensor, sigma_v: float) -> Tensor:
        x = (u * (1 + sigma_v**2) ** 0.5 + 1) / 2
        return (x - self.prior(x, sigma_v / 2)) / (sigma_v / 2)


class Draws:
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, shape: tuple[int, ...] | None = None, /) -> Tensor:
        return torch.randn(BATCH, *(shape or SHAPE), generator=self.generator, dtype=torch.float64)

    def uniform(self) -> Tensor:
        raise NotImplementedError


def start() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, *SHAPE, generator=generator, dtype=torch.float64)


def ours(spec: str, v: Tensor, sigmas_v: list[float]) -> list[Tensor]:
    """The states v after every step of our integrator."""
    x, carry, noise, states = (v + 1) / 2, None, Draws(), []
    for sigma_v, s_v in pairwise(sigmas_v):
        x, carry = integrator(spec).step(mixture(), x, sigma_v / 2, s_v / 2, noise, carry)
        states.append(2 * x - 1)
    return states


def agree(found: list[Tensor], expected: list[Tensor], sigmas_v: list[float], tolerance: float) -> None:
    """All states, each as u, which is of order 1 at every level."""
    assert len(found) == len(expected) == len(sigmas_v) - 1
    for a, b, sigma_v in zip(found, expected, sigmas_v[1:], strict=True):
        scale = (1 + sigma_v**2) ** -0.5
        torch.testing.assert_close(scale * a, scale * b, rtol=tolerance, atol=tolerance)


def preserving(scheduler: Any, steps: int, **how: Any) -> tuple[Tensor, list[Tensor], list[float]]:
    """The start and the states of a scheduler that walks u by timesteps, as v, and the levels σ_v."""
    alpha_bar = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps] + [1.0]
    sigmas_v = [((1 - a) / a) ** 0.5 for a in alpha_bar]
    generator, network, u, states = torch.Generator().manual_seed(0), Network(), start(), []
    for t, sigma_v, after in zip(scheduler.timesteps, sigmas_v, alpha_bar[1:], strict=False):
        u = scheduler.step(network(u, sigma_v), int(t), u, generator=generator, **how).prev_sample
        states.append(u / after**0.5)
    assert len(states) == steps
    return start() / alpha_bar[0] ** 0.5, states, sigmas_v


@pytest.mark.parametrize("steps", [10, 50])
def test_ancestral_steps_are_ddpms(diffusers: ModuleType, steps: int) -> None:
    theirs = scheduler(diffusers, "DDPMScheduler", steps, clip_sample=False, variance_type="fixed_small")
    v, states, sigmas_v = preserving(theirs, steps)
    agree(ours("ancestral", v, sigmas_v), states, sigmas_v, 1e-9)


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_steps_are_ddims(diffusers: ModuleType, eta: float, steps: int) -> None:
    theirs = scheduler(diffusers, "DDIMScheduler", steps, clip_sample=False)
    v, states, sigmas_v = preserving(theirs, steps, eta=eta)
    agree(ours(f"ddim:{eta}", v, sigmas_v), states, sigmas_v, 1e-9)


def exploding(scheduler: Any, calls: int, **how: Any) -> tuple[Tensor, list[Tensor], list[float]]:
    """The same for a scheduler that walks v by σ's; a step takes `calls` evaluations, the last one."""
    sigmas_v = [float(s) for s in scheduler.sigmas]
    sigmas_v = [sigmas_v[0], *sigmas_v[1:-1:calls], 0.0]
    network, states = Network(), []
    v = first = start() * sigmas_v[0]
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(v, t)
        v = scheduler.step(network(scaled, float(scheduler.sigmas[i])), t, v, **how).prev_sample
        if i % calls == calls - 1 or i == len(scheduler.timesteps) - 1:
            states.append(v)
    return first, states, sigmas_v


@pytest.mark.parametrize("karras", [False, True])
def test_heun_steps_are_heuns(diffusers: ModuleType, karras: bool) -> None:
    theirs = scheduler(diffusers, "HeunDiscreteScheduler", 12, use_karras_sigmas=karras)
    theirs.sigmas = theirs.sigmas.double()
    v, states, sigmas_v = exploding(theirs, 2)
    agree(ours("heun", v, sigmas_v), states, sigmas_v, 1e-9)


@pytest.mark.parametrize("karras", [False, True])
def test_euler_steps_are_eulers(diffusers: ModuleType, karras: bool) -> None:
    """Without churn: theirs evaluates the network before it adds the noise, the paper's algorithm after."""
    theirs = scheduler(diffusers, "EulerDiscreteScheduler", 12, use_karras_sigmas=karras)
    v, states, sigmas_v = exploding(theirs, 1)
    agree(ours("euler", v, sigmas_v), states, sigmas_v, 1e-5)


def test_ancestral_steps_are_those_of_k_diffusions_euler_ancestral_too(diffusers: ModuleType) -> None:
    """σ_up² = s²·(1 − s²/σ²) is β̃ and σ_down = s²/σ what DDPM keeps of the old noise: one step, two derivations."""
    theirs = scheduler(diffusers, "EulerAncestralDiscreteScheduler", 12)
    v, states, sigmas_v = exploding(theirs, 1, generator=torch.Generator().manual_seed(0))
    agree(ours("ancestral", v, sigmas_v), states, sigmas_v, 1e-5)


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("steps", [8, 20])
def test_dpm_solver_steps_are_dpm_solvers(diffusers: ModuleType, steps: int, karras: bool) -> None:
    theirs = scheduler(
        diffusers, "DPMSolverMultistepScheduler", steps, algorithm_type="dpmsolver++", solver_order=2,
        solver_type="midpoint", lower_order_final=True, final_sigmas_type="zero", use_karras_sigmas=karras,
    )  # fmt: skip
    sigmas_v = [float(s) for s in theirs.sigmas]
    network, u, states = Network(), start(), []
    for t, (sigma_v, s_v) in zip(theirs.timesteps, pairwise(sigmas_v), strict=True):
        u = theirs.step(network(u, sigma_v), t, u).prev_sample
        states.append(u * (1 + s_v**2) ** 0.5)
    first = start() * (1 + sigmas_v[0] ** 2) ** 0.5
    agree(ours("dpmpp_2m", first, sigmas_v), states, sigmas_v, 1e-5)
