"""What two packages are compared on: crops that neither has seen, by fresh answers where the crops are available."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from supcam.registry import comparison
from supcam.registry.comparison import compare_packages, latency_ms, shared_rows
from supcam.registry.evidence import ProjectCrops, computed_answers
from supcam.registry.package import SPLIT_FILE, read_split, write_checksums
from supcam.serving.engine import PREDICTIONS_FILE, Engine
from supcam.serving.engine import PROBABILITY_COLUMNS as COLUMNS
from tests.registry.crops import crop_rows, project_crops


def edited(package: Path, copy: Path, name: str, frame: pd.DataFrame) -> Path:
    """A copy of a package with another table."""
    shutil.copytree(package, copy)
    frame.to_csv(copy / name, index=False)
    write_checksums(copy)
    return copy


def test_crops_that_validated_either_model_do_not_count(package: Path, tmp_path: Path) -> None:
    split = read_split(package)
    hashes = crop_rows(40, 0)["sha256"]
    split.loc[split["sha256"].isin(hashes[:10]), "split"] = "validation"
    other = edited(package, tmp_path / "other", "split.csv", split)
    for pair in ((package, other), (other, package)):
        assert set(shared_rows(*pair)["sha256"]) == set(hashes[10:])


def test_only_crops_that_both_models_were_run_on_count(package: Path, tmp_path: Path) -> None:
    """Stored answers may be of a decoder or a runtime of long ago, or of another model; they count only when asked."""
    stored = pd.read_csv(package / PREDICTIONS_FILE, dtype={"sha256": str})
    other = edited(package, tmp_path / "other", PREDICTIONS_FILE, stored.assign(**dict.fromkeys(COLUMNS, 0.25)))
    whole, rows = project_crops(), shared_rows(package, other)
    crops = ProjectCrops(whole.manifest[whole.manifest["sha256"].isin(stored["sha256"][:30])], whole.root)
    answers = computed_answers(package, rows["sha256"], crops)
    assert len(answers) == 30
    found = compare_packages(rows, answers, answers)
    assert found is not None and (len(found.types), found.stored) == (30, 0)
    assert np.allclose(found.production, Engine(package).predict([crops.paths[one] for one in answers])[0], atol=1e-6)
    asked = compare_packages(rows, answers, answers, (package, other))
    assert asked is not None and (len(asked.types), asked.stored) == (40, 20)
    assert (asked.production == 0.25).all(axis=1).sum() == 10
    assert compare_packages(rows, {}, answers) is None


def test_a_file_with_other_bytes_is_not_the_crop(package: Path, tmp_path: Path) -> None:
    """An easier picture under the name of a test crop would be answered right by a worse model."""
    whole = project_crops()
    root = Path(shutil.copytree(whole.root, tmp_path / "data"))
    crops = ProjectCrops(whole.manifest, root)
    digests = crop_rows(40, 0)["sha256"].tolist()
    crops.paths[digests[0]].write_bytes(crops.paths[digests[4]].read_bytes())
    crops.paths[digests[1]].unlink()
    assert set(computed_answers(package, digests, crops)) == set(digests[2:])


def test_the_label_of_the_project_counts(package: Path, tmp_path: Path) -> None:
    digest = crop_rows(40, 0)["sha256"][0]
    rows = shared_rows(package, package, {digest: "touching-overlapping"}).set_index("sha256")
    assert rows["type"][digest] == "touching-overlapping"
    assert (rows["type"].drop(digest) == shared_rows(package, package).set_index("sha256")["type"].drop(digest)).all()


def tables(folder: Path, answers: dict[str, tuple[str, int]], split: dict[str, tuple[str, str]]) -> Path:
    """The two tables of a package that are compared: type and answered class by crop, part and case by crop."""
    folder.mkdir()
    rows = [(digest, label, *np.eye(4)[answer]) for digest, (label, answer) in answers.items()]
    pd.DataFrame(rows, columns=["sha256", "type", *COLUMNS]).to_csv(folder / PREDICTIONS_FILE, index=False)
    parts = [(digest, part, case) for digest, (part, case) in split.items()]
    pd.DataFrame(parts, columns=["sha256", "split", "case"]).to_csv(folder / SPLIT_FILE, index=False)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Candidate and production: d is a test crop of both, a and e of one, and each has seen one of the other's."""
    candidate = tables(
        tmp_path / "candidate",
        {"e": ("instance", 0), "d": ("touching", 1), "c": ("touching", 1)},
        {"e": ("test", "x"), "d": ("test", ""), "c": ("test", "x"), "b": ("train", "y"), "a": ("test", "")},
    )
    production = tables(
        tmp_path / "production",
        {"d": ("overlapping", 2), "b": ("instance", 0), "a": ("instance", 3)},
        {"d": ("test", "z"), "b": ("test", "y"), "a": ("test", ""), "c": ("validation", "other")},
    )
    return candidate, production


def test_crops_that_neither_has_seen_are_shared_by_hash(two: tuple[Path, Path]) -> None:
    """The candidate's type is the later one, a case is known to either, and a crop without one is its own."""
    rows = shared_rows(*two)
    assert list(rows) == ["sha256", "type", "case"]
    assert rows.to_numpy().tolist() == [
        ["a", "instance", "a"],
        ["d", "touching", "z"],
        ["e", "instance", "x"],
    ]


def test_of_several_stored_answers_to_a_crop_the_first_counts(two: tuple[Path, Path]) -> None:
    for folder in two:
        answers = pd.read_csv(folder / PREDICTIONS_FILE)
        again = answers.assign(**dict.fromkeys(COLUMNS, 0.25))
        pd.concat([answers, again]).to_csv(folder / PREDICTIONS_FILE, index=False)
    found = compare_packages(shared_rows(*two), {}, {}, two)
    assert found is not None
    assert (found.candidate.tolist(), found.production.tolist()) == ([[0, 1, 0, 0]], [[0, 0, 1, 0]])


def test_stored_answers_stand_in_only_for_those_that_are_missing(two: tuple[Path, Path]) -> None:
    rows = shared_rows(*two)
    computed = {"d": np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)}
    found = compare_packages(rows, computed, computed, two)
    assert found is not None
    assert (found.types.tolist(), found.cases.tolist(), found.stored) == ([1], ["z"], 2)
    assert found.cases.dtype.kind == "U"
    np.testing.assert_array_equal(found.candidate, [computed["d"]])
    both = computed | {"e": np.full(4, 0.25, dtype=np.float32)}
    found = compare_packages(rows, computed, both, two)
    assert found is not None
    assert (found.types.tolist(), found.cases.tolist(), found.stored) == ([1, 0], ["z", "x"], 2)
    np.testing.assert_array_equal(found.candidate, [computed["d"], [1, 0, 0, 0]])
    np.testing.assert_array_equal(found.production, [computed["d"], both["e"]])


def test_latency_is_the_median_of_answers_to_one_crop_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[NDArray[np.uint8]] = []

    class Timed:
        size = 8

        def __init__(self, package: Path, threads: int) -> None:
            assert (package, threads) == (Path("package"), 1)

        def predict(self, crops: list[NDArray[np.uint8]]) -> None:
            seen.extend(crops)

    ticks = itertools.chain.from_iterable(
        (float(10 * n), 10 * n + seconds) for n, seconds in enumerate((1.0, 9.0, 2.0))
    )
    monkeypatch.setattr(comparison, "Engine", Timed)
    monkeypatch.setattr(comparison, "perf_counter", lambda: next(ticks))
    assert latency_ms(Path("package"), repeats=3) == 2000.0
    assert len(seen) == 3
    assert seen[0].dtype == np.uint8
    assert sorted(set(np.argwhere(seen[0] == 90).ravel().tolist())) == [2, 3]
    assert (seen[0] == 255).sum() == 64 - 4
