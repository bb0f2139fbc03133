"""A classifier of noisy pictures: log-probabilities that add up, gradients, files, and guidance with it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.priors import EDM, VP, Card, ClassifierGuided, NetworkPrior, load_prior, save_prior
from invdiff.priors.classifier import NoisyClassifier, load_classifier, save_classifier
from invdiff.priors.files import read_about, tensors_to_bytes
from invdiff.priors.nets.classifier import Classifier
from invdiff.priors.nets.unet import UNet

Make = Callable[..., Tensor]
CARD = Card(name="digits", summary="Digits or not.", classes=4)


def tiny(**shape: Any) -> Classifier:
    return Classifier(**{"classes": 4, "widths": [8, 16], "blocks": [1, 1], "embedding": 16, **shape})


@pytest.fixture
def make(randomised: Callable[..., Any]) -> Callable[..., Classifier]:
    return lambda **shape: randomised(tiny(**shape))


@pytest.fixture
def classifier(make: Callable[..., Classifier]) -> NoisyClassifier:
    return NoisyClassifier(make(), EDM(), CARD)


@pytest.mark.parametrize("shape", [{}, {"attention": [0, 1]}])
def test_a_new_classifier_finds_all_classes_as_likely(pictures: Make, shape: dict[str, Any]) -> None:
    answer = NoisyClassifier(tiny(**shape), EDM(), CARD)(pictures(2, 3, 8, 8), 0.3)
    assert answer.shape == (2, 4)
    assert (answer + math.log(4)).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (7, 9), (1, 1)])
def test_probabilities_add_up_to_one_at_any_size(
    classifier: NoisyClassifier, pictures: Make, size: tuple[int, int]
) -> None:
    answer = classifier(pictures(2, 3, *size), torch.tensor([0.1, 3.0]))
    assert (answer.exp().sum(dim=1) - 1).abs().max() < 1e-6
    assert answer.std(dim=1).min() > 0.01


def test_log_prob_is_the_column_of_its_label(classifier: NoisyClassifier, pictures: Make) -> None:
    x, sigma = pictures(2, 3, 8, 8), torch.tensor([0.1, 3.0])
    for label in range(4):
        assert torch.equal(classifier.log_prob(label)(x, sigma), classifier(x, sigma)[:, label])
    for label in (-1, 4):
        with pytest.raises(RequestError, match=f"label {label}: classifier digits knows labels 0 to 3"):
            classifier.log_prob(label)


def test_the_noise_level_and_the_picture_change_the_answer(
    classifier: NoisyClassifier, pictures: Make
) -> None:
    x = pictures(2, 3, 8, 8)
    assert (classifier(x, 0.1) - classifier(x, 3.0)).abs().mean() > 0.01
    assert (classifier(x, 0.1)[0] - classifier(x, 0.1)[1]).abs().mean() > 0.001


def test_the_network_is_told_what_its_preconditioning_says(
    make: Callable[..., Classifier], pictures: Make
) -> None:
    network, vp, x = make().double(), VP(scale=0.001), pictures(2, 3, 8, 8)
    told: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, given: told.extend(given))
    NoisyClassifier(network.float(), vp, CARD)(x, 0.5)  # σ = 1 in [-1, 1]
    assert (told[0] - (2 * x - 1) / 2**0.5).abs().max() < 1e-6
    assert (told[1] - vp.time(torch.tensor([1.0, 1.0]))).abs().max() < 1e-6


def test_each_picture_is_classified_as_if_alone(make: Callable[..., Classifier], pictures: Make) -> None:
    network = make(attention=[1], dropout=0.3).double().eval()
    x, t = pictures(3, 3, 8, 12, dtype=torch.float64), torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    for i in range(3):
        assert (network(x, t)[i] - network(x[i : i + 1], t[i : i + 1])[0]).abs().max() < 1e-12


@pytest.mark.parametrize("shape", [{}, {"attention": [1]}])
def test_it_can_be_differentiated_twice(
    make: Callable[..., Classifier], pictures: Make, shape: dict[str, Any]
) -> None:
    network = make(channels=1, **shape).double().eval().requires_grad_(False)
    x, t = pictures(1, 1, 4, 4, dtype=torch.float64).requires_grad_(), torch.zeros(1).double()
    assert torch.autograd.gradcheck(lambda z: network(z, t), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda z: network(z, t), (x,), fast_mode=True)


def test_dropout_acts_in_training_alone(make: Callable[..., Classifier], pictures: Make) -> None:
    dropping, x, t = make(dropout=0.5), pictures(2, 3, 8, 8), torch.zeros(2)
    kept = make()(x, t)
    assert torch.equal(dropping.eval()(x, t), kept)
    torch.manual_seed(0)
    assert (dropping.train()(x, t) - kept).abs().mean() > 0.01


def test_every_weight_is_trained(make: Callable[..., Classifier], pictures: Make) -> None:
    network = make(attention=[1])
    network(pictures(4, 3, 8, 8), torch.randn(4)).square().sum().backward()
    idle = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []


def test_it_learns_to_tell_bright_from_dark_under_noise(pictures: Make) -> None:
    torch.manual_seed(0)
    network, precondition = tiny(classes=2, channels=1), EDM()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)

    def draw(count: int) -> tuple[Tensor, Tensor, Tensor]:
        labels = torch.randint(2, (count,))
        sigma = 0.1 + torch.rand(count)
        x = (0.2 + 0.6 * labels)[:, None, None, None] + sigma[:, None, None, None] * torch.randn(
            count, 1, 8, 8
        )
        return x, sigma, labels

    for _ in range(60):
        x, sigma, labels = draw(64)
        loss = torch.nn.functional.cross_entropy(network(*precondition.inputs(x, sigma)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, sigma, labels = draw(256)
    classifier = NoisyClassifier(network, precondition, CARD)
    assert classifier.card.classes == 2
    assert (classifier(x, sigma).argmax(dim=1) == labels).float().mean() > 0.9


def test_guidance_moves_the_denoised_picture_along_its_gradient(
    prior: NetworkPrior, classifier: NoisyClassifier, pictures: Make
) -> None:
    x, sigma = pictures(2, 3, 8, 8), torch.tensor([0.2, 0.7])
    guided = ClassifierGuided(prior, classifier.log_prob(2), scale=3.0)(x, sigma)
    at = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(classifier.log_prob(2)(at, sigma).sum(), at)
    assert (guided - prior(x, sigma) - 3 * sigma[:, None, None, None] ** 2 * score).abs().max() < 1e-6
    assert score.abs().max() > 1e-3


def test_double_pictures_are_answered_in_double(classifier: NoisyClassifier, pictures: Make) -> None:
    x = pictures(1, 3, 8, 8)
    answer = classifier(x.double(), 0.3)
    assert answer.dtype == torch.float64
    assert (answer - classifier(x, 0.3)).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 0, 8)])
def test_pictures_of_another_shape_are_refused(classifier: NoisyClassifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"classifier digits: expected pictures \(B, 3, H, W\)"):
        classifier(torch.zeros(shape), 0.1)


def test_it_comes_back_from_its_file_with_its_card(
    tmp_path: Path, make: Callable[..., Classifier], pictures: Make
) -> None:
    network, x = make(attention=[1], dropout=0.1), pictures(2, 3, 8, 8)
    before = NoisyClassifier(network, VP(scale=0.001), CARD)
    file = tmp_path / "classifier.safetensors"
    save_classifier(file, network, VP(scale=0.001), CARD, dtype=torch.float32)
    for source in (file, str(tmp_path)):
        after = load_classifier(source)
        assert torch.equal(after(x, 0.3), before(x, 0.3))
        assert (after.card.name, after.card.summary, after.card.classes) == ("digits", "Digits or not.", 4)
        assert (after.card.channels, after.card.multiple, len(after.card.checksum)) == (3, 4, 64)
    assert read_about(file)["network"]["kind"] == "classifier"
    save_classifier(file, network, VP(scale=0.001), CARD)
    assert (load_classifier(file)(x, 0.3) - before(x, 0.3)).abs().max() < 0.01


def test_a_prior_is_no_classifier_and_a_classifier_no_prior(
    tmp_path: Path, make: Callable[..., Classifier], network: UNet
) -> None:
    save_classifier(tmp_path / "c.safetensors", make(), EDM(), CARD)
    save_prior(tmp_path / "p.safetensors", network, EDM(), Card(name="tiny"))
    with pytest.raises(RequestError, match=r"c\.safetensors: holds a classifier, expected unet or dit"):
        load_prior(tmp_path / "c.safetensors")
    with pytest.raises(RequestError, match=r"p\.safetensors: holds a unet, expected classifier"):
        load_classifier(tmp_path / "p.safetensors")


def test_a_missing_a_truncated_and_a_mismatched_file_are_named(
    tmp_path: Path, make: Callable[..., Classifier]
) -> None:
    with pytest.raises(RequestError, match=r"nowhere\.safetensors: expected a file, or a folder with"):
        load_classifier(tmp_path / "nowhere.safetensors")
    with pytest.raises(RequestError, match="expected a file, or a folder with"):
        load_classifier(tmp_path)
    file, network = tmp_path / "c.safetensors", make()
    save_classifier(file, network, EDM(), CARD)
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(RequestError, match=r"c\.safetensors"):
        load_classifier(file)
    file.write_bytes(whole)
    about = json.dumps(read_about(file))
    tensors = {**network.state_dict(), "head.bias": torch.zeros(5)}
    file.write_bytes(tensors_to_bytes(tensors, {"invdiff": "1", "about": about}))
    with pytest.raises(RequestError, match=r"head\.bias: expected \(4,\), got \(5,\)"):
        load_classifier(file)


@pytest.mark.parametrize("shape", [{}, {"attention": [1]}, {"widths": [32], "blocks": [3]}])
def test_the_bound_on_the_weights_is_below_and_not_far_below(shape: dict[str, Any]) -> None:
    network = tiny(**{"widths": [32, 64], **shape})
    weights = sum(value.numel() for value in network.parameters())
    assert 0.6 * weights < Classifier.weights_at_least(**network.config) <= weights


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"classes": 0}, "Classifier: expected positive numbers"),
        ({"blocks": [1]}, "a width for each number of blocks"),
        ({"attention": [3]}, "levels from 0"),
        ({"dropout": 2.0}, "dropout: expected a share"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**shape)
