from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from invdiff.errors import RequestError
from invdiff.evaluation import paired, psnr, ssim


def pictures(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures that are alike, with pixels outside [0, 1] among them."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    return x, x + 0.2 * torch.randn(shape, generator=generator, dtype=torch.float64)


def test_psnr_equals_scikit_images_for_every_image_of_a_batch() -> None:
    x, y = pictures(2, 3, 37, 41)
    expected = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(y, x, strict=True)
    ]
    assert psnr(x, y).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_equals_scikit_images_under_the_stated_convention(channels: int) -> None:
    x, y = pictures(2, channels, 37, 41)
    expected = [
        structural_similarity(
            a.numpy(),
            b.numpy(),
            channel_axis=0,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(x, y, strict=True)
    ]
    assert ssim(x, y).tolist() == pytest.approx(expected, rel=1e-10)


def test_a_single_image_gives_a_single_number_and_leading_dimensions_stay() -> None:
    x, y = pictures(4, 2, 3, 16, 16)
    assert psnr(x, y).shape == ssim(x, y).shape == (4, 2)
    assert psnr(x[1, 0], y[1, 0]).item() == psnr(x, y)[1, 0].item()
    assert ssim(x[1, 0], y[1, 0]).item() == pytest.approx(ssim(x, y)[1, 0].item(), rel=1e-12)


def test_arrays_score_as_tensors_do() -> None:
    x, y = pictures(3, 16, 16)
    assert psnr(x.numpy(), y.numpy()).item() == psnr(x, y).item()
    assert ssim(x.numpy(), y).item() == ssim(x, y).item()


def test_equal_images_are_infinitely_good() -> None:
    x, _ = pictures(3, 16, 16)
    assert psnr(x, x).item() == float("inf")
    assert ssim(x, x).item() == pytest.approx(1, abs=1e-12)


def test_the_pixel_in_the_corner_counts() -> None:
    x = torch.full((3, 16, 16), 0.5)
    y = x.clone()
    y[0, 0, 0] = 1.0
    assert psnr(y, x).item() == pytest.approx(-10 * np.log10(0.25 / (3 * 16 * 16)))


@pytest.mark.parametrize("score", [psnr, ssim])
def test_images_of_different_shapes_are_refused(score) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RequestError, match=r"\(3, 16, 16\) and \(3, 16, 15\)"):
        score(torch.zeros(3, 16, 16), torch.zeros(3, 16, 15))


@pytest.mark.parametrize("score", [psnr, ssim])
def test_eight_bit_images_are_refused_since_their_white_is_255(score) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RequestError, match="divide by 255"):
        score(np.zeros((3, 16, 16), np.uint8), np.zeros((3, 16, 16)))


def test_ssim_says_what_size_it_needs() -> None:
    with pytest.raises(RequestError, match=r"11×11.*10×16"):
        ssim(torch.zeros(3, 10, 16), torch.zeros(3, 10, 16))


def test_paired_gives_the_mean_and_its_standard_error() -> None:
    mean, error = paired([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    assert error == pytest.approx(np.std([1, 2, 4], ddof=1) / np.sqrt(3))
    assert paired([2.0])[0] == 2
    assert np.isnan(paired([2.0])[1])
