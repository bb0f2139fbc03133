"""Our samplers beside deepinv's, azula's and diffusers', as fast as each is: the same network, measurement and steps.

    python experiments/speed/peers.py [--size 256] [--steps 6] [--repeats 5] [--device cpu] [--only dps,ddrm]

Peers get the plain network as a denoiser: frozen, float32, as they would load it. Ours run as `invdiff.restore` does,
once at its defaults and once with precision float32. All are timed in turns in one process, and the ratios of a round
are those of neighbours in time: what is printed is their median, with the least and the most. Beside each, the PSNR of
what came out, so that nothing is bought with quality unseen; few steps, so it says little of the methods.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from skimage import data
from torch import Tensor, nn

import invdiff
from invdiff import operators
from invdiff.bench.peers import PEERS, of_azula, of_deepinv
from invdiff.evaluation import psnr
from invdiff.operators import patterns

SIGMA_Y = 0.01
RIVALS = {
    "dps": ("azula/dps", "deepinv/dps"),
    "pigdm": ("azula/pigdm",),
    "diffpir": ("azula/diffpir", "deepinv/diffpir"),
    "ddrm": ("deepinv/ddrm",),
    "repaint": ("azula/repaint",),
    "ddim": ("diffusers/ddim",),
    "ddpm": ("diffusers/ddpm",),
}
"""Ours → theirs. ddim, ddpm: samples of the prior alone."""


class Plain(nn.Module):
    """D(x, σ) of a network and EDM's preconditioning, with nothing done for speed."""

    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.network = type(prior.network)(**prior.network.config)
        self.network.load_state_dict(prior.network.state_dict())
        self.network.float().eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
        self.precondition = prior.precondition

    def forward(self, x: Tensor, sigma: Any) -> Tensor:
        sigmas = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)).reshape(-1)
        given, c_noise = self.precondition.inputs(x, sigmas)
        return self.precondition.denoised(x, sigmas, self.network(given, c_noise))


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="names of ours, with commas")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device(given.device)
    x = photograph(given.size).to(device)
    keep = patterns.random((given.size, given.size), 0.8).to(device)
    mask = operators.Mask(keep.float())
    y = mask.A(x + SIGMA_Y * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(device))
    fast = invdiff.load_prior("natural", device=device)
    full = invdiff.load_prior("natural", device=device, precision="float32")
    plain = Plain(full).to(device)
    wanted = given.only.split(",") if given.only else list(RIVALS)
    print(
        "| ours | theirs | ours, defaults / theirs | ours, float32 / theirs | seconds: theirs | PSNR: ours, theirs |"
    )
    print("|---|---|---|---|---|---|")
    for name in wanted:
        for rival in RIVALS[name]:
            runs: dict[str, Callable[[], Tensor]] = {
                "ours": lambda n=name: ours(n, y, mask, fast, given.steps),  # type: ignore[misc]
                "float32": lambda n=name: ours(n, y, mask, full, given.steps),  # type: ignore[misc]
                "theirs": lambda r=rival: theirs(r, y, mask, plain, given.steps),  # type: ignore[misc]
            }
            row = {"ours": name, "theirs": rival, **compared(runs, given.repeats, device, x)}
            print(line(row), flush=True)
    return 0


def photograph(size: int) -> Tensor:
    """(1, 3, size, size): the middle of scikit-image's astronaut, resized."""
    whole = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    return nn.functional.interpolate(whole, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def ours(name: str, y: Tensor, op: Any, prior: Any, steps: int) -> Tensor:
    if name in ("ddim", "ddpm"):
        integrator = {"ddim": "ddim:0", "ddpm": "ancestral"}[name]
        shape = (int(y.shape[1]), int(y.shape[2]), int(y.shape[3]))
        return invdiff.sample(prior, shape, steps=steps, integrator=integrator, device=y.device).samples
    options = {"repeats": 1} if name == "repaint" else {}
    sigma_y = 0.0 if name == "repaint" else SIGMA_Y
    result = invdiff.restore(
        y, op, prior, method=name, sigma_y=sigma_y, steps=steps, options=options, device=y.device
    )
    return result.samples[0]


def theirs(name: str, y: Tensor, op: Any, prior: Plain, steps: int) -> Tensor:
    torch.manual_seed(0)
    if name.startswith("diffusers"):
        return diffusers_loop(name.partition("/")[2], prior, y, steps)
    adapters = of_azula.ADAPTERS if name.startswith("azula") else of_deepinv.ADAPTERS
    settings = {**PEERS[name].defaults, **({"iterations": 1} if name == "azula/repaint" else {})}
    return adapters[name](prior, op, y.clone(), SIGMA_Y, steps, **settings).detach()


@torch.no_grad()
def diffusers_loop(kind: str, prior: Plain, y: Tensor, steps: int) -> Tensor:
    """Its scheduler's steps from pure noise, ε = (x_t − √ᾱ D)/√(1 − ᾱ), pictures in [-1, 1]."""
    import diffusers

    scheduler = {"ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler}[kind](clip_sample=False)
    scheduler.set_timesteps(steps)
    x = torch.randn_like(y)
    for t in scheduler.timesteps:
        kept = scheduler.alphas_cumprod[t]
        alpha, sigma = float(kept**0.5), float((1 - kept) ** 0.5)
        denoised = 2 * prior((x / alpha + 1) / 2, sigma / alpha / 2) - 1
        x = scheduler.step((x - alpha * denoised) / sigma, t, x).prev_sample
    return (x + 1) / 2


def compared(
    runs: dict[str, Callable[[], Tensor]], repeats: int, device: torch.device, x: Tensor
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    quality = {}
    for i in range(repeats + 1):  # the first round warms up
        for name, run in runs.items():
            synchronize(device)
            began = time.perf_counter()
            found = run()
            synchronize(device)
            if i:
                seconds[name].append(time.perf_counter() - began)
            quality[name] = float(psnr(found.float().clamp(0, 1), x).mean())
    ratios = {
        name: [a / b for a, b in zip(seconds[name], seconds["theirs"], strict=True)]
        for name in ("ours", "float32")
    }
    return {"seconds": seconds, "ratios": ratios, "psnr": quality}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def line(row: dict[str, Any]) -> str:
    def told(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    quality = row["psnr"]
    return (
        f"| {row['ours']} | {row['theirs']} | {told(row['ratios']['ours'])} | {told(row['ratios']['float32'])} | "
        f"{statistics.median(row['seconds']['theirs']):.2f} | {quality['ours']:.1f}, {quality['theirs']:.1f} |"
    )


if __name__ == "__main__":
    raise SystemExit(main())
