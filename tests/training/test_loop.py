"""A training run learns, goes on bit for bit where it was stopped, and refuses at once what cannot be."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from invdiff import config, load_prior
from invdiff.errors import InvdiffError, RequestError
from invdiff.priors import EDM, Card, NetworkPrior, save_prior
from invdiff.priors.files import write_durably
from invdiff.priors.nets.unet import UNet
from invdiff.training import Recipe, Stopped, checkpoint, loop, train
from invdiff.training.distributed import Processes
from invdiff.training.loop import Run
from invdiff.training.objective import Task
from invdiff.training.progress import Reporter

Write = Callable[..., Path]


def load(path: Path) -> NetworkPrior:
    prior = load_prior(path, precision="float32")
    assert isinstance(prior, NetworkPrior)
    return prior


def state(out: Path) -> tuple[dict[str, Tensor], int]:
    path = checkpoint.newest(out / "checkpoints")
    assert path is not None
    tensors, told = checkpoint.load(path)
    return tensors, told["step"]


def rows(out: Path, name: str) -> list[dict[str, str]]:
    with (out / name).open(newline="") as file:
        return list(csv.DictReader(file))


def start(recipe: Path, out: Path) -> Run:
    return Run(config.load(Recipe, recipe), out, Processes("cpu"), Reporter())


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGINT) -> None:
    """The signal arrives in the middle of this step."""
    one_step = Run.one_step

    def interrupted(self: Run) -> tuple[float, float]:
        if self.step == step - 1:
            signal.raise_signal(number)
        return one_step(self)

    monkeypatch.setattr(Run, "one_step", interrupted)


def test_a_run_leaves_its_prior_log_scores_picture_and_recipe(recipe: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    path = train(recipe(summary="A test's."), out)
    assert path == out / "prior.safetensors"
    card = load(path).card
    assert (card.name, card.channels, card.images_seen, card.multiple) == ("tiny", 3, 80, 4)
    assert card.size is None
    assert 0.2 < card.data_mean < 0.8
    assert (card.sigma_min, card.sigma_max, card.data_std, card.summary) == (0.002, 40.0, 0.25, "A test's.")
    assert [row["step"] for row in rows(out, "log.csv")] == ["20"]
    assert set(rows(out, "log.csv")[0]) == {"step", "images", "seconds", "loss", "gradient", "learning_rate"}
    (scores,) = rows(out, "validation.csv")
    assert (scores["step"], scores["images"]) == ("20", "80")
    assert all(5 < float(scores[f"psnr{level}"]) < 50 for level in (15, 25, 50))
    with Image.open(out / "denoised.png") as picture:
        assert picture.size == (2 * 24, 7 * 24)  # two held-out crops; clean, then noisy and denoised thrice
    assert config.build(Recipe, json.loads((out / "recipe.json").read_text()), "") == config.load(
        Recipe, recipe(summary="A test's.")
    )


def test_training_lowers_the_loss_and_denoises_better_than_no_training(recipe: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    path = train(recipe(images=300 * 8, batch=8), out)
    losses = [float(row["loss"]) for row in rows(out, "log.csv")]
    assert len(losses) == 6
    assert losses[-1] < 0.8 * losses[0]
    run = start(recipe(), out)
    clean = run.pictures.validation
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))

    def error(prior: NetworkPrior) -> float:
        return float((prior(noisy, 0.2) - clean).square().mean())

    assert error(load(path)) < 0.7 * error(run.prior())


def test_a_grey_prior_is_trained_on_grey_pictures(recipe: Write, tmp_path: Path) -> None:
    prior = load(train(recipe(network={"channels": 1}), tmp_path / "run"))
    assert prior.card.channels == 1
    assert prior(torch.rand(1, 1, 7, 9), 0.1).shape == (1, 1, 7, 9)


def test_bfloat16_trains_too(recipe: Write, tmp_path: Path) -> None:
    prior = load(train(recipe(precision="bfloat16", images=16), tmp_path / "run"))
    assert prior(torch.rand(1, 3, 8, 8), 0.1).isfinite().all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_bit_for_bit(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = recipe()
    train(path, tmp_path / "straight")
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_at(10, patch, number)
        with pytest.raises(Stopped, match=r"stopped at step 10 of 20; go on with --resume") as caught:
            train(path, tmp_path / "stopped")
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    assert state(tmp_path / "stopped")[1] == 10
    assert load(tmp_path / "stopped").card.images_seen == 40
    torch.manual_seed(99)  # no global stream has a part in it
    train(path, tmp_path / "stopped", resume=True)
    (straight, steps), (resumed, again) = state(tmp_path / "straight"), state(tmp_path / "stopped")
    assert steps == again == 20
    assert straight.keys() == resumed.keys()
    assert {name.partition(".")[0] for name in straight} == {"network", "ema", "optimiser"}
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name
    for picture in ("denoised.png", "samples.png"):
        assert (tmp_path / "straight" / picture).read_bytes() == (tmp_path / "stopped" / picture).read_bytes()
    assert (
        rows(tmp_path / "straight", "validation.csv")[0]["psnr25"]
        == rows(tmp_path / "stopped", "validation.csv")[0]["psnr25"]
    )


def test_another_seed_gives_another_run_so_the_test_above_could_fail(recipe: Write, tmp_path: Path) -> None:
    one, other = start(recipe(), tmp_path), start(recipe(seed=1), tmp_path)
    assert one.one_step() != other.one_step()


def test_training_leaves_the_global_random_state_alone(recipe: Write, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(recipe(images=8), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_stops_a_process_cleanly_with_a_checkpoint(recipe: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code = (
        "import sys, torch; torch.set_num_threads(1); from invdiff.cli.main import run; "
        "sys.exit(run(['train', sys.argv[1], '--out', sys.argv[2]]))"
    )
    command = [sys.executable, "-c", code, str(recipe(images=4_000_000)), str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        patience = time.monotonic() + 60
        while not (out / "log.csv").exists() and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    tensors, step = state(out)
    assert f"stopped at step {step} of 1000000; go on with --resume --out {out}" in said
    assert step >= loop.LOG_EVERY
    assert load(out).card.images_seen == 4 * step
    assert all(value.isfinite().all() for value in tensors.values())


def test_rows_logged_after_the_checkpoint_are_not_there_twice(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, path = tmp_path / "run", recipe(validate_minutes=0)
    monkeypatch.setattr(loop, "LOG_EVERY", 4)
    with monkeypatch.context() as patch:
        stop_at(9, patch)
        with pytest.raises(Stopped):
            train(path, out)
    with (out / "log.csv").open("a") as file:  # killed later, at step 13, before it had saved
        file.write("12,48,9.9,0.1,0.1,1e-3\n13,5")
    train(path, out, resume=True)
    assert [row["step"] for row in rows(out, "log.csv")] == ["4", "8", "12", "16", "20"]
    assert rows(out, "log.csv")[2]["seconds"] != "9.9"
    assert [int(row["step"]) for row in rows(out, "validation.csv")] == list(range(1, 21))


def test_a_finished_run_is_left_as_it_is_by_resuming(recipe: Write, tmp_path: Path) -> None:
    out, path = tmp_path / "run", recipe()
    train(path, out)
    names = ("log.csv", "validation.csv", "denoised.png", "samples.png")
    before, prior = [(out / name).read_bytes() for name in names], load(out)
    train(path, out, resume=True)
    assert [(out / name).read_bytes() for name in names] == before
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(load(out)(x, 0.1), prior(x, 0.1))


def test_a_longer_recipe_goes_on_and_says_what_is_different(
    recipe: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train(recipe(), out)
    train(recipe(images=120, batch=2), out, resume=True)
    said = capsys.readouterr().err
    assert "resumed with another recipe: images 80 → 120, batch 4 → 2" in said
    assert state(out)[1] == 60
    assert load(out).card.images_seen == 80 + 40 * 2


def test_a_checkpoint_that_cannot_be_written_leaves_the_older_one(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, path = tmp_path / "run", recipe(checkpoint={"minutes": 0, "part_mib": 0.1})
    truly, limit = write_durably, "000000007"

    def full(file: Path, data: bytes) -> None:
        if limit in str(file) and file.name == "part-001.safetensors":
            raise OSError(28, "No space left on device")
        truly(file, data)

    monkeypatch.setattr(checkpoint, "write_durably", full)
    with pytest.raises(OSError, match="No space"):
        train(path, out)
    assert state(out)[1] == 6
    monkeypatch.undo()
    train(path, out, resume=True)
    train(recipe(), tmp_path / "straight")
    resumed, straight = state(out)[0], state(tmp_path / "straight")[0]
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())


def test_an_out_that_holds_a_run_is_kept_unless_resumed(recipe: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(RequestError, match="no run to resume"):
        train(recipe(), out, resume=True)
    assert not out.exists()
    train(recipe(images=8), out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(RequestError, match="already holds a run; give --resume"):
        train(recipe(), out)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_a_run_killed_before_its_first_checkpoint_can_be_begun_again(recipe: Write, tmp_path: Path) -> None:
    for name, resume in (("again", False), ("resumed", True)):
        out = tmp_path / name
        (out / "checkpoints" / ".000000007.5.part").mkdir(parents=True)
        (out / "log.csv").write_text("step,images,seconds,loss,gradient,learning_rate\n5,20,1.0,1,1,1\n")
        train(recipe(images=24), out, resume=resume)
        assert [row["step"] for row in rows(out, "log.csv")] == ["6"]
        assert [p.name for p in (out / "checkpoints").iterdir()] == ["000000006"]


def test_a_checkpoint_of_another_network_is_refused(recipe: Write, tmp_path: Path) -> None:
    train(recipe(images=8), tmp_path / "run")
    for shape in ({"widths": [8, 24]}, {"blocks": [1, 2]}):
        with pytest.raises(RequestError, match="its checkpoint is of another network"):
            train(recipe(images=16, network=shape), tmp_path / "run", resume=True)


def test_a_device_or_folder_that_is_not_there_is_told_before_the_data_is_read(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "load_pictures", lambda *a: pytest.fail("read the data first"))
    with pytest.raises(RequestError, match="unknown device 'cdua'"):
        train(recipe(device="cdua"), tmp_path / "run")
    absent = "mps" if torch.cuda.is_available() or not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(RequestError, match=f"device {absent}: not available"):
        train(recipe(device=absent), tmp_path / "run")
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RequestError, match="cannot be written to"):
            train(recipe(), out)


@pytest.mark.parametrize(
    "change", [{"data": {"train": []}}, {"data": {"crop": 64}}, {"start_from": "naturel"}, {"batch": 0}]
)
def test_a_request_that_is_wrong_writes_nothing(
    recipe: Write, tmp_path: Path, change: dict[str, object]
) -> None:
    with pytest.raises(RequestError):
        train(recipe(**change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A prior of the recipe's shape, with weights of its own."""
    network = UNet(widths=[8, 16], blocks=[1, 1], embedding=16)
    generator = torch.Generator().manual_seed(1)
    for value in network.parameters():
        value.data = 0.1 * torch.randn(value.shape, generator=generator)
    path = tmp_path / "shipped.safetensors"
    save_prior(path, network, EDM(), Card(name="shipped", channels=3, images_seen=1000))
    return path


def test_training_can_start_from_a_priors_weights_with_a_fresh_optimiser(
    recipe: Write, tmp_path: Path, shipped: Path
) -> None:
    path = recipe(start_from=str(shipped), images=8)
    run = start(path, tmp_path)
    for weights in (run.network, run.ema.module):
        for name, value in load(shipped).network.state_dict().items():
            assert torch.equal(weights.state_dict()[name], value)
    assert not run.optimiser.state
    out = tmp_path / "run"
    assert load(train(path, out)).card.images_seen == 1008
    shipped.unlink()  # a run that goes on has its own weights
    assert load(train(recipe(start_from=str(shipped), images=16), out, resume=True)).card.images_seen == 1016


def test_weights_that_do_not_fit_the_recipe_are_refused(recipe: Write, tmp_path: Path, shipped: Path) -> None:
    with pytest.raises(RequestError, match="a network of another shape than the recipe's"):
        train(recipe(start_from=str(shipped), network={"widths": [8, 24]}), tmp_path / "run")
    with pytest.raises(RequestError, match=r"start_from: expected a prior with EDM\(.*sigma_data=0\.4\), "):
        train(recipe(start_from=str(shipped), noise={"sigma_data": 0.4}), tmp_path / "run")


def test_a_run_that_diverges_says_so_and_keeps_its_last_checkpoint(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def explodes(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        loss = truly(*arguments)
        return loss * float("nan") if calls == 5 else loss

    truly = Task.loss
    monkeypatch.setattr(Task, "loss", explodes)
    with pytest.raises(InvdiffError, match="gradient is not finite at step 4; lower optimiser"):
        train(recipe(checkpoint={"minutes": 0}), tmp_path / "run")
    assert state(tmp_path / "run")[1] == 4


def test_the_learning_rate_warms_up_and_falls_as_a_cosine_to_its_end(recipe: Write, tmp_path: Path) -> None:
    settings = {"learning_rate": 1.0, "warmup": 10, "final": 0.05}
    run = start(recipe(images=400, optimiser=settings), tmp_path)
    rates = []
    for run.step in range(101):
        rates.append(run.learning_rate())
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0, abs=0.03)
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == 0.05
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_the_average_forgets_the_beginning_and_then_moves_slowly(recipe: Write, tmp_path: Path) -> None:
    run = start(recipe(), tmp_path)
    weight, average = (net.get_parameter("head.bias") for net in (run.network, run.ema.module))
    expected = None
    for count, value in enumerate([1.0, 2.0, 3.0, 4.0]):
        weight.data.fill_(value)
        run.ema.update_parameters(run.network)
        decay = min(0.9, (1 + count) / (10 + count))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average[0].item() == pytest.approx(expected)


def test_the_file_holds_the_average_and_not_the_weights_of_the_last_step(
    recipe: Write, tmp_path: Path
) -> None:
    run = start(recipe(), tmp_path)
    run.network.get_parameter("head.bias").data.fill_(1.0)
    run.ema.module.get_parameter("head.bias").data.fill_(2.0)
    assert (load(run.save()).network.get_parameter("head.bias") == 2).all()


def test_the_gradient_is_cut_to_the_recipes_norm(
    recipe: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(recipe(optimiser={"clip": 1e-3, "ema": 0.9}), tmp_path)
    norms: list[float] = []

    def step(*_: Any, **__: Any) -> None:
        gradients = [p.grad for p in run.network.parameters() if p.grad is not None]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())

    monkeypatch.setattr(run.optimiser, "step", step)
    _, norm = run.one_step()
    assert norm > 1e-2  # what it was
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_the_scores_are_psnr_of_the_averages_d_on_the_held_out_crops(recipe: Write, tmp_path: Path) -> None:
    out = tmp_path / "run"
    prior = load(train(recipe(), out))
    run = start(recipe(), out)
    clean = run.pictures.validation
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))  # stream(0, 0, 3)
    d = prior(clean + 25 / 255 * noise, 25 / 255).clamp(0, 1)
    psnr = [10 * torch.log10(1 / (a - b).square().mean()).item() for a, b in zip(d, clean, strict=True)]
    (row,) = rows(out, "validation.csv")
    assert float(row["psnr25"]) == pytest.approx(sum(psnr) / len(psnr), abs=0.05)
