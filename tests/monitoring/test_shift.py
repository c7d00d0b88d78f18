"""Quiet weeks stay quiet, whole cases at a time; a real shift is seen from 200 crops on."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from supcam.cli.app import app
from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.monitoring.answers import read_answers, require_answers_of
from supcam.monitoring.shift import compare_groups, compare_with_reference
from supcam.serving.gate import UNLIKE_TRAINING
from supcam.settings import WatchSettings

SETTINGS = WatchSettings()
SHARES = [0.8, 0.12, 0.05, 0.03]


def answers(count: int, cases: int, seed: int, *, spread: float = 8.0) -> pd.DataFrame:
    """Crops of cases whose shares of types differ (Dirichlet; the smaller ``spread``, the more)."""
    rng = np.random.default_rng(seed)
    case = np.sort(rng.integers(cases, size=count))
    shares = rng.dirichlet(spread * np.array(SHARES), size=cases)
    types = [TYPE_LABELS[rng.choice(4, p=shares[number])] for number in case]
    confidence = np.clip(rng.beta(9, 1, size=count), 0.26, 1.0)
    unlike = rng.random(count) < 0.01
    frame = pd.DataFrame({"type": types, "confidence": confidence, "case": [f"c{number}" for number in case]})
    frame["needs_review"] = (confidence < 0.7) | unlike
    return frame.assign(reason=np.where(unlike, UNLIKE_TRAINING, np.where(confidence < 0.7, "low confidence", "")))


@pytest.mark.parametrize("with_cases", [True, False])
def test_quiet_weeks_rarely_raise_an_alarm(with_cases: bool) -> None:
    alarms = 0
    for seed in range(60):
        reference, week = answers(600, 30, seed), answers(200, 10, 1000 + seed)
        if not with_cases:  # then cases must not differ: crops count as independent
            reference, week = (
                answers(size, 1, start + seed, spread=1e6).drop(columns="case")
                for size, start in ((600, 0), (200, 1000))
            )
        alarms += bool(compare_with_reference(reference, week, SETTINGS).alarms)
    assert alarms <= 6  # 5 % of 60 are 3; more than 6 happens once in 30 runs, and the seeds are fixed


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda week: week.assign(type=np.where(np.arange(len(week)) % 3 == 0, "touching", week["type"])), "types"),
        (lambda week: week.assign(confidence=(week["confidence"] - 0.15).clip(lower=0.26)), "confidence"),
        (lambda week: week.assign(needs_review=week["needs_review"] | (np.arange(len(week)) % 4 == 0)), "review"),
        (lambda week: week.assign(reason=np.where(np.arange(len(week)) % 6 == 0, UNLIKE_TRAINING, "")), "unlike"),
    ],
)
def test_each_kind_of_shift_is_named(change: object, found: str) -> None:
    shift = compare_with_reference(answers(600, 30, 1), change(answers(200, 10, 2)), SETTINGS)  # type: ignore[operator]
    assert [alarm.name for alarm in shift.alarms] == [found]


def test_a_calmer_week_is_no_alarm() -> None:
    week = answers(200, 10, 2).assign(needs_review=False, reason="")
    assert not compare_with_reference(answers(600, 30, 1), week, SETTINGS).alarms


def test_groups_share_the_false_alarms_and_small_ones_are_left_out() -> None:
    week = answers(300, 3, 5, spread=1e6).assign(day=["mon"] * 140 + ["tue"] * 150 + ["wed"] * 10)
    week.loc[week["day"] == "tue", "reason"] = UNLIKE_TRAINING
    shifts = compare_groups(answers(600, 30, 1, spread=1e6), week, SETTINGS, "day")
    assert [(shift.group, bool(shift.alarms)) for shift in shifts] == [("mon", False), ("tue", True)]
    with pytest.raises(UsageError, match="no column 'hour'"):
        compare_groups(week, week, SETTINGS, "hour")


def test_a_million_answers_are_read_and_compared(tmp_path: Path) -> None:
    week = pd.concat([answers(10_000, 100, 3)] * 100, ignore_index=True)
    week.to_csv(tmp_path / "week.csv", index=False)
    read = read_answers([tmp_path])
    assert len(read) == 1_000_000
    assert compare_with_reference(answers(600, 30, 1), read, SETTINGS).crops == 1_000_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("type,confidence\ninstance,1\n", "lacks the column needs_review, reason"),
        ("type,confidence,needs_review,reason\nring,1,True,\n", "type 'ring' is unknown"),
        ("type,confidence,needs_review,reason\ninstance,7,True,\n", "confidence a number from 0 to 1"),
        ("type,confidence,needs_review,reason\ninstance,0.7,perhaps,\n", "needs_review must be True or False"),
        ("", "is not a table of answers"),
        ("\x00\x01\xff", "is not a table of answers|lacks the column"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "week.csv").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_answers([tmp_path / "week.csv"])


def test_an_empty_week_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no answers"):
        read_answers([tmp_path])
    (tmp_path / "week.csv").write_text("type,confidence,needs_review,reason\n")
    with pytest.raises(UsageError, match="holds no crop"):
        compare_with_reference(answers(60, 3, 1), read_answers([tmp_path]), SETTINGS)


ONE = {"threshold": 0.7, "by_type": {}}


def test_answers_of_the_model_are_taken() -> None:
    week = answers(300, 10, 2)
    week = week.assign(reason=np.where(week["confidence"] < 0.7, "low confidence", ""))
    require_answers_of(week, ONE, "models:/supcam/2")
    require_answers_of(week.assign(type="", confidence=np.nan, reason="blank"), ONE, "models:/supcam/2")


@pytest.mark.parametrize(("threshold", "words"), [(0.8, "is not marked"), (0.6, "is marked")])
def test_answers_of_another_model_are_refused(threshold: float, words: str) -> None:
    week = answers(300, 10, 2)
    week = week.assign(reason=np.where(week["confidence"] < 0.7, "low confidence", ""))
    with pytest.raises(UsageError, match=rf"answers are not of models:/supcam/2.*{words} 'low confidence'.*--model"):
        require_answers_of(week, {"threshold": threshold, "by_type": {}}, "models:/supcam/2")


def test_the_week_of_cases_is_drawn_with_their_sizes() -> None:
    """Small cases drawn whole from a reference of large ones looked far steadier than they are."""
    reference = answers(3000, 30, 1, spread=1e6)
    alarms = 0
    for seed in range(30):
        week = answers(60, 20, 1000 + seed, spread=1e6)
        alarms += bool(compare_with_reference(reference, week, SETTINGS).alarms)
    assert alarms <= 4


@pytest.mark.parametrize("named", [True, False])
def test_new_cases_of_few_slides_rarely_raise_an_alarm(named: bool) -> None:
    """Answers that name no cases counted as independent: three slides in ten weeks were an alarm."""
    alarms = 0
    for seed in range(30):
        reference, week = answers(600, 8, seed), answers(300, 4, 1000 + seed)
        alarms += bool(compare_with_reference(reference, week if named else week.drop(columns="case"), SETTINGS).alarms)
    assert alarms <= 4


def test_a_million_cases_are_compared_in_little_memory() -> None:
    week = answers(2000, 1, 3, spread=1e6)
    week = pd.concat([week] * 100, ignore_index=True)
    week["case"] = np.arange(len(week)).astype(str)
    assert compare_with_reference(answers(600, 30, 1), week, SETTINGS).crops == 200_000


def test_the_command_ends_3_on_an_alarm_and_shows_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answers(600, 30, 1).to_csv("reference.csv", index=False)
    week = answers(200, 10, 2)
    week.to_csv("quiet.csv", index=False)
    week.assign(reason=UNLIKE_TRAINING).to_csv("loud.csv", index=False)
    run = CliRunner().invoke(app, ["watch", "quiet.csv", "--reference", "reference.csv", "--into", "out"])
    assert (run.exit_code, "No alarm" in Path("out/watch.html").read_text()) == (0, True)
    run = CliRunner().invoke(app, ["watch", "loud.csv", "--reference", "reference.csv", "--into", "out"])
    assert "unlike" in str(run.exception)
    assert "1 alarm." in Path("out/watch.html").read_text()
