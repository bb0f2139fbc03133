"""`invdiff demo`: photographs that come with scikit-image, degraded, restored, and shown side by side.

It is an example too: measurement, operator, prior and `invdiff.restore`, nothing private.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..catalog import PRIORS
from ..errors import RequestError, unknown
from .files import check_writable
from .progress import Reporter

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..images import Array
    from ..operators.base import LinearOperator
    from ..priors import Prior
    from ..restore import Result
    from ..running import Progress

SIZE = 256
STEPS: int | None = None
"""Steps of each restoration; None: the method's own number."""
SAMPLES = 3
SEED = 0
SIGMA_Y = 0.01
"""Noise of the blurred photograph, image units."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A photograph, a window of 256² in it, and what happens to it.

    photo: a file of scikit-image's own (astronaut: public domain, NASA; chelsea and coffee: CC0 by Stefan van
    der Walt and Rachel Michetti). corner: (top, left) of the window.
    """

    name: str
    photo: str
    corner: tuple[int, int]
    measured: str
    sigma_y: float = 0.0


SCENES = (
    Scene(name="inpaint", photo="astronaut.png", corner=(0, 96), measured="80 % of the pixels missing"),
    Scene(name="sr", photo="chelsea.png", corner=(16, 100), measured="a quarter of the size"),
    Scene(name="deblur", photo="coffee.png", corner=(90, 215), measured="blurred, noisy", sigma_y=SIGMA_Y),
)


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("demo"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the pictures of an earlier demo.")
    ] = False,
    prior: Annotated[str, typer.Option(help="Name or file of the prior.")] = "natural",
    samples: Annotated[int, typer.Option(min=1, help="Samples of each restoration.")] = SAMPLES,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of each. [default: the method's]")] = STEPS,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Degrade three photographs, restore them, and show the pictures side by side in demo/index.png."""
    _check(out, overwrite, prior)
    photographs = [_photograph(scene) for scene in SCENES]
    import invdiff

    from ..priors.network import resolve_device

    place = resolve_device(device)
    network = invdiff.load_prior(prior, device=place)
    out.mkdir(parents=True, exist_ok=True)
    panels, seconds = [], 0.0
    with Reporter(len(SCENES)) as report:
        for scene, photograph in zip(SCENES, photographs, strict=True):
            report.start(f"{scene.name}: {scene.measured}")
            restored = _restore(scene, photograph, network, samples, steps, place, report)
            panels.append(out / f"{scene.name}_panel.png")
            report.say(_write(scene, photograph, *restored, out))
            seconds += restored[1].seconds
    _stack(panels, out / "index.png")
    print(f"{seconds:.1f} s for {len(SCENES)} restorations of {samples} samples; look at {out / 'index.png'}")


def _restore(
    scene: Scene,
    photograph: Array,
    prior: Prior,
    samples: int,
    steps: int | None,
    device: torch.device,
    report: Reporter,
) -> tuple[Tensor, Result]:
    """The measurement of a photograph, and what is restored from it."""
    import torch

    import invdiff

    from ..images import to_tensor

    x = to_tensor(photograph)
    op = _operator(scene.name, (x.shape[1], x.shape[2], x.shape[3]))
    y = op.A(x)
    y = y + scene.sigma_y * torch.randn(y.shape, generator=torch.Generator().manual_seed(SEED))

    def tell(progress: Progress) -> None:
        report.at(progress.done / progress.total)

    result = invdiff.restore(
        y, op, prior, sigma_y=scene.sigma_y, steps=steps, samples=samples, seed=SEED, device=device,
        callback=tell,
    )  # fmt: skip
    return y, result


def _write(scene: Scene, photograph: Array, y: Tensor, result: Result, out: Path) -> str:
    """The scene's pictures as files; returns a line of figures."""
    from ..evaluation import psnr
    from ..images import STD_WHITE, Tile, panel, to_array, to_tensor, write_image

    samples, deviation = len(result.samples), to_array(result.std).mean(axis=2)
    pictures = {
        "original": photograph,
        "measured": to_array(y),
        "sample": to_array(result.samples[0]),
        "restored": to_array(result.mean),
    }
    for name, array in {**pictures, "std": deviation / STD_WHITE}.items():
        write_image(out / f"{scene.name}_{name}.png", array)

    def score(name: str) -> float:
        """PSNR as a file would have it; the smaller measurement with its pixels repeated."""
        factor = SIZE // pictures[name].shape[0]
        array = pictures[name].clip(0, 1).repeat(factor, axis=0).repeat(factor, axis=1)
        return psnr(to_tensor(array), to_tensor(photograph)).item()

    tiles = [
        Tile(caption=f"measured: {scene.measured}", array=pictures["measured"]),
        Tile(caption=f"one sample: {score('sample'):.1f} dB", array=pictures["sample"]),
        Tile(caption=f"mean of {samples}: {score('restored'):.1f} dB", array=pictures["restored"]),
        Tile(caption="standard deviation", array=deviation, scale=STD_WHITE),
        Tile(caption="original", array=photograph),
    ]
    panel(out / f"{scene.name}_panel.png", tiles if samples > 1 else [tiles[0], tiles[1], tiles[4]])
    return (
        f"{scene.name} ({scene.photo}, {scene.measured}): PSNR {score('measured'):.1f} dB, "
        f"one sample {score('sample'):.1f}, mean of {samples} {score('restored'):.1f}; "
        f"{result.method}, {result.seconds:.1f} s"
    )


def _operator(name: str, shape: tuple[int, int, int]) -> LinearOperator:
    import torch

    from invdiff import operators

    from ..masks import make_mask

    if name == "inpaint":
        return operators.Mask(torch.from_numpy(make_mask("random:0.8", shape[1:], SEED)))
    if name == "sr":
        return operators.Downsample(4, shape, kernel="bicubic")
    return operators.Blur(operators.kernels.gaussian(1.6), shape, border="reflect")


def _photograph(scene: Scene) -> Array:
    """The scene's window, (256, 256, 3), from the file in scikit-image's folder: no download, no import."""
    from importlib.util import find_spec

    from ..images import read_image

    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise RequestError(
            "the demo's photographs come with scikit-image, which is not installed: pip install scikit-image"
        )
    top, left = scene.corner
    return read_image(Path(package.origin).parent / "data" / scene.photo).array[
        top : top + SIZE, left : left + SIZE
    ]


def _check(out: Path, overwrite: bool, prior: str) -> None:
    """Raise RequestError for what can be seen to be wrong before torch is loaded."""
    if prior not in PRIORS and not Path(prior).exists():
        raise unknown("prior", prior, PRIORS)
    if (out / "index.png").exists() and not overwrite:
        raise RequestError(
            f"{out} already holds a demo: --overwrite replaces it, --out DIR puts it elsewhere."
        )
    check_writable(out)


def _stack(panels: Sequence[Path], path: Path) -> None:
    """The panels under each other in one picture."""
    import numpy as np

    from ..images import read_image, write_image

    arrays = [read_image(file).array for file in panels]
    width = max(array.shape[1] for array in arrays)
    padded = [np.pad(a, ((0, 0), (0, width - a.shape[1]), (0, 0)), constant_values=1.0) for a in arrays]
    write_image(path, np.concatenate(padded))
