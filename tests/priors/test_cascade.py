"""Cascades: what they are made of, what they can be shown, their files, and the noise that a network is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import invdiff
from invdiff import catalog, operators
from invdiff.errors import RequestError
from invdiff.priors import (
    EDM,
    Card,
    Cascade,
    Condition,
    ConditionalNetwork,
    GaussianPrior,
    load_prior,
    save_prior,
)
from invdiff.priors.conditional import condition_of, picture_of, task_of

BICUBIC = "super-resolution ×2 (bicubic)"


@pytest.fixture
def stage(make_network: Callable[..., Any]) -> Callable[..., ConditionalNetwork]:
    """stage(name, task, **condition): a tiny network that sees y, of random weights."""

    def make(name: str = "tiny", task: str = BICUBIC, seed: int = 0, **condition: Any) -> ConditionalNetwork:
        given = Condition(tasks=(task,), **condition)
        card = Card(name=name, channels=3, condition=given, checksum=name)
        return ConditionalNetwork(make_network(seed, condition=given.channels(3)), EDM(), card)

    return make


@pytest.fixture
def folder(tmp_path: Path, make_network: Callable[..., Any]) -> Path:
    """Two stages, a base and two cascades of them, as files; the stages in a folder of their own."""
    (tmp_path / "parts").mkdir()
    for seed, (name, augment) in enumerate({"first": 0.0, "second": 0.2}.items()):
        given = Condition(tasks=(BICUBIC,), augment=augment)
        network = make_network(seed, condition=given.channels(3))
        card = Card(name=name, channels=3, condition=given)
        save_prior(tmp_path / "parts" / f"{name}.safetensors", network, EDM(), card, dtype=torch.float32)
    save_prior(tmp_path / "base.safetensors", make_network(2), EDM(), Card(name="small", channels=3))
    (tmp_path / "large.yaml").write_text(
        "cascade:\n  stages: [parts/first.safetensors, parts/second.safetensors]\n"
        "  base: base.safetensors\n  augment: 0.1\n  steps: [2, 3]\n"
    )
    return tmp_path


def test_what_can_be_measured_is_said_for_every_stage_that_it_may_go_into(stage: Any) -> None:
    cascade = Cascade(
        stages=[
            stage("a", "super-resolution ×4 (box)", noise=0.1),
            stage("b", "super-resolution ×3 (bicubic, reflect)"),
            stage("c"),
        ],
        name="abc",
    )
    assert cascade.tasks == (
        "super-resolution ×24 (box)",
        "super-resolution ×6 (bicubic, reflect)",
        "super-resolution ×2 (bicubic)",
    )
    assert condition_of(cascade) == ("abc", cascade.condition)
    assert cascade.card.name == "abc"
    assert cascade.card.channels == 3
    assert cascade.card.checksum not in ("", Cascade(stages=cascade.stages[1:], name="abc").card.checksum)


@pytest.mark.parametrize("kernel", ["box", "bicubic", "lanczos"])
@pytest.mark.parametrize("edges", ["renormalise", "reflect"])
def test_a_stages_operator_is_that_of_its_task(kernel: Any, edges: Any, stage: Any) -> None:
    op = operators.Downsample(3, (3, 18, 15), kernel, edges)
    (part,) = Cascade(stages=[stage(task=task_of(op))]).parts
    made = part.operator(op.in_shape)
    assert made.describe() == op.describe()
    assert part.task(3) == task_of(op)


def test_the_operators_of_a_chain_lead_from_the_picture_down_to_the_measurement(stage: Any) -> None:
    cascade = Cascade(stages=[stage("a", "super-resolution ×4 (bicubic)"), stage("b")])
    whole = operators.Downsample(8, (3, 45, 37))
    (i, first), (j, second) = cascade.chain(whole)
    assert (i, j) == (0, 1)
    assert (second.in_shape, first.in_shape) == ((3, 45, 37), second.out_shape)
    assert first.out_shape == whole.out_shape
    half = operators.Downsample(2, (3, 45, 37))
    assert cascade.chain(half) == [(1, half)]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"stages": []}, "stages: expected conditional priors"),
        ({"stages": "natural"}, "stages: expected conditional priors"),
        ({"stages": ["natural"]}, "stage 1, natural: .* this prior needs no measurement"),
        ({"stages": ["tiny", "absent"]}, "stage 2, absent: .* no such prior or file"),
        ({"stages": ["other.yaml"]}, "stage 1, other.yaml: .* another cascade"),
        (
            {"stages": ["mask"]},
            "stage 1, inpaint: expected a prior trained for one super-resolution, got .* inpainting",
        ),
        ({"stages": ["two"]}, "got one for super-resolution ×2 .box. or super-resolution ×4 .box."),
        ({"stages": ["blurred"]}, "super-resolution ×2 .blurred"),
        ({"stages": ["tiny"], "base": "tiny"}, "base: expected a prior that needs no measurement, got tiny"),
        ({"stages": ["tiny"], "base": "other.yaml"}, "base: expected a prior that needs no measurement"),
        ({"stages": ["tiny", "tiny"], "augment": 0.1}, "augment 0.1: no stage"),
        ({"stages": ["augmented", "tiny"], "augment": 0.1}, "augment 0.1: no stage"),
        ({"stages": ["tiny"], "augment": -0.1}, "augment: expected"),
        ({"stages": ["tiny"], "augment": float("nan")}, "augment: expected"),
        ({"stages": ["tiny"], "steps": (1, 2)}, "steps: expected 1 whole"),
        ({"stages": ["tiny"], "steps": (0,)}, "steps: expected 1 whole"),
    ],
)
def test_what_is_no_cascade_is_refused(how: dict[str, Any], said: str, stage: Any) -> None:
    both = Condition(tasks=("super-resolution ×2 (box)", "super-resolution ×4 (box)"))
    made = {
        "tiny": stage(),
        "augmented": stage(augment=0.2),
        "mask": stage("inpaint", "inpainting"),
        "blurred": stage("blurred", "super-resolution ×2 (blurred)"),
        "two": _Carded(Card(name="two", condition=both)),
    }
    if isinstance(how["stages"], list):
        how = {**how, "stages": [made.get(name, name) for name in how["stages"]]}
    if "base" in how:
        how = {**how, "base": made.get(how["base"], how["base"])}
    with pytest.raises(RequestError, match=said):
        Cascade(**how)


class _Carded:
    def __init__(self, card: Card) -> None:
        self.card = card


def test_with_a_base_the_first_stage_may_be_augmented(stage: Any) -> None:
    assert Cascade(stages=[stage(augment=0.2)], base=GaussianPrior.white(), augment=0.2).augment == 0.2


def test_a_name_of_the_catalog_is_a_stage_without_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    info = catalog.PriorInfo(
        name="far", file="far.safetensors", sha256="", summary="", channels=3, licence="", training_data="", card="",
        packaged=False, tasks=(BICUBIC,), noise=0.02,
    )  # fmt: skip
    monkeypatch.setitem(catalog.PRIORS, "far", info)
    cascade = Cascade(stages=["far", "far"], augment=0.1)
    assert cascade.tasks == ("super-resolution ×4 (bicubic)", BICUBIC)
    assert cascade.condition.noise == 0.02
    with pytest.raises(RequestError, match=r"far\.safetensors does not come with the package"):
        load_prior(cascade)


# ------------------------------------------------------------------------------------------ noise that is shown


def test_a_network_is_shown_the_noise_that_it_is_told(stage: Any) -> None:
    op, draw = operators.Downsample(2, (3, 8, 8)), torch.Generator().manual_seed(0)
    y, noise = torch.rand(2, 3, 4, 4, generator=draw), torch.randn(2, 3, 8, 8, generator=draw)
    prior = stage(augment=0.3, residual=True)
    seen = prior.seeing(y, op, augment=0.2, noise=noise)
    picture = picture_of(op, y) + 0.2 * noise
    torch.testing.assert_close(seen.shown[:, :3], 2 * picture - 1)
    torch.testing.assert_close(seen.shown[:, 3:], torch.full((2, 1, 8, 8), 0.4))
    torch.testing.assert_close(seen.centre, picture)
    told = prior.seeing(y, op, augment=0.2).shown
    torch.testing.assert_close(told[:, :3], 2 * picture_of(op, y) - 1)
    assert torch.equal(told[:, 3:], seen.shown[:, 3:])
    with pytest.raises(RequestError, match=r"up to 0\.3, got 0\.4"):
        prior.seeing(y, op, augment=0.4, noise=noise)


def test_noise_beyond_a_stages_training_is_refused(stage: Any) -> None:
    cascade = Cascade(stages=[stage("a"), stage("b", augment=0.2)], augment=0.3)
    with pytest.raises(RequestError, match=r"prior b knows noise on what it is shown up to 0\.2, got 0\.3"):
        invdiff.restore(torch.rand(1, 3, 4, 4), operators.Downsample(4, (3, 16, 16)), cascade)


def test_guidance_is_for_every_stage(stage: Any) -> None:
    op = operators.Downsample(4, (3, 16, 16))
    y = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    cascade = Cascade(stages=[stage("a", dropout=0.1), stage("b", dropout=0.2)])
    assert cascade.condition.dropout == 0.1
    guided = invdiff.restore(y, op, cascade, steps=2, guidance=2.0)
    assert guided.evaluations == 2 * invdiff.restore(y, op, cascade, steps=2).evaluations
    with pytest.raises(RequestError, match="prior b was always shown its measurement"):
        invdiff.restore(y, op, Cascade(stages=[stage("a", dropout=0.1), stage("b")]), steps=2, guidance=2.0)


# ------------------------------------------------------------------------------------------------ files


def test_a_cascades_file_is_a_prior(folder: Path) -> None:
    op = operators.Downsample(4, (3, 16, 12))
    y = op.A(torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(1)))
    found = invdiff.restore(y, op, str(folder / "large.yaml"), samples=2)
    assert found.method == "sr3"
    assert [(s["prior"], s["walk"], s["augment"]) for s in found.config["stages"]] == [
        ("first", 2, 0.0),
        ("second", 3, 0.1),
    ]
    loaded = load_prior(folder / "large.yaml")
    assert isinstance(loaded, Cascade)
    assert all(isinstance(one, ConditionalNetwork) for one in loaded.stages)
    assert torch.equal(invdiff.restore(y, op, loaded, samples=2).samples, found.samples)
    assert len(loaded.card.checksum) == 64
    drawn = invdiff.sample(loaded, (3, 16, 12), steps=2)
    assert drawn.samples.shape == (1, 3, 16, 12)
    assert [s["prior"] for s in drawn.config["stages"]] == ["small", "first", "second"]
    assert torch.equal(invdiff.sample(folder / "large.yaml", (3, 16, 12), steps=2).samples, drawn.samples)  # type: ignore[arg-type]


def test_a_stage_that_is_not_needed_is_not_loaded(folder: Path) -> None:
    cascade = Cascade.read(folder / "large.yaml")
    assert cascade.name == "large"
    assert cascade.tasks == ("super-resolution ×4 (bicubic)", BICUBIC)
    (folder / "parts" / "first.safetensors").unlink()
    (folder / "base.safetensors").unlink()
    half = operators.Downsample(2, (3, 8, 8))
    assert invdiff.restore(torch.rand(1, 3, 4, 4), half, cascade).evaluations == 3
    with pytest.raises(RequestError, match=r"first\.safetensors: no such file"):
        invdiff.restore(torch.rand(1, 3, 4, 4), operators.Downsample(4, (3, 16, 16)), cascade)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [a]", "expected a cascade of priors"),
        ("cascade: [a]", "expected a cascade of priors"),
        ("cascade: {}", "stages is missing"),
        ("cascade: {stagse: [a]}", "unknown key stagse. Did you mean 'stages'"),
        ("cascade: {stages: [a], augment: much}", "augment: expected"),
        ("cascade: {stages: [parts/first.safetensors], steps: [1, 2]}", "steps: expected 1 whole"),
        ("cascade: {stages: [nowhere.safetensors]}", "nowhere.safetensors: .* no such prior or file"),
        ("cascade: {stages: [large.yaml]}", "large.yaml: .* another cascade"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text: str, said: str, folder: Path) -> None:
    (folder / "wrong.yaml").write_text(text)
    with pytest.raises(RequestError, match=said) as caught:
        load_prior(folder / "wrong.yaml")
    assert "\n" not in str(caught.value)


def test_options_are_not_for_a_cascade(folder: Path) -> None:
    with pytest.raises(RequestError, match="prediction"):
        load_prior(folder / "large.yaml", options={"prediction": "v"})
