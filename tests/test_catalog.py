"""Names, and which method can treat which problem."""

from __future__ import annotations

import pytest

from invdiff import catalog
from invdiff.errors import InvdiffError, RequestError, nearest


def test_a_name_is_the_key_it_stands_under() -> None:
    for entries in (catalog.METHODS, catalog.TASKS, catalog.PRIORS):
        assert all(info.name == name for name, info in entries.items())


def test_the_nearest_name_is_offered_and_a_far_one_is_not() -> None:
    assert nearest("inpant", catalog.TASKS) == " Did you mean 'inpaint'?"
    assert nearest("MMPS", catalog.METHODS) == " Did you mean 'mmps'?"
    assert nearest("xyzzy", catalog.METHODS) == ""


@pytest.mark.parametrize(
    ("method", "abilities", "sigma_y"),
    [
        ("repaint", catalog.LINEAR, 0.0),
        ("repaint", catalog.MASK, 0.1),
        ("ddnm", catalog.LINEAR, 0.1),
        ("mmps", catalog.ANY, 0.0),
    ],
)
def test_an_impossible_pairing_names_the_methods_that_would_do(
    method: str, abilities: frozenset[str], sigma_y: float
) -> None:
    with pytest.raises(RequestError) as caught:
        catalog.check_method(method, abilities, sigma_y)
    would_do = str(caught.value).split("can do this: ")[1].rstrip(".").split(", ")
    assert would_do == list(catalog.usable_methods(abilities, sigma_y))
    assert method not in would_do
    for name in would_do:
        catalog.check_method(name, abilities, sigma_y)


@pytest.mark.parametrize("task", catalog.TASKS)
@pytest.mark.parametrize("sigma_y", [0.0, 0.1])
def test_every_task_has_a_method_and_auto_is_always_allowed(task: str, sigma_y: float) -> None:
    abilities = catalog.task_info(task).abilities
    assert "dps" in catalog.usable_methods(abilities, sigma_y)
    catalog.check_method(catalog.AUTO, abilities, sigma_y)


def test_noise_takes_away_what_only_exact_measurements_allow() -> None:
    assert "ddnm" in catalog.usable_methods(catalog.LINEAR, 0.0)
    assert "ddnm" not in catalog.usable_methods(catalog.LINEAR, 0.01)
    assert "ddnm" in catalog.usable_methods(catalog.SPECTRAL, 0.01)


def test_an_unknown_name_is_a_wrong_request_that_lists_what_there_is() -> None:
    with pytest.raises(RequestError, match=r"unknown method 'dsp', expected one of dps, .*auto"):
        catalog.check_method("dsp", catalog.LINEAR, 0.0)
    with pytest.raises(RequestError, match="unknown task"):
        catalog.task_info("upscale")


def test_exit_codes_tell_a_wrong_request_from_a_failure() -> None:
    assert (RequestError.exit_code, InvdiffError.exit_code) == (2, 1)
    assert issubclass(RequestError, ValueError)
