"""The gate of the data: suites of Great Expectations on raw crops, splits and composed crops."""

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from supcam.cluster_type import TYPE_LABELS, ClusterType, Relation, composed_type
from supcam.data.groups import merged, same_values
from supcam.data.judge import judge
from supcam.data.manifest import manifest_hash
from supcam.data.measure import OK, measure_crops, near_duplicates
from supcam.data.reports import ValidationReport, write_page
from supcam.data.rules import composed_rules, raw_rules, split_rules
from supcam.data.sources import is_image
from supcam.data.split_report import PARTS
from supcam.errors import UsageError
from supcam.progress import Progress
from supcam.serving.images import decode_crop
from supcam.settings import ValidateComposedSettings, ValidateSettings

# Sides of the boxes of two near duplicates differ at most by this share.
SIZE_RATIO = 0.1
# Where densities add up, blending stops here (composition).
_BLENDING_FLOOR = 40
# Grey levels by which turning and scaling a crop may leave its range.
_OVERSHOOT = 8


def validate_crops(
    frame: pd.DataFrame,
    root: Path,
    settings: ValidateSettings,
    *,
    docs: Path | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Judge every crop of a manifest whose paths start from ``root``; each image is read once.

    ``docs`` is the folder that gets the page ``index.html`` with the failing crops.

    Raises:
        UsageError: for an empty manifest or an unknown rule in the settings.
        MissingExtra: when Great Expectations is not installed.
    """
    _refuse_empty(frame, "manifest")
    rules = raw_rules(settings, "split" in frame.columns)
    measured = measure_crops(frame, root, progress=progress)
    facts = measured.facts
    same = same_values([str(value) for value in facts["pixels"]])
    similar = near_duplicates(measured.descriptors, settings.near_duplicate, SIZE_RATIO)
    alike = [group for group in similar if facts["pixels"].iloc[group].nunique() > 1]
    begin_with = zip(facts["crop_id"], facts["source"], strict=True)
    facts["id_source"] = [OK if crop_id.startswith(f"{source}/") else source for crop_id, source in begin_with]
    facts["same_picture"], facts["conflict"] = _others(facts, same)
    facts["alike"], facts["near_conflict"] = _others(facts, alike)
    for name in ("contrast", "focus"):
        facts[f"{name}_deviation"] = _deviation(facts, name)
    links = merged([*same, *alike])
    linked = sorted(sorted(facts["crop_id"].iloc[group]) for group in links)
    tables = {"type": _per_type(facts, settings.min_crops_per_type), "file": _unlisted(facts, root)}
    report = judge("raw", facts, tables, rules, manifest_hash(frame), linked)
    return _finished(report, root, docs)


def validate_splits(
    frame: pd.DataFrame,
    settings: ValidateSettings,
    *,
    by_case: bool,
    linked: Sequence[Sequence[str]] = (),
    root: Path | None = None,
    docs: Path | None = None,
) -> ValidationReport:
    """Judge a split manifest: no part is empty, no case, duplicate or near duplicate (``linked``) lies in two.

    Raises:
        UsageError: for an empty manifest or an unknown rule in the settings.
        MissingExtra: when Great Expectations is not installed.
    """
    _refuse_empty(frame, "split manifest")
    facts = frame.reset_index(drop=True).copy()
    place = {crop_id: index for index, crop_id in enumerate(facts["crop_id"])}
    cases = (facts["source"] + "/" + facts["case_id"]).where(facts["case_id"] != "", "")
    near = [[place[crop_id] for crop_id in ids if crop_id in place] for ids in linked]
    facts["case_in"] = _crossing(facts, same_values(list(cases)))
    facts["duplicate_in"] = _crossing(facts, same_values(list(facts["sha256"])))
    facts["near_in"] = _crossing(facts, near)
    counts = pd.crosstab(facts["split"], facts["type"]).reindex(
        index=list(PARTS), columns=list(TYPE_LABELS), fill_value=0
    )
    cells = [(f"{part} {kind}", int(counts.loc[part, kind])) for part in PARTS for kind in TYPE_LABELS]  # type: ignore[arg-type]
    present = set(facts["type"])
    table = pd.DataFrame([cell for cell in cells if cell[0].split(" ")[1] in present], columns=["type", "count"])
    parts = pd.DataFrame({"type": list(PARTS), "count": counts.sum(axis=1).to_numpy()})
    tables = {"type": table, "part": parts}
    report = judge("splits", facts, tables, split_rules(settings, by_case), manifest_hash(frame), [])
    return _finished(report, root, docs)


def validate_composed(
    frame: pd.DataFrame,
    sources: pd.DataFrame,
    root: Path,
    settings: ValidateComposedSettings,
    *,
    requested: Mapping[str, int] | int | None = None,
    sources_root: Path | None = None,
    docs: Path | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Judge composed crops against the real training rows ``sources`` they were made of.

    ``requested`` are the composites asked for, by type or in all. Sides are compared with the shortest and the longest
    among ``sources``; with ``sources_root``, the folder their paths start from, intensities are compared as well.

    Raises:
        UsageError: when there are no sources or a rule in the settings is unknown.
        MissingExtra: when Great Expectations is not installed.
    """
    _refuse_empty(sources, "training part")
    both = sources[["width", "height"]].to_numpy(dtype=float)
    rules = composed_rules(settings, _darkest(sources, sources_root), (float(both.min()), float(both.max())))
    facts = measure_crops(frame, root, progress=progress).facts
    kinds = dict(zip(sources["crop_id"], sources["type"], strict=True))
    checked = [_check_parents(row, kinds) for row in facts.to_dict("records")]
    facts["parents_known"] = [parents for parents, _ in checked]
    facts["algebra"] = [algebra for _, algebra in checked]
    made = {**facts["type"].value_counts(), "all": len(facts)}
    asked = {"all": requested} if isinstance(requested, int) else requested or {}
    missing = [(kind, _missing(int(made.get(kind, 0)), count)) for kind, count in asked.items()]
    table = pd.DataFrame(missing, columns=["type", "missing"])
    return _finished(judge("composed", facts, {"type": table}, rules, manifest_hash(frame), []), root, docs)


def _refuse_empty(frame: pd.DataFrame, what: str) -> None:
    if frame.empty:
        raise UsageError(f"the {what} holds no crop. Import some: supcam import SOURCE")


def _finished(report: ValidationReport, root: Path | None, docs: Path | None) -> ValidationReport:
    if docs is not None and root is not None:
        write_page(report, root, docs)
    return report


def _others(facts: pd.DataFrame, groups: list[list[int]]) -> tuple[list[str], list[str]]:
    """For each crop, an id of its group other than its own, and one that has another type; empty when none."""
    other, conflict = [""] * len(facts), [""] * len(facts)
    ids, kinds = facts["crop_id"].to_list(), facts["type"].to_list()
    for group in groups:
        for index in group:
            rest = [position for position in group if position != index]
            other[index] = ids[rest[0]]
            against = [position for position in rest if kinds[position] != kinds[index]]
            if against:
                conflict[index] = f"{kinds[index]}, but {ids[against[0]]} is {kinds[against[0]]}"
    return other, conflict


def _crossing(facts: pd.DataFrame, groups: list[list[int]]) -> list[str]:
    out = [""] * len(facts)
    parts = facts["split"].astype(str).to_list()
    for group in groups:
        crossed = sorted({parts[index] for index in group})
        if len(crossed) > 1:
            for index in group:
                out[index] = "in " + " and ".join(crossed)
    return out


def _deviation(facts: pd.DataFrame, name: str) -> "pd.Series[float]":
    """Robust distance of the logarithm of a figure from the median of its source, in standard deviations."""
    values = pd.Series(np.log(facts[name].astype(float).clip(lower=1e-3)), index=facts.index)
    gap = (values - values.groupby(facts["source"]).transform("median")).abs()
    spread = gap.groupby(facts["source"]).transform("median") * 1.4826
    return pd.Series(gap / spread.clip(lower=0.05), dtype=float)


def _per_type(facts: pd.DataFrame, least: int) -> pd.DataFrame:
    counts = facts["type"].value_counts()
    rows = [(kind, int(counts.get(kind, 0))) for kind in TYPE_LABELS]
    return pd.DataFrame(rows if least else [], columns=["type", "count"])


def _unlisted(facts: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Images below ``crops/`` that no row names: they would be left out in silence."""
    listed = set(facts["path"])
    found = (path.relative_to(root).as_posix() for path in sorted((root / "crops").rglob("*")) if is_image(path.name))
    rows = [(path, path, "not in the manifest") for path in found if path not in listed]
    return pd.DataFrame(rows, columns=["type", "path", "listed"])


def _darkest(sources: pd.DataFrame, root: Path | None) -> tuple[int, int]:
    """Range of the darkest pixel of real crops; where densities add, a composite may go down to the blending floor."""
    if root is None:
        return 0, 255
    darkest = [int(decode_crop(root / path).min()) for path in sources["path"]]
    return max(0, min(_BLENDING_FLOOR, *darkest) - _OVERSHOOT), max(darkest) + _OVERSHOOT


def _missing(made: int, asked: int) -> float:
    """Share of the composites asked for that is missing; negative when there are more."""
    return (asked - made) / max(asked, 1)


def _check_parents(row: Mapping[Any, Any], kinds: Mapping[str, str]) -> tuple[str, str]:
    parents = _parents(row, kinds)
    unknown = [parent for parent in parents if parent not in kinds]
    if unknown:
        return f"parent {unknown[0]!r} is not in the training part", OK
    try:
        relation = Relation.parse(str(row.get("relation", "")))
        types = [ClusterType.parse(kinds[parent]) for parent in parents]
        wanted = reduce(lambda one, two: composed_type(one, two, relation), types)
    except UsageError as error:
        return OK, str(error)
    return OK, OK if wanted.label == row["type"] else f"{row['type']}, but its parents make {wanted.label}"


def _parents(row: Mapping[Any, Any], kinds: Mapping[str, str]) -> list[str]:
    """Ids a composite was made of: those of a whole chain where they are listed, else both parents."""
    if not row.get("parents"):
        return [str(row.get("parent_a", "")), str(row.get("parent_b", ""))]
    ids, open_id = [], ""
    for piece in str(row["parents"]).split(";"):  # a file name may hold the separator
        open_id = f"{open_id};{piece}" if open_id else piece
        if open_id in kinds:
            ids.append(open_id)
            open_id = ""
    return [*ids, open_id] if open_id else ids
