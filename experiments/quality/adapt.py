"""What adapting `natural` to another kind of picture gains on that kind, and costs on photographs.

    python experiments/quality/adapt.py [--kind text|faces] [--preserve 0.75] [--lora RANK] [--steps 300]
    [--data ../shared/data/eval] [--out DIR]

text: ten pages of random words, 256×256, black on white. faces: ten of CelebA's validation split. Two of the ten are
held out by `adapt` itself. Photographs: the middle 128×128 of every sixth of CBSD68. PSNR of D, clipped, in dB, mean
over pictures, at σ = 15, 25, 50 of 255; before → after.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import zipfile
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from invdiff.images import list_images, read_image
from invdiff.training.adapt import Adaptation, Run
from invdiff.training.data import middle

WORDS = (
    "the of prior noise image every and sampler posterior measure to restore a light lens in blur kernel page with "
    "margin letter word from reading line"
)


def text(folder: Path) -> None:
    """Ten pages in PIL's own font, 11 to 18 pixels, each with its own grey of paper and of ink."""
    for index in range(10):
        draw = random.Random(index)
        page = Image.new("RGB", (256, 256), (draw.randint(225, 255),) * 3)
        pen = ImageDraw.Draw(page)
        size = draw.randint(11, 18)
        font = ImageFont.load_default(size)
        for top in range(6, 256, int(size * 1.35)):
            line = " ".join(draw.choice(WORDS.split()) for _ in range(14))
            pen.text((8, top), line, fill=(draw.randint(0, 60),) * 3, font=font)
        page.save(folder / f"{index}.png")


def faces(folder: Path, data: Path) -> None:
    with zipfile.ZipFile(data / "celeba-val-200.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith((".jpg", ".png")))[:10]
        for index, name in enumerate(names):
            Image.open(BytesIO(archive.read(name))).save(folder / f"{index}.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=("text", "faces"), default="text")
    parser.add_argument("--preserve", type=float, default=Adaptation.preserve)
    parser.add_argument("--lora", type=int)
    parser.add_argument("--steps", type=int, default=Adaptation.steps)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/eval"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        pictures = Path(place) / "pictures"
        pictures.mkdir()
        if given.kind == "text":
            text(pictures)
        else:
            faces(pictures, given.data)
        settings = Adaptation(
            images=[str(path) for path in list_images(pictures)], steps=given.steps, lora=given.lora,
            preserve=given.preserve, device="cpu",
        )  # fmt: skip
        began = time.monotonic()
        run = Run(settings, given.out or Path(place) / "out")
        run.begin()
        run.to_the_end()
        seconds = time.monotonic() - began
        run.compare()
        files = list_images(given.data / "cbsd68")[::6]
        photographs = [
            middle((torch.from_numpy(read_image(file).array.copy()).permute(2, 0, 1) * 255).byte(), 128)
            for file in files
        ]
        with torch.inference_mode():
            before, after = (run.psnr(prior, photographs) for prior in (run.original, run.prior()))
    changes = ", ".join(f"{b:.2f} → {a:.2f} ({a - b:+.2f})" for b, a in zip(before, after, strict=True))
    print(f"photographs ({len(files)}): {changes}; adapted in {seconds:.0f} s")


if __name__ == "__main__":
    main()
