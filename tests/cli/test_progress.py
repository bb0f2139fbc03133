"""The reporter: plain lines where there is no terminal, all on standard error."""

from __future__ import annotations

import pytest

from invdiff.cli import progress
from invdiff.cli.progress import Reporter, duration


@pytest.mark.parametrize(
    "seconds, words", [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (65, "1:05 min"), (7380, "2:03 h")]
)
def test_a_duration_is_short_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_without_a_terminal_there_is_a_plain_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 1.0, 9.0, 20.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Reporter(4) as reporter:
        reporter.expect(4)
        reporter.start("a.png")
        reporter.at(0.5)
        reporter.at(1)
        reporter.at(1.5)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "a.png: 25% of all, 1:00 min left\n")


def test_a_quiet_reporter_still_says_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(1, quiet=True) as reporter:
        reporter.say("all is well")
        reporter.say("error: it is not", always=True)
    assert capsys.readouterr().err == "error: it is not\n"


def test_on_a_terminal_there_is_a_bar_with_the_work_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Reporter(1) as reporter:
        reporter.expect(4)
        reporter.start("[1/2] a.png")
        reporter.at(2)
        reporter.say("photo[bold].png: done")
    out, err = capsys.readouterr()
    assert out == ""
    assert "[1/2] a.png" in err
    assert " 50%" in err
    assert "photo[bold].png: done" in err  # brackets in a name are no markup
