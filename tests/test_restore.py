"""`invdiff.restore`: what it picks, refuses, reports and survives."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.errors import InvdiffError, RequestError
from invdiff.methods import METHODS, MMPS
from invdiff.priors.analytic import GaussianPrior
from invdiff.restore import Progress

SHAPE = (3, 8, 6)
PRIOR = GaussianPrior.white(0.5, 0.25)


def mask() -> operators.Mask:
    return operators.Mask((torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(0)) < 0.5).float())


def picture(batch: int = 1) -> Tensor:
    return torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(1))


class Cube(operators.Operator):
    """A nonlinear operator, y = x³."""

    in_shape = out_shape = SHAPE

    def A(self, x: Tensor) -> Tensor:
        return x**3


@pytest.mark.parametrize(
    ("op", "sigma_y", "expected"),
    [
        (mask(), 0.0, "mmps"),
        (operators.Blur(operators.kernels.disk(1), SHAPE), 0.01, "mmps"),
        (operators.Identity(SHAPE), 0.1, "ancestral"),
        (operators.Identity(SHAPE), 0.0, "mmps"),
        (Cube(), 0.05, "dps"),
    ],
    ids=["mask", "blur", "noise", "nothing to do", "nonlinear"],
)
def test_auto_picks_by_operator_and_noise_and_says_why(op: Any, sigma_y: float, expected: str) -> None:
    result = invdiff.restore(op.A(picture()), op, PRIOR, sigma_y=sigma_y, steps=3)
    assert result.method == expected
    assert result.reason


def test_denoising_one_sample_is_the_posterior_mean_in_one_evaluation_and_several_spread() -> None:
    op, y = operators.Identity(SHAPE), picture()
    one = invdiff.restore(y, op, PRIOR, sigma_y=0.1)
    torch.testing.assert_close(one.mean, PRIOR(y, 0.1))
    assert one.evaluations == 1
    assert not one.std.any()
    assert invdiff.restore(y, op, PRIOR, sigma_y=0.1, samples=4).std.mean() > 0.02


def test_the_result_has_samples_by_batch_and_its_mean_and_deviation_are_theirs() -> None:
    result = invdiff.restore(mask().A(picture(2)), mask(), PRIOR, steps=4, samples=3)
    assert result.samples.shape == (3, 2, *SHAPE)
    torch.testing.assert_close(result.mean, result.samples.mean(0))
    torch.testing.assert_close(result.std, result.samples.std(0))
    assert result.evaluations == 4
    assert len(set(result.checksums)) == 2


def test_progress_counts_up_to_the_whole_call() -> None:
    seen: list[Progress] = []
    invdiff.restore(mask().A(picture()), mask(), PRIOR, steps=4, samples=3, batch=2, callback=seen.append)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == 12
    assert {p.steps for p in seen} == {4}


def test_profile_tells_the_seconds_in_the_network_forward_and_backward() -> None:
    result = invdiff.restore(mask().A(picture()), mask(), PRIOR, steps=4, profile=True)
    assert result.network_seconds is not None
    assert 0 < result.network_seconds < result.seconds
    assert invdiff.restore(mask().A(picture()), mask(), PRIOR, steps=4).network_seconds is None


def test_a_method_object_and_options_by_name_are_the_same() -> None:
    y = mask().A(picture())
    a = invdiff.restore(y, mask(), PRIOR, method=MMPS(steps=5, iterations=2))
    b = invdiff.restore(y, mask(), PRIOR, method="mmps", steps=5, options={"iterations": 2})
    assert torch.equal(a.samples, b.samples)
    assert a.config == b.config


def test_when_gpu_memory_runs_out_the_batch_is_halved_and_nothing_else_changes() -> None:
    sizes: list[int] = []

    def small(x: Tensor, sigma: float) -> Tensor:
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return PRIOR(x, sigma)

    y = mask().A(picture())
    common: dict[str, Any] = {"method": "diffpir", "steps": 3, "samples": 5}
    got = invdiff.restore(y, mask(), small, batch=5, **common).samples
    torch.testing.assert_close(
        got, invdiff.restore(y, mask(), lambda x, s: PRIOR(x, s), batch=1, **common).samples
    )
    assert sizes[0] == 5
    assert max(sizes[1:]) == 2


def test_a_sample_that_does_not_fit_alone_fails_and_says_what_to_do() -> None:
    def hungry(x: Tensor, sigma: float) -> Tensor:
        raise torch.cuda.OutOfMemoryError("out of memory")

    with pytest.raises(InvdiffError, match=r"memory.*--device cpu") as caught:
        invdiff.restore(mask().A(picture()), mask(), hungry, method="diffpir", steps=3)
    assert caught.value.exit_code == 1


def test_a_result_that_is_not_finite_is_a_failure_not_a_picture() -> None:
    with pytest.raises(InvdiffError, match="not finite"):
        invdiff.restore(mask().A(picture()), mask(), lambda x, s: x * float("nan"), method="diffpir", steps=3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"y": torch.zeros(1, 3, 4, 4)}, "expected shape (B, 3, 8, 6)"),
        ({"y": torch.zeros(0, *SHAPE)}, "expected shape"),
        ({"y": torch.zeros(1, *SHAPE, dtype=torch.uint8)}, "divide 8-bit values by 255"),
        ({"y": torch.full((1, *SHAPE), float("nan"))}, "NaN"),
        ({"sigma_y": -0.1}, "8-bit 25 is 0.098"),
        ({"sigma_y": 25.0}, "8-bit 25 is 0.098"),
        ({"samples": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"steps": 0}, "at least 1"),
        ({"method": "mmsp"}, "Did you mean 'mmps'?"),
        ({"options": {"iteratoins": 2}}, "Did you mean 'iterations'?"),
        ({"options": {"iterations": 0}}, "at least 1"),
        ({"method": "ddnm", "options": {"eta": 2.0}}, "[0, 1]"),
        ({"options": {"sigma_max": 0.001}}, "sigma_min"),
        ({"method": "ancestral", "sigma_y": 0.1}, "mmps"),
        ({"method": "repaint", "sigma_y": 0.1}, "exact measurements only"),
        ({"device": "gpu"}, "cuda"),
        ({"prior": "naturl"}, "Did you mean 'natural'?"),
        ({"prior": 3}, "callable"),
        ({"steps": 2.5}, "steps"),
        ({"steps": 3, "options": {"steps": 4}}, "given twice"),
        ({"samples": 2.5}, "whole number"),
        ({"seed": "x"}, "whole number"),
        ({"seed": -1}, "at least 0"),
        ({"sigma_y": "a"}, "8-bit 25"),
        ({"y": torch.full((1, *SHAPE), 200.0)}, "divide by 255"),
        ({"options": {"clip": "abc"}}, "clip"),
        ({"options": {"sigma_max": float("nan")}}, "sigma_min"),
        ({"options": {"sigma_max": 1e9}}, "knows noise up to 100"),
        ({"method": MMPS(steps=3), "options": {"foo": 1}}, "foo"),
        ({"method": MMPS(steps=3), "steps": 0}, "at least 1"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_is_refused_in_one_line(change: dict[str, Any], says: str) -> None:
    request: dict[str, Any] = {"y": mask().A(picture()), "op": mask(), "prior": PRIOR, **change}
    with pytest.raises(RequestError, match=re.escape(says)) as caught:
        invdiff.restore(request.pop("y"), request.pop("op"), request.pop("prior"), **request)
    assert "\n" not in str(caught.value)


def test_channels_that_the_prior_cannot_be_made_to_fit_are_refused() -> None:
    op = operators.Identity((2, 8, 6))
    with pytest.raises(RequestError, match="3 channels, or grey ones, got 2"):
        invdiff.restore(torch.zeros(1, 2, 8, 6), op, "natural", sigma_y=0.1)


def test_an_impossible_pairing_is_refused_before_the_prior_is_looked_for() -> None:
    with pytest.raises(RequestError, match="methods that can do this"):
        invdiff.restore(torch.zeros(1, *SHAPE), Cube(), "no-such-prior", method="ddnm")


def test_inside_inference_mode_a_method_with_a_gradient_works_too() -> None:
    with torch.inference_mode():
        y = mask().A(picture())
        result = invdiff.restore(y, mask(), PRIOR, method="mmps", steps=3)
    assert torch.equal(
        result.samples, invdiff.restore(mask().A(picture()), mask(), PRIOR, method="mmps", steps=3).samples
    )


def test_a_prior_that_cannot_be_differentiated_is_named_with_a_method_that_does_not_need_it() -> None:
    with pytest.raises(InvdiffError, match=r"cannot be differentiated.*diffpir"):
        invdiff.restore(
            mask().A(picture()), mask(), lambda x, s: PRIOR(x, s).detach(), method="mmps", steps=3
        )


def test_the_catalog_and_the_methods_have_the_same_names_and_settings() -> None:
    assert list(METHODS) == list(invdiff.catalog.METHODS)
    for name, method in METHODS.items():
        assert method.info.name == name
        assert sorted(method.info.options) == sorted(field.name for field in dataclasses.fields(method))
