"""Conditional networks: D(x, σ; y), trained to be shown the measurement (SR3, Palette and their relatives).

What is shown of y is a picture of x's size (`picture_of`), beside x in channels of its own. With its measurement in
place (`seeing`) such a network is a prior as any other, D(x, σ), that every method and every integrator can walk.
Sources: Saharia et al. 2021, arXiv:2104.07636 (SR3); Saharia et al. 2022, arXiv:2111.05826 (Palette).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff import catalog, config
from invdiff.errors import InvdiffError, RequestError
from invdiff.operators import (
    OPERATORS,
    BlurDownsample,
    Composed,
    Downsample,
    LinearOperator,
    Mask,
    Operator,
    PerImage,
    PhaseRetrieval,
    Scaled,
)
from invdiff.operators.compose import Stacked
from invdiff.priors.base import Card, Condition, Prior, per_image
from invdiff.priors.fit import fitted
from invdiff.priors.formats import native
from invdiff.priors.formats.base import looks_like_safetensors
from invdiff.priors.guidance import ClassifierFree
from invdiff.priors.network import NetworkPrior, reflect_to_multiple


@runtime_checkable
class Sees(Prior, Protocol):
    """D(x, σ; y) as D(x, σ), with a measurement for each row of x."""

    @property
    def centre(self) -> Tensor | None:
        """(B, C, H, W), image units: what x₀ lies around, the card's data_std away; None where that is not known."""
        ...

    def pick(self, images: Sequence[int]) -> Self:
        """That of a batch made of these images."""
        ...


@runtime_checkable
class ConditionalPrior(Protocol):
    """What must be shown a measurement: a card whose `condition` is not None, and `seeing`."""

    @property
    def card(self) -> Card: ...

    def seeing(self, y: Tensor, operator: Operator, sigma_y: float = 0.0, *, guidance: float = 1.0) -> Sees:
        """D(x, σ; y) as D(x, σ): y (B, *out_shape), row i of x belongs to row i of y.

        RequestError for a measurement that it was not trained for.
        """
        ...


class ConditionalNetwork(NetworkPrior):
    """F([x, shown], c_noise) with its preconditioning as D(x, σ; y); see `NetworkPrior`.

    Shown is, in the network's range [-1, 1]: what `picture_of` makes of y; with `condition.mask` a channel that is 1
    where pixels were observed and -1 elsewhere; with `condition.augment` one that holds twice the σ of the noise that
    was added to the picture. Shown nothing, all of it is 0.
    """

    @property
    def condition(self) -> Condition:
        condition = self.card.condition
        if condition is None:
            raise TypeError(f"prior {self.card.name}: expected a conditional network's card")
        return condition

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """D(x, σ), shown nothing. InvdiffError where it was always shown something in training."""
        if not self.condition.dropout:
            raise InvdiffError(needs_a_measurement(self.card))
        self._check(x)
        shown = x.new_zeros(len(x), self.condition.channels(x.shape[1]), *x.shape[2:])
        return self.shown(x, shown, sigma)

    def shown(self, x: Tensor, shown: Tensor, sigma: float | Tensor) -> Tensor:
        """D(x, σ; y), x and D (B, C, H, W), of what is shown of y, (B, K, H, W), in [-1, 1]."""
        height, width = x.shape[-2:]
        sigmas = per_image(sigma, x)
        padded = reflect_to_multiple(torch.cat([x, shown], dim=1), self.card.multiple)
        z, beside = padded[:, : x.shape[1]], padded[:, x.shape[1] :]
        centre = centre_of(self.condition, beside, x.shape[1])
        given, c_noise = self.precondition.inputs(z - centre, sigmas)
        if self._one_row and not isinstance(sigma, Tensor):
            c_noise = c_noise[:1]
        output = self._network(torch.cat([given, beside.to(given)], dim=1), c_noise).to(x.dtype)
        denoised = centre + self.precondition.denoised(z - centre, sigmas, output)
        return denoised[..., :height, :width]

    def seeing(
        self,
        y: Tensor,
        operator: Operator,
        sigma_y: float = 0.0,
        *,
        guidance: float = 1.0,
        augment: float = 0.0,
        noise: Tensor | None = None,
        memory: int | None = None,
    ) -> Seeing:
        """D(x, σ; y) as D(x, σ), made to fit pictures of operator.in_shape; see `ConditionalPrior`.

        guidance: D_nothing + guidance·(D_y − D_nothing) (Ho & Salimans 2022), of a network trained with dropout.
        augment: σ of the noise in what it is shown, which it is told, of a network trained with it. noise: standard
        normal, (B, *in_shape), to add there `augment` times, as in training; None: y has it already.
        """
        condition, card = self.condition, self.card
        check_task(card.name, condition, operator, sigma_y)
        if card.channels not in (None, operator.in_shape[0]):
            raise RequestError(
                f"prior {card.name}: expected pictures of {card.channels} channels, got {operator.in_shape[0]}"
            )
        catalog.check_label(card.name, card.classes, None, guidance, condition.dropout)
        if not 0 <= augment <= condition.augment:
            raise RequestError(
                f"augment: prior {card.name} knows noise on what it is shown up to {condition.augment:g}, got {augment}"
            )
        shown = shown_of(condition, y, operator, y.new_full((len(y),), augment))
        if noise is not None:
            shown[:, : operator.in_shape[0]] += 2 * augment * noise.to(shown)
        joint: Prior = Joint(self)
        if guidance != 1:
            joint = ClassifierFree(joint, Joint(self, told=False), guidance)
        _, height, width = operator.in_shape
        joint = fitted(joint, (operator.in_shape[0] + shown.shape[1], height, width), memory=memory)
        return Seeing(joint, shown, card, operator.in_shape[0])


@dataclass(frozen=True, eq=False)
class Joint:
    """[x, shown] → [D(x, σ; y), shown]: a conditional network as a prior of pictures with more channels.

    What splits pictures into windows or pads them then does so to both. told: False shows it nothing instead.
    """

    prior: ConditionalNetwork
    told: bool = True

    @property
    def card(self) -> Card:
        card = self.prior.card
        return dataclasses.replace(card, channels=(card.channels or 3) + self.noiseless)

    @property
    def halo(self) -> int | None:
        return self.prior.halo

    @property
    def noiseless(self) -> int:
        """Channels of what it is shown."""
        return self.prior.condition.channels(self.prior.card.channels or 3)

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        channels = self.prior.card.channels or 3
        x, shown = x[:, :channels], x[:, channels:]
        seen = shown if self.told else torch.zeros_like(shown)
        return torch.cat([self.prior.shown(x, seen, sigma), shown], dim=1)


@dataclass(frozen=True, eq=False)
class Seeing:
    """A conditional prior with the measurement it sees: D(x, σ; y) as D(x, σ); row i of x belongs to row i of shown."""

    prior: Prior
    """Of [x, shown]."""
    shown: Tensor
    """(B, K, H, W), in [-1, 1]."""
    card: Card
    """The conditional network's."""
    channels: int
    """Of x."""

    @property
    def centre(self) -> Tensor | None:
        """See `Sees`."""
        condition = self.card.condition
        if condition is None or not condition.residual:
            return None
        return (self.shown[:, : self.channels] + 1) / 2

    def pick(self, images: Sequence[int]) -> Seeing:
        """That of a batch made of these images."""
        return dataclasses.replace(self, shown=self.shown[list(images)])

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if len(x) != len(self.shown):
            raise ValueError(
                f"prior {self.card.name}: sees {len(self.shown)} measurements, expected as many pictures, got {len(x)}"
            )
        return self.prior(torch.cat([x, self.shown.to(x)], dim=1), sigma)[:, : self.channels]


# ------------------------------------------------------------------------------------------------ what is shown


def centre_of(condition: Condition, shown: Tensor, channels: int) -> Tensor | float:
    """What is taken from x before the network sees it, in image units: the picture it is shown, less mid-grey; or 0.

    The residual x₀ − picture then lies around mid-grey, which is 0 in the network's range.
    """
    return shown[:, :channels] / 2 if condition.residual else 0.0


def shown_of(condition: Condition, y: Tensor, operator: Operator, augment: Tensor) -> Tensor:
    """(B, K, H, W), in [-1, 1]: what a network is shown of y (B, *out_shape). augment: the σ it is told, (B,)."""
    _, height, width = operator.in_shape
    parts = [2 * picture_of(operator, y) - 1]
    if condition.mask:
        parts.append((2 * _observed(operator, y) - 1).expand(len(y), 1, height, width))
    if condition.augment:
        parts.append((2 * augment.to(y))[:, None, None, None].expand(len(y), 1, height, width))
    return torch.cat(parts, dim=1)


def picture_of(operator: Operator, y: Tensor) -> Tensor:
    """y (B, *out_shape) as pictures (B, *in_shape), image units: what a conditional network is shown of it.

    Fewer pixels are enlarged (bicubic, as in SR3); what a mask has lost is grey; one channel stands for all; what a
    blur has lost at the borders is continued; of other linear measurements it is the pseudo-inverse. RequestError for
    one that is no picture and not linear.
    """
    channels, height, width = operator.in_shape
    if isinstance(operator, PerImage):
        return torch.cat([picture_of(operator.pick([i]), y[i : i + 1]) for i in range(len(y))])
    if isinstance(operator, Scaled):
        return picture_of(operator.part, y / operator.factor)
    if isinstance(operator, Composed):
        return picture_of(operator.inner, picture_of(operator.outer, y))
    if isinstance(operator, Mask):
        return torch.where(operator.keep.to(y.device), y, 0.5)
    if isinstance(operator, Downsample):
        return _placed(_enlarged(y, operator.factor), height, width)
    if isinstance(operator, BlurDownsample):
        _, rows, columns = operator.blur.out_shape
        return _placed(_placed(_enlarged(y, operator.factor), rows, columns), height, width)
    if y.ndim == 4 and y.shape[1] in (1, channels) and not isinstance(operator, PhaseRetrieval):
        fewer = height / y.shape[2], width / y.shape[3]
        y = y.expand(-1, channels, -1, -1)
        if min(fewer) >= 1.5:
            return F.interpolate(y, size=(height, width), mode="bicubic")
        if min(fewer) >= 1:
            return _placed(y, height, width)
    if isinstance(operator, LinearOperator):
        return operator.A_dagger(y)
    raise RequestError(
        f"a conditional network must be shown a picture, and {operator.describe()} measures none; expected a picture, "
        "or a linear operator"
    )


def _enlarged(y: Tensor, factor: int) -> Tensor:
    return F.interpolate(y, size=(factor * y.shape[2], factor * y.shape[3]), mode="bicubic")


def _placed(y: Tensor, height: int, width: int) -> Tensor:
    """(B, C, H, W) cut on the right and at the bottom, and continued evenly all around, to this height and width."""
    y = y[..., :height, :width]
    rows, columns = height - y.shape[2], width - y.shape[3]
    return F.pad(y, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), mode="replicate")


def hides(operator: Operator) -> bool:
    """Whether some pixels are not observed, which a network should be told."""
    return isinstance(operator, Mask) or (
        isinstance(operator, PerImage) and any(isinstance(part, Mask) for part in operator.parts)
    )


def _observed(operator: Operator, y: Tensor) -> Tensor:
    """Which pixels a mask keeps, the mean over its channels: (1 or B, 1, H, W); 1 for other operators."""
    if isinstance(operator, PerImage):
        return torch.cat([_observed(part, y[:1]) for part in operator.parts])
    if isinstance(operator, Mask):
        return operator.keep.to(y).mean(dim=0)[None, None]
    return y.new_ones(1, 1, *operator.in_shape[1:])


# ------------------------------------------------------------------------------------------------ what it is for


def task_of(operator: Operator) -> str:
    """What an operator does, without what may vary within a family (which pixels, how wide, what quality).

    A spec says the same of the operator to be, without torch (`Spec.task`).
    """
    if isinstance(operator, PerImage):
        return " or ".join(dict.fromkeys(task_of(part) for part in operator.parts))
    if isinstance(operator, Downsample):
        edges = ", reflect" if operator.edges == "reflect" else ""
        return catalog.enlargement(operator.factor, f"{operator.kernel}{edges}")
    if isinstance(operator, BlurDownsample):
        return catalog.enlargement(operator.factor, "blurred")
    if isinstance(operator, Scaled):
        return task_of(operator.part)
    if isinstance(operator, Composed):
        return catalog.one_after_another([task_of(operator.inner), task_of(operator.outer)])
    if isinstance(operator, Stacked):
        return catalog.together([task_of(part) for part in operator.parts])
    for name, words in catalog.OPERATOR_TASKS.items():
        if isinstance(operator, OPERATORS[name]):
            return words
    return type(operator).__name__


def check_task(name: str, condition: Condition | None, operator: Operator, sigma_y: float) -> None:
    """RequestError where a conditional network was not trained for such measurements, with those it was trained for."""
    if condition is not None:
        for part in operator.parts if isinstance(operator, PerImage) else (operator,):
            catalog.check_trained(name, condition.tasks, condition.noise, task_of(part), sigma_y)


def condition_of(prior: object) -> tuple[str, Condition | None]:
    """A prior's name and what it must be shown, as far as that can be said before any weight is loaded.

    prior: as `load_prior` takes it. RequestError where its file says that it is one of ours and cannot be read.
    """
    card = getattr(prior, "card", None)
    if isinstance(card, Card):
        return card.name, card.condition
    if not isinstance(prior, (str, Path)):
        return getattr(prior, "__name__", type(prior).__name__), None
    known = catalog.PRIORS.get(str(prior))
    if known is not None and not (known.tasks and known.path.is_file()):
        return known.name, Condition(tasks=known.tasks, noise=known.noise) if known.tasks else None
    path = known.path if known is not None else Path(prior).expanduser()
    path = path / "prior.safetensors" if path.is_dir() else path
    if not (path.is_file() and looks_like_safetensors(path) and native.is_native(path)):
        return str(prior), None
    about = native.read_about(path)["card"]
    given = about.get("condition")
    return str(about.get("name", prior)), config.build(Condition, given, f"{path}: card") if given else None


def needs_a_measurement(card: Card) -> str:
    """One line for where a conditional network was asked without y."""
    condition = card.condition
    return catalog.needs_a_measurement(
        card.name, condition.tasks if condition else (), condition.noise if condition else 0.0
    )
