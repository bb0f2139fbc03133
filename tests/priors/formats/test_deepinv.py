"""deepinv's denoisers: D(x, σ) is their own forward's, before any clipping."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from invdiff import load_prior
from invdiff.errors import RequestError
from invdiff.priors import FunctionPrior, NetworkPrior
from tests.priors.formats.conftest import randomise

deepinv = pytest.importorskip("deepinv")

SMALL = {
    "pretrained": None,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "img_resolution": 16,
}


def pictures(side: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("channels", [1, 3])
def test_drunet_is_its_forward_at_any_size_and_its_card_says_how_far_it_sees(channels: int) -> None:
    denoiser = deepinv.models.DRUNet(channels, channels, nc=(4, 4, 8, 8), nb=1, pretrained=None)
    randomise(denoiser)
    prior = load_prior(denoiser)
    for side, sigma in ((32, 0.1), (19, torch.tensor([0.05, 0.2]))):
        x = pictures(side, channels)
        assert torch.equal(prior(x, sigma), denoiser(x, sigma))
    card = prior.card
    assert (card.name, card.format, card.channels) == ("DRUNet", "deepinv DRUNet", channels)
    assert card.sigma_max == pytest.approx(50 / 255)
    assert load_prior(denoiser, options={"sigma_max": 0.1}).card.sigma_max == 0.1
    assert not any(value.requires_grad for value in denoiser.parameters())


@pytest.mark.parametrize("kind", ["ncsn", "ddpm", "ADMUNet"])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("classes", [0, 4])
def test_edm_networks_are_their_forward_with_labels_and_without(
    kind: str, centred: bool, classes: int
) -> None:
    how: dict[str, Any] = {
        **SMALL,
        "_was_trained_on_minus_one_one": centred,
        "label_dim": classes,
        "pixel_std": 0.6,
    }
    if kind == "ADMUNet":
        denoiser = deepinv.models.ADMUNet(**how)
    else:
        denoiser = deepinv.models.NCSNpp(model_type=kind, **how)
    randomise(denoiser)
    prior = load_prior(denoiser, precision="float32")
    assert isinstance(prior, NetworkPrior)
    assert (prior.card.size, prior.card.classes, prior.card.channels) == (16, classes, 3)
    x = pictures()
    for sigma in (0.01, 0.5, 20.0):
        for label in (None, 0, 3) if classes else (None,):
            among = torch.zeros(2, classes)
            if label is not None:
                among[:, label] = 1
            told = {"class_labels": among} if classes else {}
            theirs = denoiser(x, sigma, **told)
            torch.testing.assert_close(
                prior.given(label)(x, sigma), theirs, rtol=1e-5, atol=1e-5 * (1 + sigma)
            )


class Smaller(deepinv.models.DiffUNet):
    """deepinv's DiffUNet has 90 million weights; this is it with its levels' blocks replaced by a convolution."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.in_channels, self.img_size, self.dtype = 3, 256, torch.float32
        self.layer = torch.nn.Conv2d(3, 6, 3, padding=1)
        sequences = self.get_alpha_prod()[-2:]
        self.register_buffer("sqrt_1m_alphas_cumprod", sequences[0])
        self.register_buffer("sqrt_alphas_cumprod", sequences[1])

    def forward_diffusion(self, x: Any, timesteps: Any, y: Any = None) -> Any:
        return self.layer(x) * (1 + timesteps.float()[:, None, None, None] / 1000).sqrt()


Smaller.__name__ = "DiffUNet"


def test_diffunet_is_its_forward_at_its_own_levels_but_for_the_clipping() -> None:
    denoiser = randomise(Smaller())
    prior = load_prior(denoiser, precision="float32")
    assert isinstance(prior, NetworkPrior)
    assert (prior.card.size, prior.card.multiple) == (256, 32)
    x = pictures(256)
    outside = 0
    for t in (0, 300, 800):
        sigma = prior.precondition.levels[t]
        ours, theirs = prior(x, sigma), denoiser(x, sigma)
        torch.testing.assert_close(ours.clamp(0, 1), theirs, rtol=1e-4, atol=1e-5 * (1 + sigma))
        outside += int((ours != ours.clamp(0, 1)).sum())
    assert outside


@pytest.mark.slow
def test_the_real_diffunet_has_the_parts_the_one_above_pretends_to() -> None:
    denoiser = deepinv.models.DiffUNet(pretrained=None)
    prior = load_prior(denoiser, precision="float32", options={"size": None})
    x = pictures(32)[:1]
    sigma = prior.precondition.levels[300]  # type: ignore[attr-defined]
    torch.testing.assert_close(prior(x, sigma).clamp(0, 1), denoiser(x, sigma), rtol=1e-4, atol=1e-5)


def test_a_wrapped_score_model_is_not_clipped_and_the_user_s_own_stays_as_it_was() -> None:
    def epsilon(z: torch.Tensor, t: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        return (3 * z,)

    wrapped = deepinv.models.ScoreModelWrapper(
        epsilon, sigma_t=lambda t: 10 * torch.as_tensor(t), variance_preserving=True
    )
    prior = load_prior(wrapped)
    assert isinstance(prior, FunctionPrior)
    x = pictures()
    ours, clipped = prior(x, 0.5), wrapped(x, 0.5)
    assert (ours < 0).any()
    torch.testing.assert_close(ours.clamp(0, 1), clipped)


def test_a_denoiser_that_does_not_know_sigma_says_so() -> None:
    card = load_prior(deepinv.models.MedianFilter(kernel_size=3)).card
    assert card.format == "deepinv MedianFilter, blind"
    assert "σ" in card.summary


def test_a_misspelt_option_is_named() -> None:
    with pytest.raises(
        RequestError, match=r"MedianFilter: unknown option sigma_mx\. Did you mean 'sigma_max'"
    ):
        load_prior(deepinv.models.MedianFilter(kernel_size=3), options={"sigma_mx": 1})
