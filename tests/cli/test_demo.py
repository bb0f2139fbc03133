from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff.cli import demo
from invdiff.cli.demo import SAMPLES, SCENES, demo_command
from invdiff.errors import RequestError
from invdiff.priors import EDM, Card, save_prior
from invdiff.priors.nets.unet import UNet

PICTURES = ("original", "measured", "sample", "restored", "std", "panel")


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network of a few weights, as a file."""
    file = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(widths=(4, 8), blocks=(1, 1), embedding=8)
    save_prior(file, network, EDM(), Card(name="tiny", channels=3))
    return str(file)


@pytest.fixture(scope="module")
def shown(prior: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo that was run."""
    out = tmp_path_factory.mktemp("demo") / "pictures"
    demo_command(out=out, prior=prior, samples=2, steps=2, device="cpu")
    return out


def read(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)) / 255


def test_the_demo_writes_every_picture_and_a_sheet_of_all(shown: Path) -> None:
    expected = {f"{scene.name}_{picture}.png" for scene in SCENES for picture in PICTURES} | {"index.png"}
    assert {file.name for file in shown.iterdir()} == expected
    panels = [read(shown / f"{scene.name}_panel.png").shape for scene in SCENES]
    height, width, _ = read(shown / "index.png").shape
    assert (height, width) == (sum(h for h, _, _ in panels), max(w for _, w, _ in panels))


def test_the_measurements_are_what_the_captions_say(shown: Path) -> None:
    missing = (read(shown / "inpaint_measured.png") == 0).all(axis=2).mean()
    assert missing == pytest.approx(0.8, abs=0.01)
    assert read(shown / "sr_measured.png").shape == (64, 64, 3)
    blurred, original = read(shown / "deblur_measured.png"), read(shown / "deblur_original.png")
    assert np.abs(np.diff(blurred, axis=0)).mean() < 0.8 * np.abs(np.diff(original, axis=0)).mean()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_restored_is_the_mean_of_samples_that_differ(scene: demo.Scene, shown: Path) -> None:
    sample, mean = read(shown / f"{scene.name}_sample.png"), read(shown / f"{scene.name}_restored.png")
    assert sample.shape == mean.shape == (256, 256, 3)
    assert np.abs(sample - mean).max() > 0
    assert read(shown / f"{scene.name}_std.png").max() > 0


def test_kept_pixels_come_back_bit_for_bit(shown: Path) -> None:
    measured, sample = read(shown / "inpaint_measured.png"), read(shown / "inpaint_sample.png")
    kept = (measured > 0).any(axis=2)
    np.testing.assert_array_equal(sample[kept], read(shown / "inpaint_original.png")[kept])


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_the_photographs_are_scikit_images_own(scene: demo.Scene) -> None:
    from skimage import data

    whole = getattr(data, Path(scene.photo).stem)()
    top, left = scene.corner
    window = demo._photograph(scene)
    np.testing.assert_array_equal(np.rint(window * 255), whole[top : top + 256, left : left + 256])


def test_it_says_where_the_pictures_are_and_how_good(
    prior: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SCENES", SCENES[1:2])
    demo_command(out=tmp_path, prior=prior, samples=1, steps=1, device="cpu")
    printed, said = capsys.readouterr()
    assert str(tmp_path / "index.png") in printed
    assert "sr (chelsea.png, a quarter of the size): PSNR 2" in said


def test_a_demo_is_replaced_only_when_asked(shown: Path, prior: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (shown / "index.png").stat().st_mtime_ns
    with pytest.raises(RequestError, match="--overwrite"):
        demo_command(out=shown, prior=prior)
    assert (shown / "index.png").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("out", "prior_name", "said"), [("a_file", "natural", "a_file"), ("new", "naturel", "'natural'")]
)
def test_a_wrong_request_writes_nothing_and_loads_nothing(
    out: str, prior_name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_file").touch()
    monkeypatch.setattr(
        "invdiff.load_prior", lambda *a, **k: pytest.fail("a prior was loaded"), raising=False
    )
    with pytest.raises(RequestError, match=said):
        demo_command(out=tmp_path / out, prior=prior_name)
    assert {file.name for file in tmp_path.iterdir()} == {"a_file"}


def test_the_default_shows_an_uncertainty() -> None:
    assert SAMPLES > 1
