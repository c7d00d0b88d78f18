"""What to label next: uncertain, unlike and different crops, rare types first."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from supcam.cli.app import app
from supcam.review.selection import choose, select
from supcam.review.sheet import read_sheet
from supcam.serving.engine import PROBABILITY_COLUMNS
from supcam.serving.gate import UNLIKE_TRAINING
from tests.registry.crops import rectangles
from tests.registry.small import export


def probabilities(types: list[int], confidence: list[float]) -> np.ndarray:
    out = np.repeat((1 - np.array(confidence))[:, None] / 3, 4, axis=1)
    out[np.arange(len(types)), types] = confidence
    return out


def spread(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3))


def test_rare_types_come_first_and_get_as_many_places() -> None:
    types = [0] * 80 + [1] * 12 + [2] * 5 + [3] * 3
    chosen = choose(probabilities(types, [0.9] * 100), spread(100), 20)
    assert len(set(chosen)) == 20
    counts = np.bincount([types[index] for index in chosen], minlength=4)
    assert counts.tolist() == [6, 6, 5, 3]  # what a rare type cannot fill goes to the others
    assert [types[index] for index in chosen[:4]] == [3, 2, 1, 0]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 50, 99, 100, 1000])
def test_exactly_as_many_as_asked_for_or_all(count: int) -> None:
    types = [0] * 80 + [1] * 12 + [2] * 5 + [3] * 3
    chosen = choose(probabilities(types, list(np.linspace(0.4, 1, 100))), spread(100), count)
    assert len(chosen) == len(set(chosen)) == min(count, 100)


def test_uncertain_crops_are_chosen_before_certain_ones() -> None:
    confidence = [0.99] * 50 + [0.5] * 10
    chosen = choose(probabilities([0] * 60, confidence), spread(60), 10)
    assert sum(index >= 50 for index in chosen) >= 3  # among the 40 least certain, different ones
    assert chosen[0] >= 50


def test_unlike_crops_count_as_uncertain() -> None:
    unlike = np.arange(200) >= 196
    chosen = choose(probabilities([0] * 200, [0.99] * 200), spread(200), 20, unlike=unlike)
    assert {196, 197, 198, 199} & set(chosen)
    assert chosen[0] >= 196


def test_copies_of_one_crop_are_not_all_chosen() -> None:
    features = spread(40)
    features[:20] = features[0]  # twenty pictures of one body, the least certain of all
    chosen = choose(probabilities([0] * 40, [0.5] * 20 + [0.6] * 20), features, 10)
    assert sum(index < 20 for index in chosen) == 1


def test_equal_crops_still_fill_the_places() -> None:
    assert len(choose(probabilities([0] * 40, [0.5] * 40), np.zeros((40, 3)), 10)) == 10


def answers(count: int) -> pd.DataFrame:
    values = probabilities([index % 4 for index in range(count)], [0.7] * count)
    frame = pd.DataFrame(values, columns=list(PROBABILITY_COLUMNS))
    return frame.assign(path=[f"{index}.png" for index in range(count)], type="instance", confidence=0.7, reason="")


def test_what_has_no_type_or_cannot_be_read_is_left_out() -> None:
    frame, features = answers(12), spread(12)
    frame.loc[0, ["type", "reason", *PROBABILITY_COLUMNS]] = ["", "blank", *[np.nan] * 4]
    features[1] = np.nan
    frame.loc[2, "reason"] = UNLIKE_TRAINING
    rows = select(frame, features, 12)
    assert set(rows["path"]) == {f"{index}.png" for index in range(2, 12)}
    assert select(frame.iloc[:1], features[:1], 5).empty
    flat = np.ones((12, 3))  # a statistic that is equal everywhere divides by nothing
    assert len(select(frame, flat, 5)) == 5


def test_the_command_writes_a_page_with_the_chosen_crops(tmp_path: Path) -> None:
    package = export(tmp_path / "model", 1)
    (tmp_path / "week").mkdir()
    for index, content in enumerate(rectangles(40, 5)):
        (tmp_path / "week" / f"{index:02d}.png").write_bytes(content)
    (tmp_path / "week" / "damaged.png").write_bytes(b"none")
    into = tmp_path / "label"
    command = ["review", "select", str(tmp_path / "week"), "--count", "8", "--into", str(into), "--model", str(package)]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    assert "8 of 41 crops" in run.output and "2 touching-overlapping" in run.output
    rows = read_sheet(into / "review.csv")
    assert len(rows) == 8 and rows["corrected"].eq("").all()
    assert all((into / path).is_file() for path in rows["path"])
    assert (into / "review.html").read_text().count("data:image/png;base64,") == 8
    assert CliRunner().invoke(app, command).exit_code != 0  # the folder must be new


def test_a_folder_without_crops_is_named(tmp_path: Path) -> None:
    package = export(tmp_path / "model", 1)
    (tmp_path / "week").mkdir()
    (tmp_path / "week" / "damaged.png").write_bytes(b"none")
    command = ["review", "select", str(tmp_path / "week"), "--count", "8", "--into", str(tmp_path / "label")]
    run = CliRunner().invoke(app, [*command, "--model", str(package)])
    assert "none of the images is a crop" in str(run.exception)
    assert not (tmp_path / "label").exists()
