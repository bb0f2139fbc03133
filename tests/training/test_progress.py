"""What a training run shows where there is no terminal."""

from __future__ import annotations

import pytest

from invdiff.training.progress import Reporter


def test_a_line_stays_a_line_on_standard_error_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold] /a/long/path " * 30 + "end"
    Reporter().line(text)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == text + "\n"


def test_progress_is_plain_lines_with_loss_and_images_per_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Reporter().progress(steps=20, start=10, batch=4) as advance:
        for step in range(11, 21):
            now += 10
            advance(step, 0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"step {step}/20  loss 0.5000  0.4 images/s" for step in (14, 18, 20)]
