"""A benchmark's YAML is checked before anything heavy is imported, and says what is wrong, and in which line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from invdiff.bench import definition
from invdiff.bench.definition import load
from invdiff.bench.scores import METRICS
from invdiff.errors import RequestError

GOOD = """\
name: small
datasets:
  - name: photos
    path: pictures
    crop: 32
tasks:
  - name: sr4
    operator: {downsample: {factor: 4}}
    noise: 0.05
  - name: hole
    mask: masks
methods:
  - {method: dps, steps: 20}
  - name: quick
    method: ddnm
    settings: {eta: 0.5}
metrics: [psnr, ssim]
"""

Write = Callable[[str], Path]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: pictures/ (two of 48×40), masks/ (of their crops), other.png (a mask of another size)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INVDIFF_DATA", raising=False)
    for name in ("pictures", "masks", "empty"):
        Path(name).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (48, 40), (90, 120, 30)).save(f"pictures/{name}.png")
        mask = Image.new("L", (32, 32), 0)
        mask.paste(255, (8, 8, 20, 20))
        mask.save(f"masks/{name}_mask.png")
    Image.new("L", (30, 32), 0).save("other.png")
    Path("empty/readme.txt").write_text("nothing here")
    Path("broken").mkdir()
    Path("broken/a.png").write_text("no picture")
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Write:
    def write(text: str) -> Path:
        path = folder / "small.yaml"
        path.write_text(text)
        return path

    return write


def test_what_is_said_is_there_and_what_is_not_has_defaults(write: Write, folder: Path) -> None:
    got = load(write(GOOD))
    assert [one.name for one in got.methods] == ["dps", "quick"]
    assert (got.priors, got.seeds, got.batch, got.device) == (["natural"], [0], 1, "cpu")
    assert got.data_root == folder
    assert got.spec_of(got.tasks[0]).measured((3, 32, 32)) == (3, 8, 8)
    assert got.noise_of(got.tasks[0]) == 0.05
    masks = got.masks_of(got.tasks[1])
    assert masks is not None
    assert masks.path_for(Path("a.png")).name == "a_mask.png"


def test_overrides_reach_the_entries_of_lists_by_name_and_by_number(write: Write) -> None:
    path = write(GOOD)
    got = load(
        path, ["methods.quick.settings.eta=0.9", "methods.0.steps=5", "methods.dps.samples=2", "seeds=[1, 2]"]
    )
    assert got.methods[1].settings == {"eta": 0.9}
    assert (got.methods[0].steps, got.methods[0].samples, got.seeds) == (5, 2, [1, 2])


def test_files_are_found_beside_the_yaml_from_wherever_it_is_read(
    write: Write, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (5, 5), 255).save("kernel.png")
    blur = "  - {name: blur, operator: {blur: {kernel: kernel.png, border: valid}}}\n"
    path = write(GOOD.replace("methods:\n", blur + "methods:\n"))
    here = load(path)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    there = load(path)
    assert there == here
    assert there.spec_of(there.tasks[2]).measured((3, 32, 32)) == (3, 28, 28)


def test_a_root_in_the_file_is_beside_it_and_one_in_an_override_is_where_you_are(
    write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("data").mkdir()
    Path("pictures").rename("data/pictures")
    path = write(GOOD)
    with pytest.raises(RequestError, match="no such file or folder"):
        load(path)
    assert load(write("root: data\n" + GOOD)).data_root == folder / "data"
    monkeypatch.setenv("INVDIFF_DATA", str(folder / "data"))
    assert load(write(GOOD)).data_root == folder / "data"
    monkeypatch.chdir(folder / "data")
    assert load(path, ["root=."]).data_root == folder / "data"


def test_the_record_holds_what_decides_the_rows_and_not_where_it_lies(write: Write, folder: Path) -> None:
    path = write(GOOD)
    first = load(path).record()
    assert json.loads(json.dumps(first)) == first
    assert first["tasks"]["sr4"] == {"noise": 0.05, "operator": {"downsample": {"factor": 4}}}
    assert str(folder) not in json.dumps(first)
    assert load(path, ["methods.dps.steps=5"]).record() != first
    mask = folder / "mask.png"
    Image.open("masks/a_mask.png").save(mask)
    one = load(path, ["tasks.hole.mask=mask.png"]).record()["tasks"]["hole"]
    Image.open(mask).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mask)
    assert load(path, ["tasks.hole.mask=mask.png"]).record()["tasks"]["hole"] != one


def test_lpips_can_be_left_out_if_something_is_left(write: Write) -> None:
    path = write(GOOD)
    too_small = ["datasets.0.crop=16", "tasks.1={name: fill, operator: identity, noise: 0.1}"]
    assert load(path, [*too_small, "metrics=[lpips_alex, psnr]"], lpips=False).metrics == ["psnr"]
    with pytest.raises(RequestError, match="lpips_alex needs pictures of at least 32 pixels a side"):
        load(path, [*too_small, "metrics=[lpips_alex, psnr]"])
    with pytest.raises(RequestError, match="leaves none of them"):
        load(path, ["metrics=[lpips_alex]"], lpips=False)


def test_the_names_of_metrics_are_those_that_are_scored() -> None:
    assert tuple(METRICS) == definition.METRIC_NAMES


WRONG: dict[str, tuple[str, str, int | None, str]] = {
    # what was done → (in place of, what is written, the line it is said of, what is said)
    "a tab": ("    path: pictures", "\tpath: pictures", 4, "indent with blanks, not with a tab"),
    "an entry's key too far left": ("    path: pictures", "   path: pictures", 4, "check the indentation"),
    "no blank after a colon": ("    path: pictures", "    path:pictures", None, "check the indentation"),
    "a key that slipped out": ("    crop: 32", "crop: 32", 5, "crop belongs to an entry of datasets: indent it"),
    "a key twice": ("    crop: 32", "    path: other", 5, "path: the same key again, first in line 4"),
    "a misspelt section": ("methods:", "method:", 12, "unknown key method. Did you mean 'methods'?"),
    "a misspelt key of an entry": ("    crop: 32", "    corp: 32", 5, "datasets.0.corp. Did you mean 'crop'?"),
    "a misspelt key of a method": ("steps: 20", "stesp: 20", 13, "methods.0.stesp. Did you mean 'steps'?"),
    "a word for a number": ("    crop: 32", "    crop: big", 5, "datasets.0.crop: expected a valid integer"),
    "a number out of range": ("    crop: 32", "    crop: 0", 5, "datasets.0.crop: expected a whole number"),
    "channels that are none": ("    crop: 32", "    channels: 2", 5, "datasets.0.channels: expected 1 or 3, got 2"),
    "keys for a list": ("  - name: photos\n    path", "    name: photos\n    path", 2, "datasets: expected"),
    "a name for an entry": ("  - {method: dps, steps: 20}", "  - dps", 13, "methods.0: expected a dictionary"),
    "no path": ("    path: pictures\n", "", 3, "datasets.0.path is missing"),
    "an empty list": ("metrics: [psnr, ssim]", "metrics: []", 17, "metrics: expected at least one, got none"),
    "a list that is not there": ("metrics:", "tasks:\nmetrics:", 17, "tasks: the same key again"),
    "a comma in a name": ("name: photos", "name: 'a,b'", 3, "datasets.0.name: expected a name without"),
    "two data sets alike": (
        "tasks:", "  - {name: Photos, path: pictures}\ntasks:", 6,
        "expected names that differ, got 'Photos' again (first: line 3)",
    ),
    "two methods alike": ("name: quick", "name: dps", 14, "got 'dps' again (first: line 13)"),
    "two seeds alike": ("metrics:", "seeds: [3, 3]\nmetrics:", 17, "seeds.1: expected names that differ"),
    "a seed that is none": ("metrics:", "seeds: [-1]\nmetrics:", 17, "seeds.0: expected a whole number from 0"),
    "a missing folder": ("path: pictures", "path: picturse", 4, "Did you mean 'pictures'?"),
    "a folder without pictures": ("path: pictures", "path: empty", 4, "no pictures in it"),
    "a picture that is none": ("path: pictures", "path: broken", 4, "not a picture in a format that is known"),
    "a missing root": ("name: small", "name: small\nroot: nowhere", 2, "no such folder; set root, or INVDIFF_DATA"),
    "a crop larger than the pictures": ("crop: 32", "crop: 64", 5, "a.png: expected at least 64 pixels a side"),
    "a crop larger than resize": ("crop: 32", "crop: 32\n    resize: 16", 5, "expected at most resize"),
    "a batch of pictures of any size": ("    crop: 32", "batch: 2", 5, "give it a crop, as 40"),
    "no operator": ("    operator: {downsample: {factor: 4}}\n", "", 7, "expected one, or mask"),
    "operator and mask": ("    mask: masks", "    mask: masks\n    operator: identity", None, "give one of them"),
    "an unknown operator": ("{downsample: ", "{downsmple: ", 8, "Did you mean 'downsample'?"),
    "an operator's unknown key": ("{factor: 4}", "{faktor: 4}", 8, "Did you mean 'factor'?"),
    "an operator's wrong value": ("{factor: 4}", "{factor: 99}", 8, "factor: expected"),
    "an operator that does not fit": ("{downsample: {factor: 4}}", "{mask: {pattern: box, height: 40}}", 8, "1 to 32"),
    "an operator's missing file": ("{downsample: {factor: 4}}", "{blur: {kernel: k.png}}", 8, "k.png: no such file"),
    "an operator's missing code": ("{downsample: {factor: 4}}", "my_op.py:MyOp", 8, "my_op.py: no such file"),
    "an unknown noise": ("noise: 0.05", "noise: {poison: {peak: 3}}", 9, "Did you mean 'poisson'?"),
    "noise in 8 bits": ("noise: 0.05", "noise: 12.75", 9, "in image units"),
    "noise to be found out": ("noise: 0.05", "noise: auto", 9, "got auto"),
    "nothing to restore": ("{downsample: {factor: 4}}\n    noise: 0.05", "identity", 7, "nothing to restore"),
    "a missing mask": ("mask: masks", "mask: mask", 11, "mask: no such file or folder"),
    "a mask of another size": ("mask: masks", "mask: other.png", 11, "other.png: the mask is 30×32, the picture"),
    "a picture without a mask": ("mask: masks", "mask: pictures", 11, "no mask for it in"),
    "noise that is none": ("mask: masks", "mask: masks\n    noise: x", 12, "noise: expected"),
    "a mask's wrong colour": ("mask: masks", "mask: masks\n    mask_keep: grey", 12, "expected 'black' or 'white'"),
    "an unknown method": ("method: ddnm", "method: dddnm", 15, "Did you mean 'ddnm'?"),
    "an unknown peer": ("method: ddnm\n    settings: {eta: 0.5}", "peer: bicubik", 15, "Did you mean 'bicubic'?"),
    "a method and a peer": ("method: ddnm", "method: ddnm\n    peer: bicubic", 15, "give one of them"),
    "an unknown setting": ("{eta: 0.5}", "{etta: 0.5}", 16, "unknown setting of ddnm. Did you mean 'eta'?"),
    "a setting for auto": ("method: ddnm", "method: auto", 16, "unknown setting of auto"),
    "steps twice": ("steps: 20", "steps: 20, settings: {steps: 3}", 13, "leave one out"),
    "a peer's unknown setting": (
        "method: ddnm\n    settings: {eta: 0.5}", "peer: wiener\n    settings: {balanse: 1}", 14, "'balance'"
    ),
    "an effort that is none": ("steps: 20", "effort: fats", 13, "methods.0.effort: unknown effort 'fats'"),
    "an effort and steps": (
        "method: ddnm\n    settings: {eta: 0.5}", "method: auto\n    effort: fast\n    settings: {steps: 3}", 16,
        "effort: expected method: auto, and no steps",
    ),
    "an effort of no auto": ("steps: 20", "effort: fast", 13, "methods.0.effort: expected method: auto"),
    "no samples": ("steps: 20", "samples: 0", 13, "methods.0.samples: expected a whole number of at least 1"),
    "an impossible pairing": (
        "method: ddnm\n    settings: {eta: 0.5}", "method: repaint", 14,
        "method quick on task sr4: method 'repaint' needs a mask",
    ),
    "an impossible peer": (
        "method: ddnm\n    settings: {eta: 0.5}", "peer: bicubic", 14,
        "To leave it out: skip: [{task: hole, method: quick",
    ),
    "a method without its model": (
        "method: ddnm\n    settings: {eta: 0.5}", "method: sr3", 14, "no conditional model of prior natural"
    ),
    "an unknown prior": ("metrics:", "priors: [naturel]\nmetrics:", 17, "Did you mean 'natural'?"),
    "a missing prior": ("metrics:", "priors: [weights/p.safetensors]\nmetrics:", 17, "p.safetensors: no such file"),
    "a prior that is none": ("metrics:", "priors: [other.png]\nmetrics:", 17, "not a prior"),
    "an unknown metric": ("[psnr, ssim]", "[psnr, lpips]", 17, "unknown metric 'lpips'"),
    "a metric of several samples": ("[psnr, ssim]", "[psnr, diversity]", 17, "set samples: 2"),
    "a metric of larger pictures": ("crop: 32", "crop: 8", None, "ssim needs pictures of at least 11"),
    "a border that leaves nothing": ("metrics:", "border: 16\nmetrics:", 17, "expected less than half"),
    "an unknown device": ("metrics:", "device: gpu\nmetrics:", 17, "device: unknown device 'gpu'"),
    "an unknown name to skip": ("metrics:", "skip: [{task: sr}]\nmetrics:", 17, "unknown task 'sr'"),
    "nothing to skip": ("metrics:", "skip: [{}]\nmetrics:", 17, "skip.0.task: expected a task and a method"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_told_in_one_line_with_the_file_and_where_in_it(write: Write, mistake: str) -> None:
    old, new, line, said = WRONG[mistake]
    assert old in GOOD
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(RequestError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: line {line}: " if line else f"{path}: ")
    assert said in message
    assert "\n" not in message


def test_a_mistake_in_an_override_names_the_override_and_no_line(write: Write) -> None:
    path = write(GOOD)
    for override, said in {
        "datasets.photos.crop=big": "datasets.0.crop: expected a valid integer",
        "methods.quick.settings={etta: 1}": "Did you mean 'eta'?",
        "metrics=[psnr, sim]": "Did you mean 'ssim'?",
    }.items():
        with pytest.raises(RequestError) as caught:
            load(path, ["seeds=[1]", override])
        assert str(caught.value).startswith(f"{path}: override {override!r}: ")
        assert said in str(caught.value)
    with pytest.raises(RequestError, match=r"no entry 'quik', expected dps, quick. Did you mean 'quick'"):
        load(path, ["methods.quik.steps=3"])


def test_a_pairing_that_is_skipped_is_not_checked(write: Write) -> None:
    repaint = GOOD.replace("method: ddnm\n    settings: {eta: 0.5}", "method: repaint")
    got = load(write(repaint + "skip: [{task: sr4, method: quick}]\n"))
    assert got.skips(dataset="photos", task="sr4", prior="natural", method="quick")
    assert not got.skips(dataset="photos", task="hole", prior="natural", method="quick")


def test_a_conditional_prior_is_asked_whether_it_was_trained_for_the_task(write: Write, folder: Path) -> None:
    about = {"card": {"channels": 3, "condition": {"tasks": ["inpainting"], "noise": 0.0, "dropout": 0.0}}}
    header = json.dumps({"__metadata__": {"about": json.dumps(about)}}).encode()
    (folder / "fill.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    text = (
        GOOD.replace("method: ddnm\n    settings: {eta: 0.5}", "method: sr3") + "priors: [fill.safetensors]\n"
    )
    with pytest.raises(RequestError, match=r"prior fill.safetensors was trained for inpainting") as caught:
        load(write(text))
    assert "skip: [{task: sr4, method: dps, prior: fill.safetensors}]" in str(caught.value)
    got = load(write(text + "skip: [{task: sr4}]\n"))
    assert got.prior_source("fill.safetensors") == str(folder / "fill.safetensors")


def test_pictures_in_a_zip_file_and_pictures_on_their_side_are_measured_as_they_are_shown(
    write: Write, folder: Path
) -> None:
    turned = Image.new("RGB", (48, 40))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save("turned.jpg", exif=exif)
    with ZipFile("data.zip", "w") as archive:
        archive.write("turned.jpg", "deep/turned.jpg")
    text = GOOD.replace("path: pictures\n    crop: 32", "path: data.zip").replace(
        "{factor: 4}", "{factor: 48}"
    )
    with pytest.raises(RequestError, match="factor: expected"):
        load(write(text))
    text = text.replace("{downsample: {factor: 48}}", "{mask: {pattern: box, height: 44, width: 44}}")
    with pytest.raises(RequestError, match=r"width: expected.*pictures of photos are 3x48x40"):
        load(write(text))


def test_torch_is_never_imported(write: Write) -> None:
    path = write(GOOD)
    code = (
        "import sys; from invdiff.bench.definition import load; from invdiff.bench.plan import units; "
        f"print(len(list(units(load({str(path)!r}))))); "
        "print(*(name for name in ('torch', 'torchvision', 'skimage', 'scipy') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "8\n\n"
