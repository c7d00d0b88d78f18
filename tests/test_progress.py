"""Progress where there is no terminal: a line a minute, with what is done and how long the rest takes."""

import pytest

from supcam.progress import ProgressLines, progress_bar


def test_a_line_every_minute_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = ProgressLines("pretrain", clock=lambda: now[0])
    for done in range(1, 301):  # a step a second
        now[0] = float(done)
        lines(done, 600)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"pretrain: {done} of 600, about {(600 - done) / 60:.0f} min left" for done in range(60, 301, 60)]


def test_the_start_of_workers_is_no_pace(capsys: pytest.CaptureFixture[str]) -> None:
    """After 100 s of starting, "1 of 12000, about 20000 min left"."""
    now = [0.0]
    lines = ProgressLines("composites", clock=lambda: now[0])
    for done in range(1, 201):
        now[0] = 100.0 + done
        lines(done, 600)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "composites: 1 of 600",
        *[f"composites: {done} of 600, about {(600 - done) / 60:.0f} min left" for done in (61, 121, 181)],
    ]


def test_quick_work_says_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("import") as progress:
        progress(1, 2)
        progress(2, 2)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
