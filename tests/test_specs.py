"""Operators in plain words: every one can be said, says what it will be, and what is wrong is one line."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from invdiff import catalog, config, operators
from invdiff.errors import RequestError
from invdiff.noise import NOISES, as_yaml, parse_noise
from invdiff.operators import OPERATORS
from invdiff.plugins import GROUP, Foreign, offered
from invdiff.priors.conditional import task_of
from invdiff.restore import abilities
from invdiff.spec_files import Composition, build, read_operator, usage
from invdiff.specs import FORMULAS, SPECS, Grayscale, KernelSpec, Spec

SHAPE = (3, 16, 32)
GAUSSIAN = {"blur": {"kernel": "gaussian", "std": 1.0}}
MOTION = {"blur": {"kernel": "motion", "length": 5, "angle": 30, "border": "valid"}}
VALID = {"blur": {"kernel": "gaussian", "std": 0.8, "border": "valid"}}
DOWN = {"downsample": {"factor": 2}}
FLAT = {"diagonal": {"file": "flat.npy"}}
BOX = {"mask": {"pattern": "box", "height": 4}}

SINGLE: list[Any] = [
    "identity",
    FLAT,
    {"diagonal": {"file": "field.npy"}},
    BOX,
    {"mask": {"pattern": "random", "missing": 0.5, "seed": 3}},
    {"mask": {"pattern": "random", "missing": 0.5, "per_channel": True}},
    {"mask": {"pattern": "stripes", "width": 2, "period": 5, "vertical": True}},
    {"mask": {"pattern": "lines", "every": 3, "offset": 1}},
    {"mask": {"pattern": "border", "margin": 3}},
    {"mask": {"pattern": "strokes", "missing": 0.2, "seed": 1}},
    GAUSSIAN,
    MOTION,
    VALID,
    {"blur": {"kernel": "disk", "radius": 2, "border": "reflect"}},
    {"blur": {"kernel": "random_motion", "size": 9, "seed": 2, "border": "zero"}},
    {"blur": {"kernel": "gaussian", "std": 1, "size": 7}},
    DOWN,
    {"downsample": {"factor": 3, "kernel": "box"}},
    {"downsample": {"factor": 2, "kernel": "lanczos", "edges": "reflect"}},
    {"blur_downsample": {"kernel": "motion", "length": 5, "angle": 30, "factor": 2}},
    {"blur_downsample": {"kernel": "motion", "length": 5, "angle": 30, "factor": 3}},
    {"blur_downsample": {"kernel": "gaussian", "std": 0.8, "factor": 3, "border": "valid"}},
    {"blur_downsample": {"kernel": "disk", "radius": 2, "factor": 3, "border": "valid"}},
    {"demosaic": {"pattern": "grbg"}},
    "grayscale",
    {"grayscale": {"weights": [0.5, 0.25, 0.25]}},
    {"clip": {"gain": 3}},
    {"quantize": {"bits": 3}},
    {"jpeg": {"quality": 20, "subsampling": "4:4:4"}},
    {"compressed_sensing": {"ratio": 0.3}},
    {"compressed_sensing": {"ratio": 0.3, "transform": "dct", "seed": 4}},
    {"phase_retrieval": {"oversampling": 1.1}},
]
TOGETHER: list[Any] = [
    [GAUSSIAN, DOWN],
    [VALID, DOWN],
    [MOTION, DOWN],
    [GAUSSIAN, GAUSSIAN],
    [GAUSSIAN, {"scale": 2.0}],
    [{"scale": 2.0}, GAUSSIAN],
    [{"scale": -0.5}],
    [BOX, {"scale": 2.0}],
    [BOX, {"scale": 2.0}, BOX],
    [BOX, {"mask": {"pattern": "lines"}}],
    [BOX, "identity"],
    ["identity", "identity"],
    ["identity", {"quantize": {"bits": 2}}],
    [{"quantize": {"bits": 2}}, {"scale": 2.0}],
    [{"scale": 2.0}, {"quantize": {"bits": 2}}],
    [GAUSSIAN, {"clip": {"gain": 2}}],
    [{"clip": {"gain": 2}}, GAUSSIAN],
    [GAUSSIAN, "grayscale"],
    ["grayscale", DOWN],
    [DOWN, "demosaic"],
    [DOWN, {"compressed_sensing": {"ratio": 0.5}}, {"scale": 3}],
    {"stack": [GAUSSIAN, GAUSSIAN]},
    {"stack": [GAUSSIAN, DOWN]},
    {"stack": [BOX, "identity", [BOX, {"scale": 2.0}]]},
    {"stack": ["demosaic", BOX]},
    {"stack": [FLAT, BOX]},
    [FLAT, {"scale": 2.0}],
    [FLAT, BOX],
    [BOX, {"scale": 2.0}, FLAT, BOX],
    [FLAT, {"scale": 2.0}, GAUSSIAN],
    [FLAT, FLAT],
    [GAUSSIAN, FLAT],
    [GAUSSIAN, {"jpeg": {"quality": 30}}],
    {"stack": [BOX, {"jpeg": {"quality": 30}}]},
    {"stack": [GAUSSIAN, {"quantize": {"bits": 2}}]},
    {"stack": [{"compressed_sensing": {"ratio": r}} for r in (0.1, 0.2)]},
    [DOWN, {"stack": [VALID, BOX]}],
    ["identity", {"stack": [GAUSSIAN, [GAUSSIAN, GAUSSIAN]]}],
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of weights for SHAPE in the current folder."""
    monkeypatch.chdir(tmp_path)
    weights = 0.5 + np.random.default_rng(0).random(SHAPE)
    np.save("field.npy", weights)
    np.save("flat.npy", weights[0])


def said(node: Any) -> Spec:
    return build(node, "--operator")


def test_every_operator_can_be_said() -> None:
    assert SPECS.keys() == OPERATORS.keys()
    assert all(kind.name == name for name, kind in SPECS.items())
    for name, kind in SPECS.items():
        examples = [said(node) for node in SINGLE]
        assert any(
            isinstance(e, kind) and isinstance(e.operator(SHAPE), OPERATORS[name]) for e in examples
        ), name


@pytest.mark.parametrize("node", SINGLE + TOGETHER, ids=str)
def test_what_is_said_before_torch_is_what_the_operator_is(node: Any) -> None:
    spec = said(node)
    operator = spec.operator(SHAPE)
    assert spec.measured(SHAPE) == tuple(operator.out_shape)
    assert spec.abilities(SHAPE) == abilities(operator)
    y = operator.A(torch.rand(1, *SHAPE))
    assert tuple(y.shape[1:]) == spec.measured(SHAPE)
    # YAML and back
    again = build(yaml.safe_load(yaml.safe_dump(spec.dump())), "")
    assert again == spec
    assert again.operator(SHAPE).describe() == operator.describe()
    json.dumps(spec.describe())


@pytest.mark.parametrize("node", SINGLE + TOGETHER, ids=str)
def test_what_undoing_it_is_called_before_torch_is_what_its_operator_says(node: Any) -> None:
    spec = said(node)
    task = task_of(spec.operator(SHAPE))
    assert spec.task() == spec.task(SHAPE) == task
    assert task != type(spec.operator(SHAPE)).__name__  # in words


def test_what_undoing_code_of_the_users_is_called_is_known_with_the_shape(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from invdiff.operators import Downsample\ndef half(shape):\n    return Downsample(2, shape)\n"
    )
    for node in (f"{file}:half", [GAUSSIAN, f"{file}:half"], {"stack": ["identity", f"{file}:half"]}):
        spec = said(node)
        assert spec.task() is None
        assert spec.task(SHAPE) == task_of(spec.operator(SHAPE))
        assert "super-resolution ×2 (bicubic)" in str(spec.task(SHAPE))


@pytest.mark.parametrize("node", SINGLE + TOGETHER, ids=str)
def test_a_picture_shape_follows_from_a_measurements_or_is_asked_for(node: Any) -> None:
    spec = said(node)
    measured = spec.measured(SHAPE)
    if not spec.pictorial(SHAPE):
        with pytest.raises(RequestError, match=r"--shape 3x256x256"):
            spec.unknown(measured)
        return
    shape = spec.unknown(measured)
    assert spec.measured(shape) == measured
    rows, columns = (n - lost for n, lost in zip(shape[1:], spec.overhang, strict=True))
    assert (rows, columns) == tuple(n * spec.reduction for n in measured[1:])


@pytest.mark.parametrize("node", SINGLE + TOGETHER, ids=str)
def test_what_treats_all_channels_alike_says_so(node: Any) -> None:
    spec = said(node)
    shape = (1, *SHAPE[1:])
    if "mixes" in spec.traits:
        return
    grey = torch.rand(1, *shape)
    three, one = spec.operator(SHAPE), spec.operator(shape)
    repeated, copies = spec.folded(one.A(grey), shape, "repeat"), spec.repeated().operator(SHAPE)
    torch.testing.assert_close(repeated, copies.A(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
    if "chroma" in spec.traits:
        return
    colour = torch.rand(1, *SHAPE)
    split = spec.folded(three.A(colour), SHAPE, "split")
    torch.testing.assert_close(split, one.A(colour.transpose(0, 1)), rtol=1e-4, atol=1e-5)


def test_a_list_is_in_the_order_in_which_light_meets_it() -> None:
    blur = operators.Blur(operators.kernels.gaussian(1.0), SHAPE)
    down = operators.Downsample(2, SHAPE)
    x = torch.rand(1, *SHAPE)
    torch.testing.assert_close(said([GAUSSIAN, DOWN]).operator(SHAPE).A(x), down.A(blur.A(x)))
    torch.testing.assert_close(said([GAUSSIAN, {"scale": 2.0}]).operator(SHAPE).A(x), 2 * blur.A(x))


def test_valid_blurs_one_after_the_other_overhang_together() -> None:
    assert said([VALID, DOWN, VALID]).overhang == (6 + 2 * 6, 6 + 2 * 6)


def test_weights_of_grey_are_the_operators() -> None:
    for weights in ("rec601", "mean"):
        spec = Grayscale(weights=weights)
        torch.testing.assert_close(
            operators.Grayscale(SHAPE, weights).response, torch.tensor(spec.numbers, dtype=torch.float64)
        )


@pytest.mark.parametrize("name", FORMULAS)
def test_a_kernels_size_is_known_without_building_it(name: str) -> None:
    numbers = {
        "std": 1.3,
        "radius": 2.6,
        "length": 7.5,
        "angle": 33.0,
        "size": 9,
        "seed": 5,
        "intensity": 0.7,
    }
    formula = FORMULAS[name]
    keys = (*formula.needs, *formula.may)
    for given in (formula.needs, keys):
        spec = config.build(SPECS["blur"], {"kernel": name, **{key: numbers[key] for key in given}}, "")
        assert isinstance(spec, KernelSpec)
        assert tuple(spec.tensor().shape) == spec.kernel_size


@pytest.mark.parametrize(
    "node, message",
    [
        ("blr", "unknown operator 'blr'.*Did you mean 'blur'"),
        ({"blurr": {}}, "Did you mean 'blur'"),
        ({"blur": {"kernel": "gaussian", "sdt": 3}}, "op: blur: unknown key sdt. Did you mean 'std'"),
        ({"blur": {"kernel": "gausian", "std": 3}}, "Did you mean 'gaussian'"),
        ({"blur": {"kernel": "gaussian"}}, "std is missing; gaussian needs std"),
        ({"blur": {"kernel": "gaussian", "std": 3, "radius": 2}}, "radius: is not for gaussian"),
        ({"blur": {"kernel": "gaussian", "std": -3}}, "std: expected a size in pixels"),
        ({"blur": {"kernel": "k.png", "std": 3}}, "std: is not for a file, which takes no numbers"),
        ({"blur": 3}, "op: blur: expected keys and values, got 3"),
        ({"blur": {}}, "op: blur: kernel is missing"),
        ({"downsample": {"factor": 1}}, "factor: expected a whole number from 2 to 16, got 1"),
        ({"downsample": {"factor": "two"}}, "op: downsample: factor: .*got 'two'"),
        ({"mask": {}}, "either pattern: box, random, ..., or file"),
        ({"mask": {"pattern": "box", "height": 3, "missing": 0.5}}, "missing: is not for box"),
        ({"mask": {"pattern": "stripes", "width": 3}}, "period is missing; stripes needs width, period"),
        ({"quantize": {"bits": 0}}, "bits: expected a whole number from 1 to 16, got 0"),
        ({"clip": {"gain": -1}}, "gain: expected a number above 0"),
        ({"jpeg": {"quality": 101}}, "quality: expected a whole number from 1 to 100"),
        ({"compressed_sensing": {"ratio": 2}}, "ratio: expected a number above 0, at most 1"),
        ({"phase_retrieval": {"oversampling": 0.5}}, "oversampling: expected a number from 1"),
        ({"grayscale": {"weights": [0, 0, 0]}}, "expected finite numbers, not all zero"),
        ([], "expected one operator with its keys"),
        (3, "expected one operator with its keys, .* got 3"),
        ({"clip": {}, "blur": {}}, "got the keys clip, blur"),
        ({"stack": {}}, "stack: expected a list of operators"),
        ({"stack": [{"blr": {}}]}, "unknown operator 'blr'"),
        ([{"scale": 0}], "scale: .*expected a finite number other than 0"),
        ([{"scale": math.inf}], "scale: .*expected a finite number other than 0, got inf"),
        ({"blur": {"kernel": "motion", "length": 5, "angle": math.inf}}, "angle: expected a finite number"),
        ({"blur": {"kernel": "gaussian", "std": math.inf}}, "std: .*above 0, up to 1000, got inf"),
        ({"blur": {"kernel": "gaussian", "std": 0}}, "std: .*above 0, up to 1000, got 0"),
        ({"blur": {"kernel": "random_motion", "size": 8}}, "size: expected an odd number of pixels, got 8"),
        ({"blur": {"kernel": "gaussian", "std": 1, "size": 6}}, "size: expected an odd number of pixels"),
        ({"mask": {"pattern": "random", "missing": 1}}, "missing: expected the part of the pixels to lose"),
        ({"mask": {"pattern": "random", "missing": 0.5, "seed": -1}}, "seed: expected a whole number from 0"),
        ({"mask": {"pattern": "box", "height": 0}}, "height: expected a whole number of at least 1, got 0"),
        ({"mask": {"pattern": "box", "height": 3, "top": -1}}, "top: expected a whole number of at least 0"),
        ({"mask": {"pattern": "stripes", "width": 5, "period": 5}}, "width: .* from 1 to 4, got 5"),
        ({"mask": {"pattern": "lines", "every": 1}}, "every: expected a whole number of at least 2, got 1"),
        ({"mask": {"pattern": "lines", "every": 3, "offset": 3}}, "offset: .* from 0 to 2, got 3"),
        ({"mask": {"pattern": "lines", "offset": 2}}, "offset: .* from 0 to 1, got 2"),
        ({"mask": {"pattern": "border", "margin": -1}}, "margin: expected a whole number of at least 1"),
        (
            {"jpeg": {"tables": [[1] * 63]}},
            "tables: expected 64 whole numbers from 1 to 32767 in each, got 63",
        ),
        ({"jpeg": {"tables": [[0] * 64]}}, "tables: expected 64 whole numbers from 1 to 32767"),
        ({"jpeg": {"tables": [[1] * 64] * 4}}, "tables: expected one to three, got 4"),
        ({"compressed_sensing": {"ratio": 0.5, "seed": -1}}, "seed: expected a whole number from 0"),
        (
            {"grayscale": {"weights": [1, 2]}},
            r"weights: expected rec601, mean or three numbers, got \[1, 2\]",
        ),
        ({"grayscale": {"weights": "men"}}, "weights: expected rec601, mean or three numbers, got 'men'"),
        ({}, "expected one operator with its keys, .* got nothing"),
        ("", "expected one operator with its keys, .* got nothing"),
        (None, "expected one operator with its keys, .* got nothing"),
        ({"diagonal": {}}, "diagonal: file is missing"),
        ([{"scale": "big"}], "scale: .*got 'big'"),
        ([{"phase_retrieval": {}}, DOWN], "downsample: what phase_retrieval measures is no picture"),
    ],
    ids=str,
)
def test_what_cannot_be_said_is_one_line(node: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        build(node, "op")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "node, shape, message",
    [
        (
            {"stack": ["identity", "demosaic"]},
            (1, 8, 8),
            r"stack: part 2 \(demosaic\): demosaic: expected a colour",
        ),
        ({"stack": [BOX, GAUSSIAN]}, (3, 8, 8), r"stack: part 2 \(blur\): the kernel gaussian:1 \(9×9\)"),
        ([DOWN, {"downsample": {"factor": 16}}], (3, 16, 16), "8×8 cannot be reduced by 16"),
        ([GAUSSIAN, "grayscale", "grayscale"], SHAPE, "grayscale: expected a colour picture"),
        ({"compressed_sensing": {"ratio": 0.5}}, (3, 6, 6), "6×6 = 36; use transform: dct"),
        (
            {"mask": {"pattern": "box", "height": 9}},
            (3, 8, 8),
            "mask: box: height: .* from 1 to 8, got 9; .* 8×8",
        ),
        ({"mask": {"pattern": "box", "height": 4, "top": 5}}, (3, 8, 8), "top: .* from 0 to 4, got 5"),
        ({"mask": {"pattern": "box", "height": 8}}, (3, 8, 8), "a hole smaller than the picture"),
        ({"mask": {"pattern": "border", "margin": 4}}, (3, 8, 8), "margin: .* from 1 to 3, got 4"),
        ({"mask": {"pattern": "stripes", "width": 2, "period": 11}}, (3, 8, 8), "a stripe within 8, got 11"),
        (
            {"mask": {"pattern": "lines", "every": 20, "offset": 8}},
            (3, 8, 8),
            "offset: .* from 0 to 7, got 8",
        ),
        ({"mask": {"pattern": "random", "missing": 0.001}}, (3, 8, 8), "some pixels kept and some lost"),
        (FLAT, (3, 8, 8), "flat.npy: expected weights of the picture's size, 3x8x8 or 8x8, got 1x16x32"),
        ({"diagonal": {"file": "field.npy"}}, (1, 16, 32), "picture's size, 1x16x32 or 16x32, got 3x16x32"),
        ({"diagonal": {"file": "nowhere.npy"}}, SHAPE, "nowhere.npy: no such file"),
    ],
    ids=str,
)
def test_a_shape_that_does_not_fit_names_the_part(node: Any, shape: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        said(node).measured(shape)


def test_files_are_looked_for_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    np.save(tmp_path / "inner" / "k.npy", np.ones((3, 3)))
    Image.fromarray(np.eye(16, 32, dtype=np.uint8) * 255).save(tmp_path / "inner" / "m.png")
    (tmp_path / "inner" / "op.yaml").write_text(
        "operator: [{blur: {kernel: k.npy}}, {mask: {file: m.png}}]\nshape: [3, 16, 32]\nnoise: 0.1\n"
    )
    spec, file = read_operator(str(tmp_path / "inner" / "op.yaml"))
    assert (file.shape, file.noise) == (SHAPE, 0.1)
    assert spec.measured(SHAPE) == SHAPE
    y = spec.operator(SHAPE).A(torch.ones(1, *SHAPE))
    assert float(y[0, 0, 3, 3]) == 0
    assert float(y[0, 0, 3, 4]) == pytest.approx(1)
    first = spec.describe()
    np.save(tmp_path / "inner" / "k.npy", np.ones((5, 5)))
    assert read_operator(str(tmp_path / "inner" / "op.yaml"))[0].describe() != first


@pytest.mark.parametrize(
    "text, message",
    [
        ("operator: {clip: {gain: 2}}\nshap: [3, 4, 4]\n", "op.yaml: unknown key shap. Did you mean 'shape'"),
        ("shape: [3, 4, 4]\n", "op.yaml: operator is missing"),
        ("operator: clip\nshape: [3, 4]\n", "op.yaml: shape"),
        ("operator: clip\nshape: [3, 0, 4]\n", "op.yaml: .*each at least 1"),
        ("operator: {clip\n", "op.yaml: line 2: not valid YAML"),
        ("operator: {blur: {kernel: missing.npy}}\n", "missing.npy: no such file"),
    ],
)
def test_a_spec_file_that_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "op.yaml").write_text(text)
    with pytest.raises(RequestError, match=message):
        read_operator(str(tmp_path / "op.yaml"))[0].measured(SHAPE)


@pytest.mark.parametrize("given", ["{}", "", "[]"])
def test_nothing_is_no_operator(given: str) -> None:
    with pytest.raises(RequestError, match=r"--operator: expected one operator with its keys, .* got"):
        read_operator(given)


@pytest.mark.parametrize(
    "weights, message",
    [
        (np.zeros((16, 32)), "not all zero"),
        (np.full((16, 32), np.nan), "expected finite numbers"),
        (np.ones(32), r"expected weights \(H, W\) or \(C, H, W\)"),
    ],
)
def test_weights_that_cannot_be_are_one_line(weights: Any, message: str) -> None:
    np.save("bad.npy", weights)
    with pytest.raises(RequestError, match=message):
        said({"diagonal": {"file": "bad.npy"}}).measured(SHAPE)


def test_weights_may_be_a_picture_beside_the_file_and_are_recorded_by_their_checksum(tmp_path: Path) -> None:
    values = np.arange(512, dtype=np.uint16).reshape(16, 32) // 4 + 100
    (tmp_path / "inner").mkdir()
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "inner" / "flat.png")
    (tmp_path / "inner" / "op.yaml").write_text("operator: {diagonal: {file: flat.png}}\n")
    spec = read_operator(str(tmp_path / "inner" / "op.yaml"))[0]
    y = spec.operator(SHAPE).A(torch.ones(1, *SHAPE))
    np.testing.assert_allclose(y[0, 2], values / 255, rtol=1e-6)
    assert len(spec.describe()["diagonal"]["file_sha256"]) == 64


def test_yaml_in_brackets_is_the_operator_or_a_whole_file() -> None:
    assert read_operator("{clip: {gain: 3}}")[0] == said({"clip": {"gain": 3}})
    spec, file = read_operator("{operator: [clip, {scale: 2}], shape: [1, 4, 4]}")
    assert isinstance(spec, Composition)
    assert file.shape == (1, 4, 4)
    with pytest.raises(RequestError, match=r"not valid YAML .*in quotes"):
        read_operator("{clip: {")


def test_a_listing_names_every_key() -> None:
    for name, kind in SPECS.items():
        line = usage(name)
        assert line.startswith(f"{{{name}: {{")
        assert all(field.name in line for field in dataclasses.fields(kind))
    assert usage("downsample") == (
        "{downsample: {factor: ..., kernel: bicubic|box|lanczos, edges: renormalise|reflect}}"
    )


# ------------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize(
    "given, model",
    [
        ("poisson:50", operators.PoissonNoise(50)),
        ("poisson-gaussian:50,0.1", operators.PoissonGaussianNoise(50, 0.1)),
        ("salt-pepper:0.1", operators.SaltAndPepperNoise(0.1)),
        ("laplace:0.05", operators.LaplaceNoise(0.05)),
        ("quantised:3", operators.QuantisationNoise(3)),
        ({"poisson": {"peak": 50}}, operators.PoissonNoise(50)),
    ],
)
def test_noise_is_said_by_name_and_numbers(given: Any, model: operators.Noise) -> None:
    noise = parse_noise(given)
    assert isinstance(noise, tuple(NOISES.values()))
    assert noise.model().describe() == model.describe()
    assert noise.spread > 0
    assert parse_noise(str(noise)) == noise == parse_noise(as_yaml(noise))


def test_gaussian_noise_by_name_is_its_number() -> None:
    assert parse_noise("gaussian:0.1") == 0.1


def test_the_spread_of_noise_is_about_that_of_its_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    grey = torch.full((1, 1, 200, 200), 0.5, dtype=torch.float64)
    for given in ("poisson:50", "poisson-gaussian:50,0.1", "salt-pepper:0.1", "laplace:0.05"):
        noise = parse_noise(given)
        assert not isinstance(noise, (float, str))
        drawn = (noise.model().sample(grey, generator) - grey).std()
        assert noise.spread == pytest.approx(float(drawn), rel=0.05)


@pytest.mark.parametrize("given", ["poisson:50", "poisson-gaussian:50,0.1", "laplace:0.05"])
def test_three_copies_of_a_measurement_count_as_one(given: str) -> None:
    noise = parse_noise(given)
    assert not isinstance(noise, (float, str))
    clean = torch.tensor([[0.3], [0.5], [0.8]], dtype=torch.float64)
    y = clean + 0.3
    one = noise.model().deviance(y, clean)
    three = noise.copied(3).model().deviance(y.expand(-1, 3), clean.expand(-1, 3))
    torch.testing.assert_close(three, one, rtol=0.1, atol=0)


@pytest.mark.parametrize(
    "given, message",
    [
        ("poison:50", "Did you mean 'poisson'"),
        ("poisson:", "expected poisson:PEAK"),
        ("poisson:50,3", "expected poisson:PEAK"),
        ("poisson:-1", "peak: expected a number above 0"),
        ("poisson-gaussian:50", "expected poisson-gaussian:PEAK,SIGMA"),
        ("salt-pepper:2", "amount: expected a number above 0, at most 0.999"),
        ("quantised:2.5", "bits"),
        ("gaussian:2", "8-bit 25 is 0.098"),
        ("gaussian", "expected auto, or a standard deviation"),
        ({"gaussian": {"sigma": 0.1}}, "give its standard deviation alone"),
        ({"poisson": {"peek": 50}}, "unknown key peek. Did you mean 'peak'"),
        ({"poisson": 50}, "expected keys and values"),
        ({"poisson": {}, "laplace": {}}, "expected one model"),
        (True, "expected auto, or a standard deviation"),
        ("2", "8-bit 25 is 0.098"),
    ],
)
def test_noise_that_cannot_be_is_one_line(given: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_noise(given)


# ------------------------------------------------------------------------------------------- other people's code

OWN = """
from invdiff.operators import Identity, LinearOperator, Operator


class Half(LinearOperator):
    "Every other row."

    def __init__(self, shape, strength=1.0):
        vars(self).update(in_shape=shape, out_shape=(shape[0], shape[1] // 2, shape[2]), strength=strength)

    @staticmethod
    def unknown(measured):
        return measured[0], 2 * measured[1], measured[2]

    def A(self, x):
        return self.strength * self._image(x)[:, :, ::2]

    def A_adjoint(self, y):
        x = y.new_zeros(len(y), *self.in_shape)
        x[:, :, ::2] = self.strength * self._measurement(y)
        return x


class Wrong(Half):
    def A_adjoint(self, y):
        return 2 * super().A_adjoint(y)


class Breaks(Half):
    def A(self, x):
        raise RuntimeError("too many\\nthings")


def number(shape):
    return 3


def other(shape):
    return Identity((1, 2, 3))


ready = Identity((3, 16, 32))
three = 3
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def test_a_class_in_a_file_is_an_operator(own: str) -> None:
    spec = said({f"{own}:Half": {"strength": 2.0}})
    assert spec.abilities() >= catalog.MASK  # not known before there is a shape
    assert spec.abilities(SHAPE) == catalog.LINEAR
    assert spec.measured(SHAPE) == (3, 8, 32)
    assert spec.unknown((3, 8, 32)) == SHAPE
    x = torch.rand(1, *SHAPE)
    torch.testing.assert_close(spec.operator(SHAPE).A(x), 2 * x[:, :, ::2])
    assert not list(Path(own).parent.glob("__pycache__"))
    assert said(f"{own}:ready").operator(SHAPE).describe() == operators.Identity(SHAPE).describe()


def test_code_of_the_users_composes(own: str) -> None:
    spec = said([GAUSSIAN, f"{own}:Half", {"scale": 2.0}])
    assert spec.measured(SHAPE) == (3, 8, 32)
    assert spec.abilities(SHAPE) == catalog.LINEAR
    assert spec.pictorial(SHAPE)


@pytest.mark.parametrize(
    "name, message",
    [
        ("Hall", r"own.py: no Hall in it. Did you mean 'Half'\? Known: Half, Wrong, Breaks, number, other"),
        ("", "say which class, as in .*own.py:MyOp"),
        ("Wrong", "own.py:Wrong: .*A_adjoint is not the adjoint of A"),
        ("Breaks", r"own.py:\d+: RuntimeError .*: too many things"),
        ("number", r"expected an invdiff.operators.Operator for a picture 3x16x32, got int"),
        ("other", "expected an operator over pictures 3x16x32, got one over 1x2x3"),
        ("three", "expected a class or function of"),
    ],
)
def test_code_that_does_not_do_is_one_line(own: str, name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        said(f"{own}:{name}" if name else own).operator(SHAPE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "code, line",
    [("import nowhere_to_be_found\n", 1), ("x = 1\ndef f(:\n", 2), ("x = 1\n\nraise OSError('no')\n", 3)],
)
def test_a_file_that_cannot_be_run_is_named_with_its_line(tmp_path: Path, code: str, line: int) -> None:
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(RequestError, match=rf"bad.py:{line}: "):
        said(f"{tmp_path / 'bad.py'}:f").operator(SHAPE)


@pytest.mark.parametrize(
    "code, when",
    [
        ("import sys\nsys.exit(0)\n", "2: SystemExit when it was imported: 0"),
        ("def f(shape):\n    raise SystemExit\n", "2: SystemExit for a picture 3x16x32: no message"),
        (
            "from invdiff.operators import Identity\nclass f(Identity):\n    def A(self, x):\n        exit()\n",
            "4: SystemExit on random pictures",
        ),
    ],
)
def test_code_that_exits_does_not_end_everything_else(tmp_path: Path, code: str, when: str) -> None:
    (tmp_path / "ends.py").write_text(code)
    with pytest.raises(RequestError, match=f"ends.py:{when}"):
        said(f"{tmp_path / 'ends.py'}:f").operator(SHAPE)


def test_what_code_prints_is_no_output_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loud.py").write_text(
        "from invdiff.operators import Identity\nprint('imported')\n"
        "class Loud(Identity):\n    def A(self, x):\n        print('measured')\n        return super().A(x)\n"
        "def make(shape):\n    print('made')\n    return Loud(shape)\n"
    )
    said(f"{tmp_path / 'loud.py'}:make").operator(SHAPE)
    out, err = capsys.readouterr()
    assert out == ""
    assert {"imported", "made", "measured"} <= set(err.split())


def test_a_file_imports_its_neighbours_and_inherits_nothing(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "ghost_of_invdiff.py").write_text(
        "from invdiff.operators import Identity\nclass Ghost(Identity):\n    pass\n"
    )
    (tmp_path / "inner" / "op.py").write_text(
        "from ghost_of_invdiff import Ghost\n"
        "def make(shape: tuple):\n    assert make.__annotations__['shape'] is tuple\n    return Ghost(shape)\n"
    )
    before = list(sys.path)
    assert type(said("inner/op.py:make").operator(SHAPE)).__name__ == "Ghost"
    assert sys.path == before


def test_settings_it_does_not_take_are_refused(own: str) -> None:
    with pytest.raises(RequestError, match=r"own.py:Half: TypeError .*strngth"):
        said({f"{own}:Half": {"strngth": 2}}).operator(SHAPE)


def test_the_record_of_a_file_changes_with_its_text(own: str) -> None:
    before = said(f"{own}:Half").describe()
    Path(own).write_text(OWN + "\n")
    assert said(f"{own}:Half").describe() != before


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that offers two operators, of which one cannot be imported."""
    (tmp_path / "third_party_op.py").write_text(OWN)
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nhalf = third_party_op:Half\nbroken = nowhere_to_be_found:Thing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("package")
def test_installed_packages_offer_operators_and_a_broken_one_breaks_nothing_else() -> None:
    assert {"half", "broken"} <= set(offered())
    spec = said("half")
    assert isinstance(spec, Foreign)
    assert spec.measured(SHAPE) == (3, 8, 32)
    assert said({"half": {"strength": 0.5}}).abilities(SHAPE) == catalog.LINEAR
    with pytest.raises(RequestError, match=r"broken: ModuleNotFoundError \(nowhere_to_be_found:Thing"):
        said("broken").operator(SHAPE)
    with pytest.raises(RequestError, match="Did you mean 'half'"):
        said("halv")
