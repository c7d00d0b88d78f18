"""Splits: no group crosses, types are spread as well as groups allow, and adding data moves nothing."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supcam.cluster_type import TYPE_LABELS
from supcam.data.dividing import divide_groups, fill_empty_parts
from supcam.data.expectations import validate_splits
from supcam.data.folds import fold_manifest, write_folds
from supcam.data.split_report import PARTS, read_assignments, read_history, write_split
from supcam.data.splits import split_manifest
from supcam.errors import UsageError
from supcam.settings import SplitSettings, ValidateSettings

Make = Callable[..., pd.DataFrame]
BY_CASE = SplitSettings(protocol="by_case")
PAPER = SplitSettings(protocol="paper")
KINDS = {"instance": 20, "touching": 8, "overlapping": 4, "touching-overlapping": 3}


def cases(count: int, start: int = 0) -> dict[str, dict[str, int]]:
    rng = np.random.default_rng(count + start)
    return {
        f"c{index}": {kind: int(rng.integers(1, top)) for kind, top in KINDS.items()}
        for index in range(start, start + count)
    }


def parts_of(frame: pd.DataFrame) -> dict[str, str]:
    return dict(zip(frame["crop_id"], frame["split"], strict=True))


def test_cases_stay_whole_and_shares_are_close(manifest: Make) -> None:
    frame, report = split_manifest(manifest(cases(20)), BY_CASE, None)
    assert (frame.groupby("case_id")["split"].nunique() == 1).all()
    assert report.warnings == []
    totals = frame["type"].value_counts()
    for part, share in zip(PARTS, (0.7, 0.15, 0.15), strict=True):
        for kind in KINDS:
            assert abs(report.counts[part][kind] / totals[kind] - share) <= max(0.05, 1 / totals[kind])


@settings(max_examples=settings().max_examples // 3, deadline=None)
@given(data=st.data())
def test_nothing_crosses_whatever_the_cases(data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(
            st.tuples(st.sampled_from(["", "a", "b", "c", "d", "e"]), st.sampled_from(list(KINDS)), st.integers(0, 30)),
            min_size=12,
            max_size=60,
        )
    )
    frame = pd.DataFrame(rows, columns=["case_id", "type", "sha256"]).assign(source="s")
    frame["crop_id"] = [f"s/{index}" for index in range(len(frame))]
    frame["path"] = frame["crop_id"]
    linked = [data.draw(st.lists(st.sampled_from(list(frame["crop_id"])), min_size=2, max_size=3))]
    frame["sha256"] = frame["sha256"].astype(str)
    try:
        out, report = split_manifest(frame, BY_CASE, None, linked=linked)
    except UsageError:
        return
    assert set(out["split"]) <= set(PARTS)
    assert (out[out["case_id"] != ""].groupby("case_id")["split"].nunique() == 1).all()
    assert (out.groupby("sha256")["split"].nunique() == 1).all()
    assert out.set_index("crop_id").loc[linked[0], "split"].nunique() == 1
    assert sum(sum(kinds.values()) for kinds in report.counts.values()) == len(frame)


@pytest.mark.parametrize("settings", [BY_CASE, PAPER], ids=["by_case", "paper"])
def test_same_input_same_split_and_another_seed_another(manifest: Make, settings: SplitSettings) -> None:
    frame = manifest(cases(15))
    one, first = split_manifest(frame, settings, None)
    two, second = split_manifest(frame.sample(frac=1, random_state=3), settings, None)
    assert parts_of(one) == parts_of(two)
    assert first.split_hash == second.split_hash
    other, third = split_manifest(frame, settings.model_copy(update={"seed": 7}), None)
    assert parts_of(one) != parts_of(other)
    assert first.split_hash != third.split_hash


@pytest.mark.parametrize(
    ("settings", "expected"), [(BY_CASE, "a6ce0f3dd813"), (PAPER, "924e198d0701")], ids=["by_case", "paper"]
)
def test_a_seed_divides_as_it_has_always_done(manifest: Make, settings: SplitSettings, expected: str) -> None:
    """Where code divides the same crops otherwise, crops that trained the model in production become test crops."""
    _, report = split_manifest(manifest(cases(12) | {"": {"instance": 9, "touching": 5}}), settings, None)
    assert report.split_hash[:12] == expected


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        (
            [(3, 1, 1, 1), (2, 2, 1, 0), (0, 0, 0, 1), (3, 0, 0, 1), (0, 2, 0, 0), (3, 0, 0, 0), (2, 0, 1, 0)],
            [1, 0, 0, 0, 0, 0, 2],
        ),
        ([(1, 1, 0, 0)] * 12, [1, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]),
    ],
)
def test_a_seed_divides_small_cases_as_it_has_always_done(cases: list[tuple[int, ...]], expected: list[int]) -> None:
    """Several orders end equally near to the shares, and the first of them counts."""
    rows = [
        (f"c{at:02d}", kind)
        for at, counts in enumerate(cases)
        for kind, count in zip(KINDS, counts, strict=True)
        for _ in range(count)
    ]
    frame = pd.DataFrame(rows, columns=["group", "type"])
    part = divide_groups(frame["type"], frame["group"], (0.7, 0.15, 0.15), 42, {})
    assert part.groupby(frame["group"]).first().tolist() == expected


def test_paper_is_stratified_80_10_10_over_sorted_paths(manifest: Make) -> None:
    frame = manifest({"": {"instance": 200, "touching": 100, "overlapping": 50, "touching-overlapping": 30}})
    _, report = split_manifest(frame, PAPER, None)
    assert list(report.counts["test"].values()) == [20, 10, 5, 3]
    assert list(report.counts["validation"].values()) == [20, 10, 5, 3]


@pytest.mark.parametrize("settings", [BY_CASE, PAPER], ids=["by_case", "paper"])
def test_adding_data_moves_nothing(manifest: Make, settings: SplitSettings, tmp_path: Path) -> None:
    old, report = split_manifest(manifest(cases(10) | {"": {"instance": 30}}), settings, None)
    write_split(old, report, tmp_path)
    previous = read_assignments(tmp_path / "assignments.csv")
    more = pd.concat([manifest(cases(10) | {"": {"instance": 45}}), manifest(cases(8, start=20))])
    new, added = split_manifest(more, settings, previous)
    before, after = parts_of(old), parts_of(new)
    assert {crop_id: after[crop_id] for crop_id in before} == before
    assert added.kept == old["group"].nunique()
    assert added.assigned == new["group"].nunique() - added.kept
    assert {after[crop_id] for crop_id in after.keys() - before.keys()} == set(PARTS)
    assert parts_of(split_manifest(more, settings, None)[0]) != after


def test_new_crops_of_a_known_case_join_it(manifest: Make) -> None:
    old, _ = split_manifest(manifest({f"c{index}": {"instance": 3} for index in range(8)}), BY_CASE, None)
    new, report = split_manifest(manifest({f"c{index}": {"instance": 6} for index in range(8)}), BY_CASE, old)
    assert (new.groupby("case_id")["split"].nunique() == 1).all()
    assert not [text for text in report.warnings if "put apart" in text]


def test_a_case_whose_crops_were_all_replaced_keeps_its_part(manifest: Make) -> None:
    frame = manifest({f"c{index}": {"instance": 3} for index in range(8)})
    old, _ = split_manifest(frame, BY_CASE.model_copy(update={"seed": 3}))
    new, _ = split_manifest(frame.assign(crop_id="new " + frame["crop_id"]), BY_CASE, old)
    assert new["split"].tolist() == old["split"].tolist()
    assert list(new) == [*frame, "split", "group"]
    # Also where the same patients of a source before it in the alphabet give their groups another name.
    joined, _ = split_manifest(
        pd.concat([manifest({f"c{index}": {"instance": 1} for index in range(8)}, "a lab"), new[list(frame)]]),
        BY_CASE,
        old,
    )
    assert set(joined["group"]) == {f"a lab/c{index}" for index in range(8)}
    assert joined.loc[joined["source"] == "lab", "split"].tolist() == old["split"].tolist()


def test_an_earlier_split_without_groups_keeps_its_crops(manifest: Make) -> None:
    frame = manifest({f"c{index}": {"instance": 3} for index in range(8)})
    old, _ = split_manifest(frame, BY_CASE.model_copy(update={"seed": 3}))
    new, _ = split_manifest(frame, BY_CASE, old.drop(columns="group"))
    assert parts_of(new) == parts_of(old)


def test_another_protocol_starts_from_scratch(manifest: Make) -> None:
    old, report = split_manifest(manifest(cases(10)), BY_CASE, None)
    _, new = split_manifest(manifest(cases(10)), PAPER, old.assign(protocol=report.protocol))
    assert new.kept == 0


def test_new_link_between_parts_is_reported_and_moves_nothing(manifest: Make) -> None:
    frame = manifest({f"c{index}": {"instance": 3} for index in range(8)})
    old, _ = split_manifest(frame, BY_CASE, None)
    train = old.loc[old["split"] == "train", "crop_id"].iloc[0]
    test = old.loc[old["split"] == "test", "crop_id"].iloc[0]
    new, report = split_manifest(frame, BY_CASE, old, linked=[[train, test]])
    assert parts_of(new) == parts_of(old)
    joined = min(new.loc[new["crop_id"].isin([train, test]), "group"])
    assert report.warnings[0].startswith(f"group {joined!r} joins crops that an earlier split put apart")
    assert "supcam data resplit" in report.warnings[0]


def test_a_link_of_two_single_crops_of_different_parts_is_reported(manifest: Make) -> None:
    frame = manifest({"": {"instance": 30}})
    old, _ = split_manifest(frame, PAPER)
    pair = [old.loc[old["split"] == part, "crop_id"].iloc[0] for part in ("train", "test")]
    _, report = split_manifest(frame, PAPER, old, linked=[pair])
    assert report.warnings[0].startswith(f"group 'crop {min(pair)}' joins crops")


def test_lacking_and_uneven_types_are_warned_of(manifest: Make) -> None:
    kinds = {f"c{index}": {"instance": 10} for index in range(9)}
    _, report = split_manifest(manifest(kinds | {"rare": {"overlapping": 4, "instance": 10}}), BY_CASE, None)
    assert sum("lacks overlapping" in text for text in report.warnings) == 2
    assert any("off the wanted" in text for text in report.warnings)
    assert report.summary.count("warning:") == len(report.warnings)


def test_too_few_cases(manifest: Make) -> None:
    with pytest.raises(UsageError, match=r"at least 3 cases or crops to divide, found 2.*paper"):
        split_manifest(manifest({"a": {"instance": 9}, "b": {"instance": 9}}), BY_CASE, None)


@pytest.mark.parametrize("seed", range(6))
def test_three_cases_fill_three_parts(manifest: Make, seed: int) -> None:
    """With three cases of six crops train took two of them, one part stayed empty, and the suite passed."""
    rng = np.random.default_rng(seed)
    kinds = {case: dict(zip(KINDS, rng.multinomial(6, [0.25] * 4).tolist(), strict=True)) for case in "abc"}
    frame, report = split_manifest(manifest(kinds), BY_CASE)
    assert sorted(report.groups.values()) == [1, 1, 1]
    assert (frame.groupby("case_id")["split"].nunique() == 1).all()


@settings(max_examples=settings().max_examples // 3, deadline=None)
@given(st.lists(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=40), min_size=3, max_size=8))
def test_no_part_is_empty_whatever_the_groups(groups: list[list[str]]) -> None:
    rows = [
        (f"s/{case}/{index}", f"c{case}", kind) for case, kinds in enumerate(groups) for index, kind in enumerate(kinds)
    ]
    frame = pd.DataFrame(rows, columns=["crop_id", "case_id", "type"]).assign(source="s")
    frame = frame.assign(path=frame["crop_id"], sha256=frame["crop_id"])
    assert set(split_manifest(frame, BY_CASE)[0]["split"]) == set(PARTS)
    apart = frame.assign(source=frame["case_id"])  # each source has one case, and each is divided by itself
    assert set(fold_manifest(apart, BY_CASE, 3)["fold"]) == {0, 1, 2}


def test_an_empty_part_gets_the_group_whose_move_costs_least() -> None:
    """Of 7 instance and 3 touching crops it wants a quarter; d is the only group of its part and has to stay."""
    groups = {"a": (2, 2), "b": (2, 0), "c": (2, 1), "d": (1, 0)}
    rows = [
        (name, TYPE_LABELS[kind]) for name, counts in groups.items() for kind in (0, 1) for _ in range(counts[kind])
    ]
    frame = pd.DataFrame(rows, columns=["group", "type"])
    part = frame["group"].map({"a": 0, "b": 0, "c": 0, "d": 1})
    filled = fill_empty_parts(part, frame["type"], frame["group"], (0.5, 0.25, 0.25), ())
    assert dict(zip(frame["group"], filled, strict=True)) == {"a": 0, "b": 0, "c": 2, "d": 1}
    fixed = fill_empty_parts(part, frame["type"], frame["group"], (0.5, 0.25, 0.25), ("c",))
    assert dict(zip(frame["group"], fixed, strict=True)) == {"a": 2, "b": 0, "c": 0, "d": 1}


def test_new_groups_fill_a_part_that_kept_none(manifest: Make) -> None:
    old, _ = split_manifest(manifest(cases(3)), BY_CASE)
    kept = old[old["split"] != "test"]
    new, _ = split_manifest(pd.concat([kept, manifest(cases(1, start=9))]), BY_CASE, kept)
    assert set(new.loc[new["case_id"] == "c9", "split"]) == {"test"}


def test_crops_without_a_case_are_reported(manifest: Make) -> None:
    frame = manifest(cases(6) | {"": {"instance": 7}})
    assert "7 crops have no case" in split_manifest(frame, BY_CASE)[1].warnings[0]
    assert not any("no case" in text for text in split_manifest(frame, PAPER)[1].warnings)


def test_kept_parts_name_the_seed_that_made_them_and_a_new_division_is_recorded(manifest: Make, tmp_path: Path) -> None:
    """split.json named the seed of the settings although the kept assignments came from another."""
    frame = manifest(cases(12))
    old, first = split_manifest(frame, BY_CASE)
    assert [entry["seed"] for entry in first.history] == [42]
    write_split(old, first, tmp_path)
    history, other = read_history(tmp_path / "history.json"), BY_CASE.model_copy(update={"seed": 7, "test": 0.3})
    _, kept = split_manifest(frame, other, read_assignments(tmp_path / "assignments.csv"), history=history)
    assert (kept.seed, kept.wanted, kept.history) == (42, first.wanted, history)
    assert [text for text in kept.warnings if "made with seed 42, the settings say 7" in text]
    assert [text for text in kept.warnings if "made with wanted" in text]
    fresh, again = split_manifest(frame, other, None, history=history)
    assert (again.seed, again.warnings) == (7, [text for text in again.warnings if "made with" not in text])
    write_split(fresh, again, tmp_path)
    written = json.loads((tmp_path / "split.json").read_text())["history"]
    assert [(entry["seed"], entry["split_hash"]) for entry in written] == [
        (42, first.split_hash),
        (7, again.split_hash),
    ]


@pytest.mark.parametrize("text", ["{", "[1]", '[{"seed": 1}]'])
def test_damaged_history_is_named(tmp_path: Path, text: str) -> None:
    assert read_history(tmp_path / "absent.json") == []
    (tmp_path / "history.json").write_text(text)
    with pytest.raises(UsageError, match=r"history\.json is not a history of splits.*git checkout"):
        read_history(tmp_path / "history.json")


def test_lists_of_folds_carry_their_hashes(manifest: Make, tmp_path: Path) -> None:
    frame = fold_manifest(manifest(cases(10)), BY_CASE, 3)
    content = write_folds(frame, BY_CASE, tmp_path)
    assert json.loads((tmp_path / "folds.json").read_text()) == content
    listed: list[str] = []
    for fold in content["folds"]:
        text = (tmp_path / fold["ids"]).read_bytes()
        assert hashlib.sha256(text).hexdigest() == fold["sha256"]
        ids = text.decode().splitlines()
        assert sum(fold["counts"].values()) == len(ids)
        listed += ids
    assert sorted(listed) == sorted(frame["crop_id"])


@pytest.mark.parametrize("settings", [BY_CASE, PAPER], ids=["by_case", "paper"])
def test_folds_are_grouped_and_stratified(manifest: Make, settings: SplitSettings) -> None:
    frame = fold_manifest(manifest(cases(20)), settings, 5)
    counts = pd.crosstab(frame["fold"], frame["type"])
    assert counts.shape == (5, 4)
    assert (counts / counts.sum() - 0.2).abs().max().max() < 0.08
    if settings is BY_CASE:
        assert (frame.groupby("case_id")["fold"].nunique() == 1).all()
    with pytest.raises(UsageError, match="folds = 1 is not allowed"):
        fold_manifest(frame, settings, 1)


def test_written_files_carry_hashes(manifest: Make, tmp_path: Path) -> None:
    frame, report = split_manifest(manifest(cases(9)), BY_CASE, None)
    write_split(frame, report, tmp_path)
    written = json.loads((tmp_path / "split.json").read_text())
    assert written["split_hash"] == report.split_hash
    assert set(written["part_hashes"]) == set(PARTS)
    assert len({*written["part_hashes"].values()}) == 3


def test_damaged_assignments_are_named(tmp_path: Path) -> None:
    assert read_assignments(tmp_path / "absent.csv") is None
    path = tmp_path / "assignments.csv"
    path.write_text("crop_id,group,split,protocol\na,b,holdout,paper\n")
    with pytest.raises(UsageError, match=r"names the part 'holdout'.*supcam data resplit"):
        read_assignments(path)
    path.write_text("crop_id,split\n")
    with pytest.raises(UsageError, match="lacks the column group, protocol"):
        read_assignments(path)


def test_both_real_sources_split_by_case(shared_data: Path) -> None:
    tables = []
    for name in ("clinical-12-cases", "mfish-slides"):
        table = pd.read_csv(shared_data / name / "labels.csv", dtype=str).fillna("")
        tables.append(table.assign(source=name, crop_id=name + "/" + table["path"], case_id=table["case"]))
    frame = pd.concat(tables, ignore_index=True)
    frame["sha256"] = frame["crop_id"]
    _, report = split_manifest(frame, BY_CASE, None)
    assert report.warnings == []
    assert min(count for kinds in report.counts.values() for count in kinds.values()) >= 10


def test_a_patient_of_two_sources_lies_in_one_part(manifest: Make) -> None:
    """Of eight patients in lab2024 and lab2025 five lay in two parts."""
    rng = np.random.default_rng(4)
    ids = {f"P{number:02d}": {kind: int(rng.integers(1, 6)) for kind in TYPE_LABELS} for number in range(1, 9)}
    first = manifest(ids, "lab2024")
    both = pd.concat([first, manifest({name.lower(): kinds for name, kinds in ids.items()}, "lab2025")])
    divided, _ = split_manifest(both, BY_CASE)
    assert (divided.groupby(divided["case_id"].str.upper())["split"].nunique() == 1).all()
    # Added later, the second source follows the first, which stays where it was.
    alone, _ = split_manifest(first, BY_CASE)
    later, _ = split_manifest(both, BY_CASE, alone)
    merged = later.merge(alone[["crop_id", "split"]], on="crop_id", suffixes=("", "_before"))
    assert (merged["split"] == merged["split_before"]).all()
    assert (later.groupby(later["case_id"].str.upper())["split"].nunique() == 1).all()
    folds = fold_manifest(both.reset_index(drop=True), BY_CASE, 4)
    assert (folds.groupby(folds["case_id"].str.upper())["fold"].nunique() == 1).all()


def test_apart_takes_them_for_several_patients(manifest: Make) -> None:
    apart = BY_CASE.model_copy(update={"same_case": "apart"})
    ids = {str(number): {"instance": 3, "touching": 2} for number in range(8)}
    both = pd.concat([manifest(ids, "one"), manifest(ids, "two")])
    divided, report = split_manifest(both, apart)
    assert report.assigned == 16
    assert (divided.groupby("case_id")["split"].nunique() > 1).any()
    strict = ValidateSettings(min_crops_per_type=0)
    found = validate_splits(divided, strict, by_case=True, together=False)
    assert found.passed
    found = validate_splits(divided, strict, by_case=True)
    assert {rule.name for rule in found.rules if rule.severity == "stop" and rule.count} == {"patient_crosses"}
