"""Guidance against two Gaussian classes, whose mixture, classifier and conditional denoisers are known exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import moments
import pytest
import torch
from torch import Tensor, nn

import invdiff
from invdiff import operators
from invdiff.errors import InvdiffError, RequestError
from invdiff.likelihood import Measurement
from invdiff.methods import MMPS, PiGDM, Problem, sample
from invdiff.priors import VE, Card, FunctionPrior, GaussianPrior, NetworkPrior, Prior
from invdiff.priors.base import per_image
from invdiff.priors.guidance import ClassifierFree, ClassifierGuided, with_label

SHAPE = (1, 4, 4)
SIGMA_Y = 0.05
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
LEVELS = [0.01, 0.2, 1.0, 8.0]


def classes() -> list[GaussianPrior]:
    """One of smooth, one of white pictures; far from so different that a pixel would tell which."""
    at = torch.cartesian_prod(torch.arange(4), torch.arange(4)).double()
    smooth = GaussianPrior.correlated(0.4, 0.0625 * torch.exp(-torch.cdist(at, at) / 2))
    return [smooth, GaussianPrior.white(0.6, 0.3)]


def log_joint(x: Tensor, sigma: float | Tensor) -> Tensor:
    """log p(c, x_σ), (B, 2)."""
    return torch.stack([p.log_density(x, sigma) for p in classes()], dim=1) + WEIGHTS.log()


def log_prob_of(c: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, sigma: log_joint(x, sigma).log_softmax(dim=1)[:, c]


def mixture(card: Card | None = None) -> FunctionPrior:
    """The two classes without a label: D = Σ_c p(c | x_σ) D_c."""

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        r = log_joint(x, sigma).softmax(dim=1)
        return sum(r[:, c, None, None, None] * p(x, sigma) for c, p in enumerate(classes()))  # type: ignore[misc]

    return FunctionPrior(denoise, card or classes()[0].card)


def pictures(sigma: float = 0.2, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([p.sample((count, *SHAPE), generator) for p in classes()])
    return x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)


def jacobian(prior: Prior, x: Tensor, sigma: float) -> Tensor:
    """∂D/∂x of one picture, (n, n)."""
    leaf = x.clone().requires_grad_()
    d = prior(leaf, sigma).flatten()
    rows = [torch.autograd.grad(value, leaf, retain_graph=True)[0].flatten() for value in d]
    return torch.stack(rows)


@pytest.mark.parametrize("sigma", LEVELS)
@pytest.mark.parametrize("c", [0, 1])
def test_an_exact_classifier_at_scale_1_makes_the_class_conditional_denoiser(c: int, sigma: float) -> None:
    x = pictures(sigma)
    guided = ClassifierGuided(mixture(), log_prob_of(c))
    assert torch.allclose(guided(x, sigma), classes()[c](x, sigma), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("c", [0, 1])
def test_its_jacobian_is_that_of_the_class_conditional_denoiser(c: int) -> None:
    x = pictures(0.2)[2:3]
    guided = ClassifierGuided(mixture(), log_prob_of(c))
    found, wanted = jacobian(guided, x, 0.2), jacobian(classes()[c], x, 0.2)
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)
    plain = jacobian(mixture(), x, 0.2)
    assert (plain - wanted).norm() > 1e-3 * wanted.norm()  # so the classifier's curvature counts


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 3.0])
def test_the_classifiers_pull_is_in_proportion_to_the_scale(scale: float) -> None:
    x = pictures(0.2)
    plain, full = mixture()(x, 0.2), classes()[0](x, 0.2)
    guided = ClassifierGuided(mixture(), log_prob_of(0), scale)(x, 0.2)
    assert torch.allclose(guided, plain + scale * (full - plain), rtol=1e-10, atol=1e-10)


def test_at_scale_0_the_classifier_is_not_asked() -> None:
    def never(x: Tensor, sigma: Tensor) -> Tensor:
        raise AssertionError

    x = pictures()
    assert torch.equal(ClassifierGuided(mixture(), never, 0.0)(x, 0.2), mixture()(x, 0.2))


@pytest.mark.parametrize("scale", [-1.0, 0.5, 3.0])
def test_classifier_free_guidance_is_classifier_guidance_with_an_exact_classifier(scale: float) -> None:
    x = pictures(0.5)
    free = ClassifierFree(classes()[1], mixture(), scale)(x, 0.5)
    by_classifier = ClassifierGuided(mixture(), log_prob_of(1), scale)(x, 0.5)
    assert torch.allclose(free, by_classifier, rtol=1e-10, atol=1e-10)


class Counting:
    """A prior that counts."""

    def __init__(self, prior: Prior) -> None:
        self.prior, self.card, self.calls = prior, prior.card, 0

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.calls += 1
        return self.prior(x, sigma)


@pytest.mark.parametrize(("scale", "calls"), [(1.0, (1, 0)), (0.0, (0, 1)), (2.0, (1, 1))])
def test_at_scales_1_and_0_one_of_the_two_is_asked_alone(scale: float, calls: tuple[int, int]) -> None:
    x = pictures()
    pair = Counting(classes()[0]), Counting(mixture())
    d = ClassifierFree(*pair, scale)(x, 0.2)
    assert tuple(p.calls for p in pair) == calls
    if scale in (0, 1):
        assert torch.equal(d, pair[0 if scale else 1].prior(x, 0.2))


def test_outside_the_interval_the_conditional_denoiser_is_used_image_by_image() -> None:
    x = pictures(count=2)
    conditional, unconditional = classes()[0], mixture()
    guided = ClassifierFree(conditional, unconditional, 3.0, interval=(0.1, 0.5))
    always = ClassifierFree(conditional, unconditional, 3.0)
    sigmas = torch.tensor([0.1, 0.1001, 0.5, 0.5001], dtype=torch.float64)
    expected = [
        p(x[i : i + 1], float(sigmas[i])) for i, p in enumerate((conditional, always, always, conditional))
    ]
    together = guided(x, sigmas)
    assert torch.allclose(together, torch.cat(expected), rtol=1e-13, atol=1e-14)
    for i in range(
        4
    ):  # a number is one σ for all, and the other prior is left in peace where it is not needed
        assert torch.allclose(guided(x[i : i + 1], float(sigmas[i])), expected[i], rtol=1e-13, atol=1e-14)
    alone = Counting(unconditional)
    ClassifierFree(conditional, alone, 3.0, interval=(0.1, 0.5))(x, 0.7)
    assert alone.calls == 0


GUIDED: dict[str, Callable[[Prior], Prior]] = {
    "classifier": lambda unconditional: ClassifierGuided(unconditional, log_prob_of(0)),
    # Half of the way by each: no shortcut for scales 0 and 1 is taken.
    "both": lambda unconditional: ClassifierFree(
        classes()[0], ClassifierGuided(unconditional, log_prob_of(0)), 0.5
    ),
}


def measurement() -> tuple[operators.Mask, Tensor]:
    generator = torch.Generator().manual_seed(5)
    op = operators.Mask((torch.rand(4, 4, generator=generator) < 0.5).float(), channels=1)
    clean = op.A(classes()[0].sample((1, *SHAPE), generator))
    return op, clean + SIGMA_Y * torch.randn(clean.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", GUIDED)
@pytest.mark.parametrize("method", ["mmps", "pigdm", "dps"])
def test_restoring_with_guidance_is_restoring_with_the_class_conditional_prior(
    method: str, kind: str
) -> None:
    op, y = measurement()
    given = {"method": method, "sigma_y": SIGMA_Y, "steps": 15, "samples": 2, "batch": 2}
    wanted = invdiff.restore(y, op, classes()[0], **given).samples  # type: ignore[arg-type]
    found = invdiff.restore(y, op, GUIDED[kind](mixture()), **given).samples  # type: ignore[arg-type]
    assert torch.allclose(found, wanted, rtol=1e-7, atol=1e-7)
    without = invdiff.restore(y, op, mixture(), **given).samples  # type: ignore[arg-type]
    assert (without - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("kind", GUIDED)
def test_the_guided_posterior_mean_is_the_class_conditional_gaussians(kind: str) -> None:
    """A walk whose noise is all zero gives the samples' mean: for a Gaussian class every step is affine."""
    op, y = measurement()
    mean, covariance = moments.posterior(classes()[0], op, y, SIGMA_Y)
    problem = Problem(GUIDED[kind](mixture()), Measurement(y, op, SIGMA_Y))
    method = MMPS(steps=80, sigma_min=1e-3, iterations=16)
    found = sample(method, problem, lambda: torch.zeros(1, *SHAPE, dtype=torch.float64))
    assert (found.flatten() - mean).norm() < 2e-3 * covariance.trace().sqrt()


def test_pigdm_has_the_posterior_mean_of_a_white_class() -> None:
    white = classes()[1]
    op, y = measurement()
    mean, covariance = moments.posterior(white, op, y, SIGMA_Y)
    guided = ClassifierGuided(mixture(white.card), log_prob_of(1))
    problem = Problem(guided, Measurement(y, op, SIGMA_Y))
    noise = lambda: torch.zeros(1, *SHAPE, dtype=torch.float64)  # noqa: E731
    found = sample(PiGDM(steps=80, sigma_min=1e-3), problem, noise)
    assert (found.flatten() - mean).norm() < 2e-3 * covariance.trace().sqrt()


@pytest.mark.parametrize(
    "prior",
    [
        ClassifierGuided(mixture(), log_prob_of(0), 2.0),
        ClassifierFree(classes()[0], mixture(), 2.0, interval=(0.1, 1.0)),
    ],
    ids=["classifier", "classifier-free"],
)
def test_each_picture_of_a_batch_is_guided_as_if_alone(prior: Prior) -> None:
    x = pictures()
    sigmas = torch.tensor([0.05, 0.2, 0.3, 0.9, 1.1, 4.0], dtype=torch.float64)
    alone = [prior(x[i : i + 1], float(sigmas[i])) for i in range(len(x))]
    assert torch.allclose(prior(x, sigmas), torch.cat(alone), rtol=1e-12, atol=1e-13)
    assert not prior(x, sigmas).requires_grad


def test_a_card_is_the_wrapped_priors_with_another_name() -> None:
    first = Card(name="cats", channels=3, sigma_min=0.002, sigma_max=40.0, data_std=0.3, licence="MIT")
    second = Card(name="animals", sigma_min=0.01, sigma_max=20.0)
    halve = FunctionPrior(lambda x, sigma: x / 2, first), FunctionPrior(lambda x, sigma: x / 2, second)
    by_classifier = ClassifierGuided(halve[0], log_prob_of(0), 2.5)
    free = ClassifierFree(*halve, 1.5)
    assert isinstance(by_classifier, Prior)
    assert isinstance(free, Prior)
    assert by_classifier.card == dataclasses.replace(first, name="cats, classifier-guided 2.5")
    name = "cats over animals, classifier-free 1.5"
    assert free.card == dataclasses.replace(first, name=name, sigma_min=0.01, sigma_max=20.0)
    assert ClassifierFree(halve[1], halve[0]).card.channels == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        free.scale = 2.0  # type: ignore[misc]


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16, dtype=torch.float64))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        assert not self.training
        return nn.functional.logsigmoid(x.flatten(1) @ self.weight / (1 + sigma))


def test_a_classifier_that_is_a_module_is_frozen_and_is_given_one_sigma_for_each_picture() -> None:
    classifier = Classifier().train()
    guided = ClassifierGuided(classes()[1], classifier, 2.0)
    x = pictures().requires_grad_()
    guided(x, 0.3).sum().backward()
    assert x.grad is not None
    assert classifier.weight.grad is None
    y = x.detach().flatten(1).sum(1)
    pull = 2.0 * 0.3**2 * torch.sigmoid(-y / 1.3) / 1.3
    expected = classes()[1](x, 0.3) + pull[:, None, None, None]
    assert torch.allclose(guided(x, torch.tensor(0.3)), expected, rtol=1e-6, atol=1e-6)
    assert torch.allclose(guided(x, 0.3), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_a_scale_that_is_not_finite_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"scale: expected a finite number, got -?(nan|inf)"):
        ClassifierGuided(mixture(), log_prob_of(0), scale)
    with pytest.raises(ValueError, match=r"scale: expected a finite number, got -?(nan|inf)"):
        ClassifierFree(classes()[0], mixture(), scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_guidance_that_overflows_names_the_scale(dtype: torch.dtype) -> None:
    scale, x = torch.finfo(torch.float64).max, 1e3 * pictures().to(dtype)
    for guided in (ClassifierGuided(mixture(), log_prob_of(0), scale), ClassifierFree(*classes(), scale)):
        with pytest.raises(InvdiffError, match=r"not finite at scale 1\.79769e\+308; use a smaller scale"):
            guided(x, 3.0)


def test_a_prior_that_is_not_finite_itself_is_not_blamed_on_guidance() -> None:
    broken = FunctionPrior(lambda x, sigma: x / 0, Card(name="broken"))
    for guided in (ClassifierGuided(broken, log_prob_of(0)), ClassifierFree(classes()[0], broken, 2.0)):
        assert not guided(pictures(), 0.2).isfinite().any()


@pytest.mark.parametrize(
    ("wrong", "came"),
    [
        (lambda x, sigma: x.flatten(1), r"\(6, 16\)"),
        (lambda x, sigma: x.sum(), r"\(\)"),
        (lambda x, sigma: x.flatten(1).sum(1, keepdim=True), r"\(6, 1\)"),
        (lambda x, sigma: 0.5, "float"),
    ],
)
def test_a_log_prob_of_another_shape_is_told_with_both_shapes(wrong: object, came: str) -> None:
    guided = ClassifierGuided(mixture(), wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"log_prob: expected .* \(6,\), got {came}"):
        guided(pictures(), 0.2)


def test_a_log_prob_without_a_gradient_is_refused() -> None:
    guided = ClassifierGuided(mixture(), lambda x, sigma: per_image(sigma, x))
    with pytest.raises(InvdiffError, match="log_prob cannot be differentiated"):
        guided(pictures(), 0.2)


@pytest.mark.parametrize("interval", [(0.5, 0.1), (0.5, 0.5), (-0.1, 0.5), (float("nan"), 1.0), (0.1,)])
def test_an_interval_that_is_none_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="interval: expected two σ, 0 ≤ low < high, got"):
        ClassifierFree(classes()[0], mixture(), 2.0, interval)


def test_priors_of_different_pictures_are_refused() -> None:
    grey, colour = (FunctionPrior(lambda x, s: x, Card(name=f"of {n}", channels=n)) for n in (1, 3))
    with pytest.raises(ValueError, match=r"of 1 with 1 channels and of 3 with 3$"):
        ClassifierFree(grey, colour)


def test_what_is_no_prior_is_refused_with_what_to_do() -> None:
    function = lambda x, sigma: x  # noqa: E731
    with pytest.raises(ValueError, match="prior: expected a prior with a card, got function; load_prior"):
        ClassifierGuided(function, log_prob_of(0))  # type: ignore[arg-type]
    for pair, name in (((function, mixture()), "conditional"), ((mixture(), function), "unconditional")):
        with pytest.raises(ValueError, match=f"^{name}: expected a prior"):
            ClassifierFree(*pair)  # type: ignore[arg-type]


class Labelled(nn.Module):
    """F(z, c_noise, labels) = label/10, the label 3 being none."""

    def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
        return (labels.to(z.dtype) / 10).view(-1, 1, 1, 1).expand_as(z)


def labelled() -> NetworkPrior:
    return NetworkPrior(Labelled(), VE(prediction="x0", black=0.0), Card(name="three", classes=3))


def test_a_label_gives_the_prior_of_a_class_and_guidance_goes_beyond_it() -> None:
    x = torch.rand(2, 1, 4, 4)
    prior = labelled()
    assert with_label(prior, None) is prior
    for label, guidance, expected in ((None, 1.0, 0.3), (2, 1.0, 0.2), (1, 2.0, -0.1), (0, 0.0, 0.3)):
        found = with_label(prior, label, guidance)(x, 0.5)
        torch.testing.assert_close(found, torch.full_like(x, expected))


@pytest.mark.parametrize(
    ("label", "guidance", "said"),
    [
        (3, 1.0, "label 3: prior three knows labels 0 to 2"),
        (-1, 1.0, "labels 0 to 2"),
        (None, 2.0, "guidance 2: needs a label"),
        (1, float("inf"), "guidance: expected a finite number"),
        (True, 1.0, "label: expected a whole number"),
    ],
)
def test_a_label_the_prior_does_not_have_is_refused(label: int | None, guidance: float, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        with_label(labelled(), label, guidance)


def test_a_label_for_what_knows_none_is_refused() -> None:
    with pytest.raises(RequestError, match="knows no labels"):
        with_label(classes()[0], 0)
    with pytest.raises(RequestError, match="no network that is told labels"):
        with_label(mixture(Card(name="two", classes=2)), 0)
