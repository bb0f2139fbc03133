"""A classifier of noisy pictures, p(c | x_σ) in image units, for `ClassifierGuided`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from invdiff.errors import RequestError
from invdiff.priors.base import Card, per_image
from invdiff.priors.formats import native
from invdiff.priors.nets.classifier import Classifier
from invdiff.priors.network import reflect_to_multiple, resolve_device
from invdiff.priors.precondition import Precondition

IN_A_FOLDER = "classifier.safetensors"
"""The file that is meant where a folder is named: what a training run writes."""


class NoisyClassifier:
    """log p(c | x_σ) from a network's logits; x is padded by reflection to the multiple the network needs.

    The network is frozen and becomes the classifier's own; it computes in float32 and answers in x's type. The
    preconditioning says in which range and on which clock it is told x and σ; the card, its classes and channels.
    """

    def __init__(self, network: Classifier, precondition: Precondition, card: Card) -> None:
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.precondition = precondition
        self.card = dataclasses.replace(
            card, channels=network.channels, classes=network.classes, multiple=network.multiple
        )

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """log p(c | x_σ) of every class, (B, classes): x (B, C, H, W), image units; σ a number or (B,).

        ValueError for pictures of another shape.
        """
        if x.ndim != 4 or x.shape[1] != self.card.channels or 0 in x.shape[2:]:
            raise ValueError(
                f"classifier {self.card.name}: expected pictures (B, {self.card.channels}, H, W), got {tuple(x.shape)}"
            )
        given, c_noise = self.precondition.inputs(
            reflect_to_multiple(x, self.card.multiple), per_image(sigma, x)
        )
        given = given.float().contiguous(memory_format=torch.channels_last)
        return self.network(given, c_noise.float()).to(x.dtype).log_softmax(dim=1)

    def log_prob(self, label: int) -> Callable[[Tensor, Tensor], Tensor]:
        """log p(label | x_σ) as a function of x and σ, → (B,), for `ClassifierGuided`. RequestError for no label."""
        if not 0 <= label < self.card.classes:
            raise RequestError(
                f"label {label}: classifier {self.card.name} knows labels 0 to {self.card.classes - 1}"
            )
        return lambda x, sigma: self(x, sigma)[:, label]


def save_classifier(
    path: str | Path,
    network: Classifier,
    precondition: Precondition,
    card: Card,
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a classifier, its preconditioning and its card as one safetensors file, as `save_prior` does."""
    native.save_prior(path, network, precondition, card, dtype=dtype)


def load_classifier(path: str | Path, *, device: str | torch.device = "cpu") -> NoisyClassifier:
    """The classifier in a file that `save_classifier` wrote, or in the folder of a training run.

    device: auto, cpu, cuda, cuda:1, mps. RequestError for a missing, corrupt or other file.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / IN_A_FOLDER
    if not file.is_file():
        raise RequestError(
            f"classifier {path}: expected a file, or a folder with {IN_A_FOLDER}, found neither"
        )
    loaded = native.load(file, native.CLASSIFIERS)
    network = cast(Classifier, loaded.network.to(resolve_device(device)))
    return NoisyClassifier(network, loaded.precondition, loaded.card)
