"""Training throughput against diffusers' training loop: the same network, batch, pictures and precision, in one run.

    python experiments/speed/training.py [--size 32] [--batch 8] [--rounds 8] [--device cpu] [--json OUT.json]

Their loop is that of diffusers' examples/unconditional_image_generation: DDPMScheduler.add_noise, the mean squared
error on ε, clipping, AdamW, a learning-rate schedule and EMAModel, without accelerate around it and with pictures from
memory, which can only help it. Ours is `invdiff.training` with the objective ddpm. Blocks of steps alternate, so that
whatever else the machine does meets both (on one CPU thread, the time of the process counts); the median over blocks
is told, and the share of the network alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.training.distributed import Processes
from invdiff.training.loop import Run
from invdiff.training.progress import Reporter
from invdiff.training.recipe import Data, Network, Objective, Optimiser, Recipe

STEPS = 3
"""Of a block."""


def unet(size: int) -> Any:
    """A small UNet2DModel: 32, 64 and 64 channels, attention at the last level."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
    )


class Theirs:
    """diffusers' loop."""

    def __init__(self, pictures: Tensor, size: int, batch: int, device: torch.device) -> None:
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        self.device, self.network = device, unet(size).to(device)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, betas=(0.95, 0.999))
        self.rate = get_scheduler("cosine", self.optimizer, num_warmup_steps=500, num_training_steps=10**5)
        self.ema = EMAModel(self.network.parameters(), decay=0.9999, use_ema_warmup=True)
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(pictures), batch_size=batch, shuffle=True, drop_last=True
        )
        self.batches = iter(cycle(loader))

    def step(self) -> float:
        clean = next(self.batches)[0].to(self.device)
        noise = torch.randn(clean.shape, device=self.device)
        steps = torch.randint(0, 1000, (len(clean),), device=self.device)
        output = self.network(self.scheduler.add_noise(clean, noise, steps), steps).sample
        loss = F.mse_loss(output.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad()
        self.ema.step(self.network.parameters())
        return loss.detach().item()


class Answering(nn.Module):
    """diffusers' network as a plain one, in the layout it is fastest in on a CPU: its group normalisation and attention
    cost more in channels_last than its convolutions gain there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.network(x.contiguous(), c_noise).sample


class Ours(Run):
    """invdiff's loop, with diffusers' network in it."""

    layout = torch.contiguous_format

    def _network(self) -> nn.Module:
        return Answering(unet(self.recipe.data.crop))


def ours(file: Path, size: int, batch: int, device: str) -> Ours:
    recipe = Recipe(
        name="speed",
        data=Data(train=[str(file)], crop=size, validation=0, validation_crop=size),
        network=Network(fold=1),
        objective=Objective(kind="ddpm", clock=999.0),
        optimiser=Optimiser(learning_rate=1e-4, betas=(0.95, 0.999), ema=0.9999, warmup=500),
        batch=batch,
        images=batch * 10**5,
        precision="float32",
        device=device,
    )
    return Ours(recipe, file.parent, Processes(device), Reporter(quiet=True))


def alone(network: nn.Module, size: int, batch: int, device: torch.device) -> Any:
    """Forward and backward of the network, and nothing else."""
    x = torch.randn(batch, 3, size, size, device=device)
    t = torch.full((batch,), 500.0, device=device)

    def step() -> None:
        out = network(x, t)
        (out if isinstance(out, Tensor) else out.sample).square().mean().backward()

    return step


def seconds(step: Callable[[], Any], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    for _ in range(STEPS):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - began) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    size, batch = asked.size, asked.batch
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (256, size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pictures.npz"
        np.savez(file, train_images=pictures)
        run = ours(file, size, batch, asked.device)
        device = run.device
        theirs = Theirs(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1, size, batch, device)
        loops: dict[str, Callable[[], Any]] = {
            "invdiff": run.one_step,
            "diffusers": theirs.step,
            "network, invdiff's": alone(run.network, size, batch, device),
            "network, diffusers'": alone(theirs.network, size, batch, device),
        }
        times: dict[str, list[float]] = {name: [] for name in loops}
        for step in loops.values():
            seconds(step, device)
        for _ in range(asked.rounds):
            for name, step in loops.items():
                times[name].append(seconds(step, device))
    middle = {name: statistics.median(found) for name, found in times.items()}
    ratios = sorted(b / a for a, b in zip(times["invdiff"], times["diffusers"], strict=True))
    parts = parts_of_ours(run)
    for name, found in middle.items():
        print(f"{name:22} {1000 * found:8.1f} ms a step   {batch / found:8.1f} images/s")
    print(
        f"invdiff / diffusers in images/s: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    for name in ("invdiff", "diffusers"):
        print(
            f"{name}: {100 * middle[f'network, {name}' + chr(39) + 's' * (name == 'invdiff')] / middle[name]:.0f} %"
            " of a step is the network, forward and backward"
        )
    print("invdiff besides the network: " + ", ".join(f"{k} {1000 * v:.2f} ms" for k, v in parts.items()))
    if asked.json:
        asked.json.write_text(
            json.dumps({"seconds": times, "ratios": ratios, "parts": parts}, indent=2) + "\n"
        )


def parts_of_ours(run: Run) -> dict[str, float]:
    """Seconds of what a step of ours does besides the network, each timed by itself."""
    recipe, device = run.recipe, run.device
    shape = (recipe.batch, 3, recipe.data.crop, recipe.data.crop)
    generator = torch.Generator().manual_seed(0)
    x0, sigma = torch.rand(shape), run.task.draw_sigma(recipe.batch, generator)
    x0, sigma = x0.to(device), sigma.to(device)
    noise = torch.randn(shape).to(device)
    things: dict[str, Callable[[], Any]] = {
        "pictures": lambda: run.pictures.batch(0, size=recipe.batch, crop=recipe.data.crop, seed=0),
        "noise": lambda: torch.randn(shape, generator=generator),
        "levels": lambda: run.task.draw_sigma(recipe.batch, generator),
        "loss": lambda: run.task.loss(lambda x, c: x, x0, sigma, noise),
        "clip": lambda: nn.utils.clip_grad_norm_(run.network.parameters(), 1.0),
        "AdamW": run.optimiser.step,
        "average": lambda: run.ema.update_parameters(run.network),
    }
    return {
        name: statistics.median(seconds(thing, device) for _ in range(9)) for name, thing in things.items()
    }


if __name__ == "__main__":
    main()
