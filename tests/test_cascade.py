"""Restoring and sampling with a cascade: whose samples they are, what each stage is shown, and what does not matter."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import operators
from invdiff.errors import InvdiffError, RequestError
from invdiff.priors import Card, Cascade, Condition, GaussianPrior
from invdiff.priors.base import per_image
from invdiff.priors.conditional import picture_of, task_of
from invdiff.restore import Progress


@dataclass(frozen=True, eq=False)
class Affine:
    """x₀ given what is shown, u, is N(turn·u + shift, covariance): its conditional denoiser in closed form."""

    card: Card
    turn: Tensor
    shift: Tensor
    covariance: Tensor

    @classmethod
    def make(cls, side: int, seed: int, *, std: float = 0.2, kernel: str = "box", **condition: Any) -> Affine:
        n = side**2
        draw = torch.Generator().manual_seed(seed)
        root = std * torch.randn(n, 3, generator=draw, dtype=torch.float64)
        task = task_of(operators.Downsample(2, (1, side, side), kernel))  # type: ignore[arg-type]
        return cls(
            card=Card(
                name=f"to{side}", channels=1, sigma_max=100.0, condition=Condition(tasks=(task,), **condition)
            ),
            turn=torch.eye(n, dtype=torch.float64)
            + 0.5 * n**-0.5 * torch.randn(n, n, generator=draw, dtype=torch.float64),
            shift=0.1 * torch.randn(n, generator=draw, dtype=torch.float64),
            covariance=root @ root.T,
        )

    def seeing(
        self, y: Tensor, operator: Any, sigma_y: float = 0.0, *, guidance: float = 1.0, augment: float = 0.0,
        noise: Tensor | None = None,
    ) -> Seen:  # fmt: skip
        shown = picture_of(operator, y) + (0 if noise is None else augment * noise)
        return Seen(self, shown.flatten(1).double() @ self.turn.T + self.shift)


@dataclass(frozen=True, eq=False)
class Seen:
    prior: Affine
    mean: Tensor
    centre: Tensor | None = None

    @property
    def card(self) -> Card:
        return self.prior.card

    def pick(self, images: Sequence[int]) -> Seen:
        return dataclasses.replace(self, mean=self.mean[list(images)])

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        variance = per_image(sigma, x).double()[0] ** 2
        total = self.prior.covariance + variance * torch.eye(self.mean.shape[1], dtype=torch.float64)
        gain = torch.linalg.solve(total, self.prior.covariance).T
        away = x.flatten(1).double() - self.mean
        return (self.mean + away @ gain.T).reshape(x.shape).to(x)


FIRST, SECOND = Affine.make(2, 0, noise=0.1), Affine.make(4, 1, augment=0.3)
EXACT = {"integrator": "heun", "steps": 40, "sigma_max": 50.0, "sigma_min": 0.002}


def whole(side: int = 4, factor: int = 4, kernel: Any = "box") -> operators.Downsample:
    return operators.Downsample(factor, (1, side, side), kernel)


def measured(batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, 1, 1, generator=torch.Generator().manual_seed(2))


def enlarging(side: int) -> Tensor:
    """The matrix that makes pictures of half that side as large as they are shown: (side², side²/4)."""
    half = side // 2
    units = torch.eye(half**2).reshape(-1, 1, half, half)
    return picture_of(whole(side, 2), units).flatten(1).T.double()


def through(
    stage: Affine, side: int, mean: Tensor, covariance: Tensor, augment: float
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what a stage makes of pictures with these."""
    grow = stage.turn @ enlarging(side)
    noise = augment**2 * stage.turn @ stage.turn.T
    return grow @ mean + stage.shift, grow @ covariance @ grow.T + noise + stage.covariance


def check_moments(x: Tensor, mean: Tensor, covariance: Tensor) -> None:
    rows = x.flatten(1).double()
    error = (rows.mean(0) - mean).norm() / (covariance.trace() / len(x)).sqrt()
    assert error < 2.5
    assert (rows.T.cov() - covariance).norm() < 0.08 * covariance.norm()


@pytest.mark.parametrize("augment", [0.0, 0.3])
def test_samples_are_the_chains(augment: float) -> None:
    cascade, y = Cascade(stages=[FIRST, SECOND], augment=augment), measured()
    result = invdiff.restore(y, whole(), cascade, samples=2000, batch=2000, options=EXACT, seed=1)
    mean, covariance = through(FIRST, 2, y.flatten().double(), torch.zeros(1, 1).double(), 0.0)
    check_moments(result.samples[:, 0], *through(SECOND, 4, mean, covariance, augment))


def test_samples_of_nothing_are_the_bases_through_all_stages() -> None:
    base = GaussianPrior.white(0.4, 0.3)
    cascade = Cascade(stages=[Affine.make(2, 0, augment=1.0), SECOND], base=base, augment=0.2)
    found = invdiff.sample(cascade, (1, 4, 4), samples=2000, batch=2000, **EXACT)  # type: ignore[arg-type]
    start = torch.tensor([0.4]).double(), torch.tensor([[0.09]]).double()
    check_moments(found.samples, *through(SECOND, 4, *through(FIRST, 2, *start, 0.2), 0.2))


def test_the_base_has_the_draws_that_it_has_alone() -> None:
    base, stage = GaussianPrior.white(0.4, 0.3), Affine.make(4, 1, std=0.0)
    alone = invdiff.sample(base, (1, 2, 2), samples=3, first=2, steps=8).samples
    found = invdiff.sample(Cascade(stages=[stage], base=base), (1, 4, 4), samples=3, first=2, steps=8).samples
    shown = alone.flatten(1).double() @ (stage.turn @ enlarging(4)).T + stage.shift
    torch.testing.assert_close(found.flatten(1).double(), shown, rtol=1e-5, atol=1e-5)


def test_a_measurement_goes_in_where_the_stages_from_there_on_have_its_factor() -> None:
    cascade = Cascade(stages=[FIRST, SECOND], augment=0.3)
    y = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    how = {"samples": 2, "steps": 5, "seed": 4}
    alone = invdiff.restore(y, whole(factor=2), SECOND, **how)  # type: ignore[arg-type]
    found = invdiff.restore(y, whole(factor=2), cascade, **how)  # type: ignore[arg-type]
    assert torch.equal(found.samples, alone.samples)
    assert [stage["prior"] for stage in found.config["stages"]] == ["to4"]
    both = invdiff.restore(measured(), whole(), cascade, **how)  # type: ignore[arg-type]
    assert [stage["prior"] for stage in both.config["stages"]] == ["to2", "to4"]


@pytest.mark.parametrize("augment", [0.0, 0.3])
def test_a_samples_draws_depend_on_seed_picture_and_index_alone(augment: float) -> None:
    cascade, y = Cascade(stages=[FIRST, SECOND], augment=augment), measured(3)
    together = invdiff.restore(y, whole(), cascade, samples=3, batch=9, steps=6, seed=5).samples
    close = {"rtol": 1e-4, "atol": 1e-4}
    in_twos = invdiff.restore(y.flip(0), whole(), cascade, samples=3, batch=2, steps=6, seed=5).samples
    torch.testing.assert_close(in_twos.flip(1), together, **close)
    alone = invdiff.restore(y[1:2], whole(), cascade, samples=2, steps=6, seed=5).samples
    torch.testing.assert_close(alone, together[:2, 1:2], **close)
    other = invdiff.restore(y[1:2], whole(), cascade, samples=2, steps=6, seed=6).samples
    assert not torch.isclose(other, alone, atol=1e-3).any(dim=0).all()
    certain = Cascade(stages=[Affine.make(2, 0, std=0.0), SECOND], augment=augment)
    seeds = [invdiff.restore(y[:1], whole(), certain, steps=6, seed=seed).samples for seed in (5, 6)]
    assert (seeds[0] - seeds[1]).abs().mean() > 0.1
    drawn = invdiff.sample(
        Cascade(stages=[SECOND], base=GaussianPrior.white(), augment=augment),
        (1, 4, 4),
        samples=3,
        batch=3,
        steps=6,
    ).samples
    later = invdiff.sample(
        Cascade(stages=[SECOND], base=GaussianPrior.white(), augment=augment), (1, 4, 4), first=2, steps=6
    ).samples
    torch.testing.assert_close(later, drawn[2:], **close)


def test_a_stage_and_its_augmentation_have_draws_of_their_own() -> None:
    """A sample of N(shown, s²) less what it is shown is noise that neither stage nor augmentation has drawn before."""

    def free(side: int) -> Affine:
        n, one = side**2, Affine.make(side, 0, augment=5.0)
        eye, zero = torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        return dataclasses.replace(one, turn=eye, shift=zero, covariance=eye)

    y, how = measured(), {"samples": 400, "batch": 400, "options": EXACT}
    first = invdiff.restore(y, whole(2, 2), free(2), **how).samples  # type: ignore[arg-type]
    found = invdiff.restore(y, whole(), Cascade(stages=[free(2), free(4)], augment=2.0), **how).samples  # type: ignore[arg-type]
    shown = first.flatten(2) @ enlarging(4).T.float()
    added = (found.flatten(2) - shown)[:, 0]
    rows = torch.cat([added, first.flatten(2)[:, 0]], dim=1).T.corrcoef()
    assert float(added.std()) == pytest.approx(5**0.5, rel=0.05)
    assert (rows - torch.eye(20)).abs().max() < 4.5 / 400**0.5


def test_consistency_holds_through_boxes() -> None:
    y, cascade = measured(2), Cascade(stages=[FIRST, SECOND])
    result = invdiff.restore(y, whole(), cascade, steps=5, samples=2, options={"consistency": True})
    torch.testing.assert_close(whole().A(result.samples.flatten(0, 1)), y.repeat(2, 1, 1, 1))
    assert not torch.isclose(
        whole().A(invdiff.restore(y, whole(), cascade, steps=5).mean), y, atol=1e-3
    ).any()


def test_any_method_that_can_treat_them_samples_the_stages() -> None:
    y, cascade = measured(), Cascade(stages=[FIRST, SECOND])
    result = invdiff.restore(y, whole(), cascade, method="ddnm", steps=5)
    assert [stage["method"] for stage in result.config["stages"]] == ["ddnm", "ddnm"]
    torch.testing.assert_close(whole().A(result.mean), y)
    with pytest.raises(RequestError, match="repaint"):
        invdiff.restore(y, whole(), cascade, method="repaint")


def test_the_result_says_what_each_stage_did() -> None:
    seen: list[Progress] = []
    cascade = Cascade(stages=[FIRST, SECOND], augment=0.25, steps=(4, 7), name="small")
    result = invdiff.restore(
        measured(2), whole(), cascade, samples=3, batch=4, callback=seen.append, profile=True
    )
    assert result.samples.shape == (3, 2, 1, 4, 4)
    assert (result.method, result.evaluations, result.config["walk"]) == ("sr3", 11, 11)
    stages = result.config["stages"]
    assert [(s["prior"], s["steps"], s["augment"], s["sizes"]) for s in stages] == [
        ("to2", 4, 0.0, [[2, 2]]),
        ("to4", 7, 0.25, [[4, 4]]),
    ]
    assert json.loads(json.dumps(result.config)) == result.config
    assert len(set(result.checksums)) == 2
    assert 0 < (result.network_seconds or 0) < result.seconds
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert {p.total for p in seen} == {66}
    assert seen[-1].done == 66
    assert [s["steps"] for s in invdiff.restore(measured(), whole(), cascade, steps=3).config["stages"]] == [
        3,
        3,
    ]


def test_samples_of_nothing_say_what_each_stage_did() -> None:
    seen: list[Progress] = []
    cascade = Cascade(stages=[FIRST, SECOND], base=GaussianPrior.white(), steps=(4, 7))
    found = invdiff.sample(cascade, (1, 4, 4), steps=5, samples=2, sigma_max=30.0, callback=seen.append)
    assert found.samples.shape == (2, 1, 4, 4)
    assert found.evaluations == found.config["walk"] == 16
    assert [stage["walk"] for stage in found.config["stages"]] == [5, 4, 7]
    assert seen[-1].done == seen[-1].total == 32
    levels = invdiff.sample(cascade, (1, 4, 4), grid=[5.0, 1.0, 0.2])
    assert [stage["walk"] for stage in levels.config["stages"]] == [3, 3, 3]


def test_a_stage_starts_at_the_most_noise_that_it_knows() -> None:
    low = dataclasses.replace(SECOND, card=dataclasses.replace(SECOND.card, sigma_max=2.0))
    cascade = Cascade(stages=[low], base=GaussianPrior.white())
    found = invdiff.sample(cascade, (1, 4, 4), steps=3, sigma_max=30.0)
    assert [stage["sigma_max"] for stage in found.config["stages"]] == [30.0, 2.0]
    with pytest.raises(RequestError, match="knows noise up to 2"):
        invdiff.restore(measured(), whole(), Cascade(stages=[FIRST, low]))


@pytest.mark.parametrize(
    ("op", "sigma_y", "said"),
    [
        (
            whole(8, 8),
            0.0,
            r"trained for super-resolution ×4 \(box\) or super-resolution ×2 \(box\).*got.*×8",
        ),
        (whole(kernel="bicubic"), 0.0, "got super-resolution ×4 .bicubic"),
        (operators.Identity((1, 4, 4)), 0.1, "got denoising"),
        (2.0 * whole(), 0.0, "expected a Downsample"),
        (whole(), 0.2, "to2 was trained for .* noise up to 0.1; got noise 0.2"),
        (whole(factor=2), 0.05, "to4 was trained for .* without noise; got noise 0.05"),
    ],
    ids=["factor", "kernel", "task", "scaled", "noise", "noise of a later stage"],
)
def test_what_no_stage_was_trained_for_is_refused(op: Any, sigma_y: float, said: str) -> None:
    y = op.A(torch.full((1, *op.in_shape), 0.5))
    with pytest.raises(RequestError, match=said):
        invdiff.restore(y, op, Cascade(stages=[FIRST, SECOND]), sigma_y=sigma_y)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"label": 3}, "label 3: no prior of cascade knows labels"),
        ({"options": {"stepz": 3}}, "stepz"),
        ({"method": "naturel"}, "unknown method"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_stage_samples(how: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        invdiff.restore(measured(), whole(), Cascade(stages=[FIRST, SECOND]), **how)


def test_without_a_base_a_cascade_needs_a_measurement() -> None:
    with pytest.raises(RequestError, match="needs a measurement or a base"):
        invdiff.sample(Cascade(stages=[FIRST, SECOND]), (1, 4, 4))
    with pytest.raises(RequestError, match="to4: factor"):
        invdiff.sample(Cascade(stages=[FIRST, SECOND], base=GaussianPrior.white()), (1, 1, 4))


def test_a_cascade_is_no_denoiser() -> None:
    with pytest.raises(InvdiffError, match=r"invdiff\.restore or invdiff\.sample"):
        Cascade(stages=[FIRST])(measured(), 0.1)
