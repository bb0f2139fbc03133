"""Each score equals one worked out another way, and says nothing where it cannot know."""

from __future__ import annotations

import math
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter, laplace
from skimage.color import rgb2ycbcr, ycbcr2rgb
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from invdiff import operators
from invdiff.bench.scores import (
    INCEPTION,
    METRICS,
    inception,
    load_lpips,
    nearest,
    score,
    whole_run,
    without_lpips,
)
from invdiff.errors import InvdiffError, RequestError
from invdiff.evaluation import calibration, metrics
from invdiff.evaluation.lpips import VARIABLE
from invdiff.priors import GaussianPrior

SHAPE = (3, 24, 28)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def restored(count: int = 3) -> tuple[Tensor, Tensor]:
    """Samples with values outside [0, 1], each less far from the truth than the one before, and the truth."""
    truth = random(*SHAPE)
    noise = normal(count, *SHAPE, seed=1).float()
    return truth + torch.linspace(0.3, 0.2, count).view(-1, 1, 1, 1) * noise, truth


def scored(samples: Tensor, truth: Tensor | None, *names: str, **options: Any) -> dict[str, float | None]:
    op = operators.Identity(tuple(samples.shape[1:]))
    return score(samples, truth, torch.zeros(1, *samples.shape[1:]), op, 0.0, names, **options)


def picture(x: Tensor) -> np.ndarray[Any, Any]:
    """(H, W, C) as a file of it holds it, but for rounding."""
    return x.double().clamp(0, 1).permute(1, 2, 0).numpy()


def psnr(x: Any, y: Any) -> float:
    return float(peak_signal_noise_ratio(y, x, data_range=1))


def ssim(x: Any, y: Any) -> float:
    how: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(x, y, channel_axis=2, data_range=1, **how))


# --------------------------------------------------------------------------------------------- against the truth


@pytest.mark.parametrize("name, reference", [("psnr", psnr), ("ssim", ssim)])
def test_a_score_is_the_samples_average_and_its_other_names_are_of_the_mean_and_of_the_nearest(
    name: str, reference: Any
) -> None:
    samples, truth = restored()
    found = scored(samples, truth, name, f"{name}_mean", f"{name}_best")
    singles = [reference(picture(x), picture(truth)) for x in samples]
    of_mean = reference(picture(samples.double().mean(dim=0)), picture(truth))
    assert list(found.values()) == pytest.approx([np.mean(singles), of_mean, singles[-1]], rel=1e-6)
    assert of_mean > max(singles)


@pytest.mark.parametrize("name, reference", [("psnr", psnr), ("ssim", ssim)])
@pytest.mark.parametrize("border", [0, 4])
def test_luma_and_border_are_those_of_the_papers_on_super_resolution(
    name: str, reference: Any, border: int
) -> None:
    samples, truth = restored()

    def seen(x: Tensor) -> Any:
        y = rgb2ycbcr(picture(x))[..., :1] / 255
        return y[border : y.shape[0] - border, border : y.shape[1] - border]

    found = scored(samples, truth, name, colour="luma", border=border)[name]
    assert found == pytest.approx(np.mean([reference(seen(x), seen(truth)) for x in samples]), rel=1e-6)


def test_luma_runs_from_16_to_235_and_a_grey_picture_is_its_own() -> None:
    white = torch.ones(3, 2, 2)
    assert metrics.luma(white).unique().tolist() == pytest.approx([235 / 255])
    assert metrics.luma(0 * white).unique().tolist() == pytest.approx([16 / 255])
    grey = random(1, 4, 4)
    assert torch.equal(metrics.luma(grey), grey.double())
    back = ycbcr2rgb(
        np.concatenate([255 * metrics.luma(white / 2).numpy(), np.full((2, 2, 2), 128.0)]), channel_axis=0
    )
    assert back == pytest.approx(0.5, abs=1e-4)


def test_the_nearest_sample_is_found_after_colour_and_border_and_once_clipped() -> None:
    truth = torch.full(SHAPE, 1.0)
    spoilt = truth.clone()
    spoilt[:, 0] = 0
    beyond, beneath = torch.full(SHAPE, 1.9), torch.full(SHAPE, 0.9)
    assert nearest(torch.stack([spoilt, beneath, beyond]), truth) == 2
    assert nearest(torch.stack([beneath, spoilt]), truth, border=1) == 1
    coloured = truth.clone()
    coloured[2] = 0.5  # blue: far in RGB, near in luma
    assert nearest(torch.stack([coloured, 0.85 * truth]), truth) == 1
    assert nearest(torch.stack([coloured, 0.85 * truth]), truth, colour="luma") == 0
    found = scored(torch.stack([beneath, spoilt]), truth, "sharpness_best", "psnr_best", border=1)
    assert found["sharpness_best"] == pytest.approx(float(metrics.sharpness(spoilt)))
    assert found["psnr_best"] is None  # equal but for the border


class Seen:
    """Stands for LPIPS: keeps what it was shown."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def __call__(self, image: Tensor, reference: Tensor) -> Tensor:
        self.pairs.append((image, reference))
        return (image - reference).abs().mean()


def test_lpips_is_shown_each_clipped_sample_whole_and_in_colour() -> None:
    truth, seen = random(1, 32, 33), Seen()
    samples = truth + torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1)
    found = scored(samples, truth, "lpips_vgg", colour="luma", border=3, lpips={"vgg": seen})
    shown = [image.float() for image, _ in seen.pairs]
    assert all(
        torch.equal(image, x.clamp(0, 1).expand(3, -1, -1)) for image, x in zip(shown, samples, strict=True)
    )
    assert all(torch.equal(reference.float(), truth.expand(3, -1, -1)) for _, reference in seen.pairs)
    expected = np.mean([float((x.clamp(0, 1) - truth).abs().mean()) for x in samples])
    assert found["lpips_vgg"] == pytest.approx(expected, rel=1e-5)


def test_missing_weights_are_an_error_before_anything_runs_that_names_both_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RequestError, match=rf"alex.*not on this machine.*{VARIABLE}.*--no-lpips") as error:
        load_lpips(["psnr", "lpips_alex"])
    assert "\n" not in str(error.value)
    assert load_lpips(["psnr", "diversity"]) == {}
    assert without_lpips(["lpips_alex_mean", "psnr", "lpips_vgg"]) == ["psnr"]


def test_a_backbone_is_loaded_once_for_all_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("invdiff.evaluation.lpips.find_weights", lambda net: f"{net}.npz")
    monkeypatch.setattr(
        "invdiff.evaluation.lpips.Lpips", lambda net, weights, device: made.append(weights) or net
    )
    names = ["lpips_vgg", "psnr", "lpips_vgg_mean", "lpips_squeeze_best"]
    assert load_lpips(names) == {"vgg": "vgg", "squeeze": "squeeze"}
    assert made == ["vgg.npz", "squeeze.npz"]


# ------------------------------------------------------------------------------------------------- what was measured


def blurred_and_masked() -> operators.Operator:
    blur = operators.Blur(operators.kernels.gaussian(1.0), SHAPE, border="circular")
    return operators.Mask(random(*SHAPE[1:], seed=5) > 0.7) @ blur


@pytest.mark.parametrize(
    "op",
    [
        operators.Downsample(2, SHAPE, kernel="box"),
        operators.Mask(random(*SHAPE[1:], seed=5) > 0.7),
        2 * operators.Mask(random(*SHAPE, seed=5) > 0.7),
        operators.Diagonal((random(*SHAPE, seed=5) > 0.7) * 1.5),
        blurred_and_masked(),
        operators.stacked([operators.Mask(random(*SHAPE[1:], seed=5) > 0.7), operators.Identity(SHAPE)]),
    ],
    ids=str,
)
def test_the_truth_is_one_sigma_from_the_measurement_whatever_part_of_it_was_lost(
    op: operators.Operator,
) -> None:
    truth = random(1, *SHAPE)
    clean = op.A(truth)
    lost = (op.A(random(1, *SHAPE, seed=9)) == 0) & (clean == 0)
    y = torch.where(lost, 0, clean + 0.05 * normal(*clean.shape, seed=2).float())
    found = score(truth, truth[0], y, op, 0.05, ["consistency"])["consistency"]
    measured = int((~lost).sum())
    assert found == pytest.approx(float((clean - y).double().norm()) / 0.05 / measured**0.5, rel=1e-5)
    assert found == pytest.approx(1, abs=4 / (2 * measured) ** 0.5)


def test_consistency_is_of_samples_as_drawn_and_without_noise_in_image_units() -> None:
    op, truth = operators.Downsample(2, SHAPE, kernel="box"), random(1, *SHAPE)
    samples = torch.cat([truth + 2, truth + 1])
    y = op.A(truth)[0]
    found = score(samples, None, y, op, 0.0, ["consistency", "consistency_mean", "consistency_best"])
    assert found == {
        "consistency": pytest.approx(1.5, rel=1e-5),
        "consistency_mean": pytest.approx(1.5, rel=1e-5),
        "consistency_best": None,
    }
    assert score(samples, None, y[None], op, 0.5, ["consistency"])["consistency"] == pytest.approx(
        3, rel=1e-5
    )


def test_what_stands_where_a_mask_has_lost_the_picture_does_not_count() -> None:
    op = operators.Mask(random(*SHAPE[1:], seed=5) > 0.7)
    truth = random(1, *SHAPE)
    y = torch.where(op.keep, truth + 0.1, math.nan)
    assert score(truth, None, y, op, 0.1, ["consistency"])["consistency"] == pytest.approx(1, rel=1e-5)


# --------------------------------------------------------------------------------------------------- no reference


def test_sharpness_is_the_variance_of_scipys_laplacian() -> None:
    samples, _ = restored(2)
    grey = [picture(x) @ np.array([0.299, 0.587, 0.114]) for x in samples]
    expected = np.mean([laplace(g)[1:-1, 1:-1].var() for g in grey])
    assert scored(samples, None, "sharpness")["sharpness"] == pytest.approx(expected, rel=1e-4)


def test_blockiness_is_what_it_is_by_hand_and_rises_as_jpeg_gets_coarser() -> None:
    steps = torch.zeros(1, 16, 24)
    steps[..., 8:] += 0.3  # a step across one of the two borders
    steps[..., 4:] += 0.1  # and one within a block
    found = scored(steps[None], None, "blockiness")["blockiness"]
    assert found == pytest.approx((0.3 / 2) / (0.1 / 21), rel=1e-5)
    field = gaussian_filter(np.random.default_rng(0).normal(size=(128, 128, 3)), (1.5, 1.5, 0))
    whole = Image.fromarray((128 + 60 * field / field.std()).clip(0, 255).astype(np.uint8))
    values = []
    for quality in (None, 60, 30, 10):
        file = BytesIO()
        whole.save(file, "PNG" if quality is None else "JPEG", **({"quality": quality} if quality else {}))
        x = torch.from_numpy(np.asarray(Image.open(file)) / 255).permute(2, 0, 1)
        values.append(float(metrics.blockiness(x)))
    assert values[0] == pytest.approx(1, abs=0.05)
    assert values == sorted(values)
    assert values[-1] > 1.5


def test_noise_is_the_sigma_that_was_added() -> None:
    samples = 0.5 + 0.05 * normal(2, 3, 128, 128)
    assert scored(samples, None, "noise")["noise"] == pytest.approx(0.05, rel=0.03)


# ------------------------------------------------------------------------------------------------- several samples


def test_diversity_and_spread_are_what_loops_over_pairs_and_pixels_give() -> None:
    samples = 3 * normal(4, *SHAPE)
    pairs = [
        np.sqrt(((a - b) ** 2).mean()) for i, a in enumerate(samples.numpy()) for b in samples.numpy()[:i]
    ]
    found = scored(samples, None, "diversity", "spread")
    assert found["diversity"] == pytest.approx(np.mean(pairs), rel=1e-12)
    assert found["spread"] == pytest.approx(np.sqrt(samples.numpy().var(axis=0, ddof=1).mean()), rel=1e-12)
    assert scored(samples[:1].expand(3, -1, -1, -1), None, "diversity", "spread") == {
        "diversity": 0,
        "spread": 0,
    }


def drawn_exactly(count: int, width: float, side: int = 96) -> tuple[Tensor, Tensor, Tensor, operators.Mask]:
    """Samples of the posterior of a Gaussian prior under a mask, `width` times as wide; the truth; y; the operator."""
    stream = torch.Generator().manual_seed(11)
    prior = GaussianPrior.white(0.5, 0.25)
    truth = prior.sample((1, 3, side, side), stream)
    op, sigma_y = operators.Mask(torch.rand(side, side, generator=stream) > 0.4), 0.2
    y = op.A(truth + sigma_y * torch.randn(truth.shape, generator=stream, dtype=torch.float64))
    precision = 1 / 0.25**2 + op.keep.double() / sigma_y**2
    mean = (0.5 / 0.25**2 + y[0] / sigma_y**2) / precision
    noise = torch.randn(count, 3, side, side, generator=stream, dtype=torch.float64)
    return mean + width * precision**-0.5 * noise, truth[0], y, op


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_calibration_of_a_gaussian_posterior_is_its_closed_form(width: float) -> None:
    count = 99
    samples, truth, y, op = drawn_exactly(count, width)
    names = ["coverage_50", "coverage_80", "coverage_95", "z_square", "spread_error", "consistency"]
    found = score(samples, truth, y, op, 0.2, names)
    n, normal_ = truth.numel(), NormalDist()
    for level in (0.5, 0.8, 0.95):
        share = 2 * normal_.cdf(width * normal_.inv_cdf((1 + level) / 2)) - 1
        error = 3.5 * (share * (1 - share) / n) ** 0.5 + (0 if width == 1 else 1 / count)
        assert found[f"coverage_{level * 100:.0f}"] == pytest.approx(share, abs=error)
    assert found["z_square"] == pytest.approx((count + width**2) / (width**2 * (count + 1)), rel=0.04)
    assert found["spread_error"] == pytest.approx(width * ((count + 1) / (count + width**2)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("width", [1.0, 2.0])
def test_few_samples_calibrate_as_many_do(width: float) -> None:
    samples, truth, y, op = drawn_exactly(8, width, 192)
    found = score(samples, truth, y, op, 0.2, ["z_square", "spread_error"])
    assert found["z_square"] == pytest.approx((8 + width**2) / (width**2 * 9), rel=0.04)
    assert found["spread_error"] == pytest.approx(width * (9 / (8 + width**2)) ** 0.5, rel=0.02)


def test_the_error_of_z_square_is_over_truths() -> None:
    mean, error = calibration.z_square(normal(9, 300, 40), normal(300, 40, seed=1))
    assert abs(mean - 1) < 3.5 * error
    assert 0.005 < error < 0.05


def test_pixels_that_all_samples_have_right_tell_nothing_of_calibration() -> None:
    samples, truth, y, op = drawn_exactly(9, 1.0, 32)
    names = ["coverage_80", "z_square", "spread_error"]
    given = torch.where(op.keep, truth, samples)
    lost = ~op.keep.flatten()
    known = calibration.coverage(samples.flatten(1)[:, None, lost], truth.flatten()[None, lost], 0.8)[0]
    found = score(given, truth, y, op, 0.2, names)
    assert found["coverage_80"] == pytest.approx(known, rel=1e-12)
    assert all(value is not None for value in found.values())
    assert scored(truth.expand(5, -1, -1, -1), truth, *names) == dict.fromkeys(names)


def test_one_picture_over_and_over_covers_nothing_and_has_no_z() -> None:
    samples, truth = torch.full((19, *SHAPE), 0.5), random(*SHAPE)
    found = scored(samples, truth, *(name for name in METRICS if METRICS[name].samples > 1))
    assert found.pop("coverage_95") == pytest.approx(0.5, abs=1e-3)  # as far as 19 samples can tell
    assert set(found.values()) == {0, None}
    assert found["z_square"] is None


@pytest.mark.parametrize("level", [50, 80, 95])
def test_coverage_is_told_from_so_many_samples_that_a_miss_is_seen(level: int) -> None:
    enough = METRICS[f"coverage_{level}"].samples
    held = [
        calibration.coverage(torch.zeros(s, 1, 1), torch.ones(1, 1), level / 100)[0]
        for s in (enough, enough - 1)
    ]
    assert held[0] <= 0.5 + 1e-9
    assert held[1] > 0.4  # and no more than are needed


# ----------------------------------------------------------------------------------------- what cannot be told


def test_without_a_truth_what_needs_one_is_none_and_the_rest_is_told() -> None:
    samples = restored(4)[0]
    told = [name for name, metric in METRICS.items() if metric.scope == "picture" and not metric.reference]
    found = scored(samples, None, *METRICS)
    assert {name for name, value in found.items() if value is not None} == set(told)
    assert {"consistency", "noise_mean", "spread"} <= set(told)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_what_needs_more_samples_is_none(count: int) -> None:
    samples, truth = restored(count)
    found = scored(samples, truth, *without_lpips(METRICS))
    missing = {name for name, value in found.items() if value is None}
    assert missing == {name for name in found if METRICS[name].samples > count}
    assert ("z_square" in missing) == ("coverage_80" in missing) == (count < 4)
    assert "coverage_95" in missing


def test_small_pictures_equal_pictures_and_flat_ones_have_no_such_number() -> None:
    small, seen = random(2, 3, 10, 9), {"alex": Seen()}
    names = ["psnr", "ssim", "lpips_alex", "blockiness"]
    assert [*scored(small, small[0] / 2, *names, lpips=seen).values()][1:] == [None] * 3
    assert scored(small[:1], small[0], "psnr", "ssim_mean") == {"psnr": None, "ssim_mean": None}
    flat = torch.full((1, 3, 32, 32), 0.5)
    assert scored(flat, None, "blockiness", "noise", "sharpness") == {
        "blockiness": None,
        "noise": 0,
        "sharpness": 0,
    }
    assert scored(flat, 0 * flat[0], "lpips_alex") == {"lpips_alex": None}


def test_the_answer_has_the_names_in_order_but_those_of_a_run() -> None:
    samples, truth = restored(1)
    assert list(scored(samples, truth, "ssim", "fid", "psnr", "diversity")) == ["ssim", "psnr", "diversity"]


def test_a_sample_that_is_not_finite_has_failed() -> None:
    samples, truth = restored(3)
    samples[1, 0, 3, 3] = math.nan
    with pytest.raises(InvdiffError, match=r"sample 2 of 3 is not finite"):
        scored(samples, truth, "psnr")


def test_an_unknown_metric_names_the_nearest() -> None:
    samples, truth = restored(1)
    with pytest.raises(RequestError, match=r"unknown metric 'psnr_avg'.*Did you mean 'psnr"):
        scored(samples, truth, "psnr_avg")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"truth": torch.zeros(3, 24, 27)}, r"truth: expected \(3, 24, 28\).*got \(3, 24, 27\)"),
        ({"y": torch.zeros(2, *SHAPE)}, r"y: expected \(1, 3, 24, 28\).*got \(2, 3, 24, 28\)"),
        ({"samples": torch.zeros(SHAPE)}, r"samples: expected \(S, C, H, W\), got \(3, 24, 28\)"),
        (
            {"operator": operators.Identity((3, 24, 29))},
            r"expected pictures \(3, 24, 29\), got \(3, 24, 28\)",
        ),
        ({"border": 12}, r"border: expected 0 to 11 pixels of an image 24×28, got 12"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change: dict[str, Any], message: str) -> None:
    samples, truth = restored(1)
    given = {
        "samples": samples,
        "truth": truth,
        "y": torch.zeros(1, *SHAPE),
        "operator": operators.Identity(SHAPE),
    }
    with pytest.raises(RequestError, match=message):
        score(**{**given, "sigma_y": 0.0, "names": ["psnr"], **change})


def test_the_names_are_known_without_torch() -> None:
    code = "import sys, invdiff.bench.scores, invdiff.bench.statistics; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ----------------------------------------------------------------------------------------------------- whole runs


def colours(images: Tensor) -> Tensor:
    """Five features of a picture, uint8."""
    assert images.dtype == torch.uint8
    x = images.double() / 255
    return torch.cat([x.mean(dim=(2, 3)), x[:, :2].std(dim=(2, 3))], dim=1)


def two_sets() -> tuple[list[Tensor], list[Tensor]]:
    stream = torch.Generator().manual_seed(3)
    real = [torch.rand(3, 1, 1, generator=stream) * torch.rand(3, 6, 7, generator=stream) for _ in range(40)]
    fake = [
        torch.rand(3, 1, 1, generator=stream) + 0.2 * torch.rand(3, 8, 5, generator=stream) for _ in range(40)
    ]
    return real, fake


def test_fid_and_kid_are_their_formulas_on_the_features_of_the_files() -> None:
    real, fake = two_sets()
    found = whole_run(["psnr", "fid", "kid"], iter(real), iter(fake), extractor=colours)
    a, b = (
        np.concatenate([colours((x.clamp(0, 1) * 255).round().byte()[None]).numpy() for x in some])
        for some in (real, fake)
    )
    gap = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    ca, cb = np.cov(a.T), np.cov(b.T)
    assert found["fid"] == pytest.approx(gap + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real), rel=1e-6)

    def kernel(u: Any, v: Any) -> Any:
        return (u @ v.T / 5 + 1) ** 3

    kaa, kbb = (kernel(u, u)[~np.eye(40, dtype=bool)].mean() for u in (a, b))
    assert found["kid"] == pytest.approx(kaa + kbb - 2 * kernel(a, b).mean(), rel=1e-6)
    assert list(found) == ["fid", "kid"]


def test_fid_and_kid_of_one_set_are_none_of_a_picture_and_leave_the_random_numbers_alone() -> None:
    real, fake = two_sets()
    before = torch.random.get_rng_state()
    assert whole_run(["kid"], real, fake[:30], extractor=colours) == whole_run(
        ["kid"], real, fake[:30], extractor=colours
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert whole_run(["fid"], real, real, extractor=colours)["fid"] == pytest.approx(0, abs=1e-8)
    assert whole_run(["fid", "kid"], real, fake[:1], extractor=colours) == {"fid": None, "kid": None}
    assert whole_run(["fid", "kid"], real, [], extractor=colours) == {"fid": None, "kid": None}
    assert whole_run(["psnr"], real, fake) == {}


def test_inception_is_not_downloaded_and_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(RequestError, match=r"torch-fidelity: pip install 'invdiff\[fid\]'"):
        whole_run(["fid"], [], [])
    monkeypatch.setattr("invdiff.bench.scores.find_spec", lambda name: True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(INCEPTION, raising=False)
    with pytest.raises(
        RequestError, match=rf"there is no .*weights-inception.*does not download.*{INCEPTION}"
    ):
        inception()
    monkeypatch.setenv(INCEPTION, str(tmp_path / "gone.pth"))
    with pytest.raises(RequestError, match=r"there is no .*gone\.pth"):
        inception()
