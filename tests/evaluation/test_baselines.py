from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from invdiff.errors import RequestError
from invdiff.evaluation import baselines, psnr
from invdiff.operators import Downsample


def picture(height: int = 48, width: int = 40) -> np.ndarray:
    """(3, H, W): smooth colours with an edge."""
    row, column = np.mgrid[:height, :width]
    smooth = [0.5 + 0.3 * np.sin(row / 7 + c) * np.cos(column / 5 - c) for c in range(3)]
    return np.stack(smooth) + 0.15 * (column > width // 2)


def kernel() -> np.ndarray:
    """Lopsided: a mirrored one would blur again instead of undoing."""
    k = np.zeros((7, 7))
    k[0, 1:4] = 1
    k[0:4, 3] = 1
    return k / k.sum()


def blurred(sigma_y: float = 0.01) -> np.ndarray:
    x = picture()
    y = np.stack([convolve(plane, kernel(), mode="wrap") for plane in x])
    return y + sigma_y * np.random.default_rng(0).standard_normal(x.shape)


@pytest.mark.parametrize(("factor", "height", "width"), [(2, 24, 36), (4, 24, 36), (3, 25, 38), (4, 23, 33)])
def test_bicubic_keeps_a_ramp_in_its_place_sizes_that_do_not_divide_included(
    factor: int, height: int, width: int
) -> None:
    ramps = np.stack(np.mgrid[:height, :width]).astype(np.float64)
    op = Downsample(factor, (2, height, width), kernel="box")
    y = op.A(torch.from_numpy(ramps)[None])[0]
    up = baselines.bicubic(y, factor, height, width).image
    assert up.shape == (2, height, width)
    rows, columns = (slice(2 * factor, (n - 3) * factor) for n in op.out_shape[1:])  # away from the borders
    np.testing.assert_allclose(up[:, rows, columns], ramps[:, rows, columns], atol=1e-4)


def test_bicubic_refuses_a_measurement_of_another_size() -> None:
    with pytest.raises(RequestError, match="expected y of 13×10, got 12×10"):
        baselines.bicubic(np.zeros((3, 12, 10)), 2, 25, 20)


def test_biharmonic_keeps_what_is_known_and_fills_the_rest_smoothly() -> None:
    x = picture()
    keep = np.random.default_rng(0).random(x.shape[1:]) < 0.5
    filled = baselines.biharmonic(np.where(keep, x, 1e3), keep).image  # what is missing must not be looked at
    np.testing.assert_array_equal(filled[:, keep], x[:, keep])
    assert psnr(filled, x).item() > 30
    with pytest.raises(RequestError, match=r"\(48, 40\), got \(40, 48\)"):
        baselines.biharmonic(x, keep.T)


@pytest.mark.parametrize(
    "restore",
    [lambda y: baselines.wiener(y, kernel(), 0.01), lambda y: baselines.richardson_lucy(y, kernel(), 20)],
)
def test_deconvolution_undoes_a_circular_blur_up_to_the_border(restore) -> None:  # type: ignore[no-untyped-def]
    x, y = picture(), blurred()
    image = restore(y).image
    assert image.shape == x.shape
    frame = np.ones(x.shape[1:], bool)
    frame[4:-4, 4:-4] = False
    assert psnr(image, x) > psnr(y, x) + 4
    assert np.square(image - x)[:, frame].mean() < 0.5 * np.square(y - x)[:, frame].mean()


def test_the_best_is_chosen_by_psnr_against_the_truth_and_says_what_it_is() -> None:
    x, y = picture(), blurred()
    chosen = baselines.deblur(y, kernel(), x)
    tried = [baselines.wiener(y, kernel(), b) for b in baselines.WIENER_BALANCE]
    tried += [baselines.richardson_lucy(y, kernel(), n) for n in baselines.RICHARDSON_LUCY_ITERATIONS]
    scores = {t.name: psnr(t.image.clip(0, 1), x).item() for t in tried}
    assert chosen.name == max(scores, key=lambda name: scores[name])
    assert max(scores.values()) > scores[tried[0].name]  # the grid's first is not the answer anyway


def test_denoising_takes_noise_away() -> None:
    x = picture()
    y = x + 25 / 255 * np.random.default_rng(0).standard_normal(x.shape)
    chosen = baselines.denoise(y, 25 / 255, x)
    assert psnr(chosen.image, x) > psnr(y, x) + 5
    for one in (baselines.nl_means(y, 25 / 255, 0.7, 5, 9), baselines.total_variation(y, 25 / 255, 0.7)):
        assert psnr(y, x) + 3 < psnr(one.image, x)
        assert psnr(one.image.clip(0, 1), x) <= psnr(chosen.image.clip(0, 1), x)


def test_a_batch_is_refused() -> None:
    with pytest.raises(RequestError, match=r"\(1, 3, 8, 8\)"):
        baselines.bicubic(np.zeros((1, 3, 8, 8)), 2, 16, 16)
