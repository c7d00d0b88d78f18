"""Tables that the rules judge: pandas computes one column for each rule, so that every rule only compares values.

A column of text is ``ok`` or empty where nothing is wrong, and otherwise says what is.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from supcam.cluster_type import TYPE_LABELS, ClusterType, Relation, composed_type
from supcam.data.case_ids import CASE_DOUBTS, case_doubts, patient_keys
from supcam.data.fingerprints import same_pictures
from supcam.data.groups import merged, same_values
from supcam.data.manifest import DRAWN, is_drawn
from supcam.data.measure import OK, measure_crops, near_duplicates
from supcam.data.sources import is_image
from supcam.data.split_report import count_parts
from supcam.errors import UsageError
from supcam.progress import Progress
from supcam.serving.images import decode_crop

# One row per crop, and smaller tables whose rows are named by their column ``type``.
Tables = dict[str, pd.DataFrame]

# Sides of the boxes of two near duplicates differ at most by this share.
SIZE_RATIO = 0.1
# Where densities add up, blending stops here (composition).
_BLENDING_FLOOR = 40
# Grey levels by which turning and scaling a crop may leave its range.
_OVERSHOOT = 8


def raw_tables(
    frame: pd.DataFrame, root: Path, similarity: float, progress: Progress | None
) -> tuple[Tables, list[list[str]]]:
    """Tables of imported crops, each image read once, and the ids of crops that show one picture.

    Pictures whose correlation is at least ``similarity`` (0 to 1) are near duplicates; paths start from ``root``.
    """
    facts, descriptors, prints = measure_crops(frame, root, progress=progress)
    same = same_values(str(value) for value in facts["pixels"])
    near = near_duplicates(descriptors, similarity, SIZE_RATIO)
    # Exact copies have a rule of their own, and of the others turned ones that are not near already.
    near = [group for group in near if facts["pixels"].iloc[group].nunique() > 1]
    turned = _not_within(same_pictures(prints), merged([*same, *near]), len(facts))
    named = zip(facts["crop_id"], facts["source"], strict=True)
    facts["id_source"] = [OK if crop_id.startswith(f"{source}/") else source for crop_id, source in named]
    facts["same_picture"], facts["conflict"] = _others(facts, same)
    facts["similar_picture"], _ = _others(facts, near)
    facts["turned_picture"], _ = _others(facts, turned)
    _, facts["near_conflict"] = _others(facts, merged([*near, *turned]))
    for name in ("contrast", "focus"):
        facts[f"{name}_deviation"] = _deviation(facts, name)
    linked = sorted(sorted(facts["crop_id"].iloc[group]) for group in merged([*same, *near, *turned]))
    counts = facts["type"].value_counts().reindex(TYPE_LABELS, fill_value=0)
    tables = {"crop": facts, "type": _named(counts.items(), "count"), "file": _unlisted(facts, root)}
    return {**tables, "case": _case_table(facts)}, linked


def split_tables(frame: pd.DataFrame, linked: Sequence[Sequence[str]]) -> Tables:
    """Tables of a manifest with the column ``split``; ``linked`` are ids of crops that must share a part."""
    facts = frame.reset_index(drop=True).copy()
    index_of = {crop_id: index for index, crop_id in enumerate(facts["crop_id"])}
    cases = (facts["source"] + "/" + facts["case_id"]).where(facts["case_id"] != "", "")
    near = [[index_of[crop_id] for crop_id in ids if crop_id in index_of] for ids in linked]
    facts["case_in"] = _crossing(facts, same_values(cases))
    facts["patient_in"] = _crossing(facts, same_values(patient_keys(facts["case_id"])))
    facts["duplicate_in"] = _crossing(facts, same_values(facts["sha256"]))
    facts["near_in"] = _crossing(facts, near)
    counts, present = count_parts(facts), set(facts["type"])
    per_part = [(part, sum(kinds.values())) for part, kinds in counts.items()]
    per_type = [
        (f"{part} {kind}", count) for part, kinds in counts.items() for kind, count in kinds.items() if kind in present
    ]
    return {"crop": facts, "type": _named(per_type, "count"), "part": _named(per_part, "count")}


def composed_tables(
    frame: pd.DataFrame, sources: pd.DataFrame, root: Path, requested: int | None, progress: Progress | None
) -> Tables:
    """Tables of composed crops made of the training rows ``sources``, of which ``requested`` were asked for."""
    facts, _, _ = measure_crops(frame, root, progress=progress)
    drawn = is_drawn(facts)
    known = pd.concat([sources, facts[drawn]])
    kinds = dict(zip(known["crop_id"], known["type"], strict=True))
    checked = [_check_parents(row, kinds) for row in facts.to_dict("records")]
    facts[["parents_known", "algebra"]] = pd.DataFrame(checked, columns=["parents_known", "algebra"], dtype=str)
    # Negative when there are more than were asked for.
    missing = [] if requested is None else [("all", (requested - int((~drawn).sum())) / max(requested, 1))]
    return {"crop": facts, "type": _named(missing, "missing")}


def darkest_range(sources: pd.DataFrame, root: Path, facts: pd.DataFrame) -> tuple[int, int]:
    """Range of the darkest pixel that composites may have, in grey levels.

    Args:
        sources: Rows of real crops, whose paths start from ``root``.
        root: The folder of their images.
        facts: The composed crops as measured: drawn singles among them are sources as well.
    """
    darkest = [int(decode_crop(root / path).min()) for path in sources["path"]]
    darkest += facts["darkest"][is_drawn(facts)].dropna().astype(int).to_list()
    # Where densities add, a composite may go down to the blending floor.
    return max(0, min(_BLENDING_FLOOR, *darkest) - _OVERSHOOT), max(darkest) + _OVERSHOOT


def _named(values: Iterable[tuple[Any, float]], column: str) -> pd.DataFrame:
    return pd.DataFrame(list(values), columns=["type", column])


def _not_within(groups: list[list[int]], known: list[list[int]], count: int) -> list[list[int]]:
    """The groups that join members of several ``known`` groups, or members of none; numbers are below ``count``."""
    label = np.arange(count)
    for group in known:
        label[group] = group[0]
    return [group for group in groups if len(set(label[group])) > 1]


def _case_table(facts: pd.DataFrame) -> pd.DataFrame:
    """A row for each case id that a person should look at: which one, and why."""
    rows = [(case, kind, text) for kind, case, text in case_doubts(facts)]
    table = pd.DataFrame(rows, columns=["type", "kind", "text"])
    for kind in CASE_DOUBTS:
        table[kind] = table["text"].where(table["kind"] == kind, "")
    return table.drop(columns=["kind", "text"])


def _others(facts: pd.DataFrame, groups: list[list[int]]) -> tuple[list[str], list[str]]:
    """For each crop, an id of its group other than its own, and one that has another type; empty when none."""
    ids, kinds = facts["crop_id"].to_list(), facts["type"].to_list()
    other, conflict = [""] * len(ids), [""] * len(ids)
    for group in groups:
        for index in group:
            rest = [position for position in group if position != index]
            other[index] = ids[rest[0]]
            against = [position for position in rest if kinds[position] != kinds[index]]
            if against:
                conflict[index] = f"{kinds[index]}, but {ids[against[0]]} is {kinds[against[0]]}"
    return other, conflict


def _crossing(facts: pd.DataFrame, groups: list[list[int]]) -> list[str]:
    """For each crop, the parts that its group lies in; empty when it is one."""
    out = [""] * len(facts)
    parts = facts["split"].astype(str).to_list()
    for group in groups:
        crossed = sorted({parts[index] for index in group})
        if len(crossed) > 1:
            for index in group:
                out[index] = "in " + " and ".join(crossed)
    return out


def _deviation(facts: pd.DataFrame, name: str) -> "pd.Series[float]":
    """Robust distance of the logarithm of a value from the median of its source, in standard deviations.

    The factor makes the median of the distances a standard deviation, as it is for normal values.
    """
    values = pd.Series(np.log(facts[name].astype(float).clip(lower=1e-3)), index=facts.index)
    gap = (values - values.groupby(facts["source"]).transform("median")).abs()
    spread = gap.groupby(facts["source"]).transform("median") * 1.4826
    return pd.Series(gap / spread.clip(lower=0.05), dtype=float)


def _unlisted(facts: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Images below ``crops/`` that no row names: they would be left out in silence."""
    listed = set(facts["path"])
    found = (path.relative_to(root).as_posix() for path in sorted((root / "crops").rglob("*")) if is_image(path.name))
    rows = [(path, path, "not in the manifest") for path in found if path not in listed]
    return pd.DataFrame(rows, columns=["type", "path", "listed"])


def _check_parents(row: Mapping[Any, Any], kinds: Mapping[str, str]) -> tuple[str, str]:
    """What is wrong with the parents of a composite, and with the type that they make; drawn singles have none."""
    if row.get("relation") == DRAWN:
        return OK, OK
    parents = _parents(row, kinds)
    for parent in parents:
        if parent not in kinds:
            return f"parent {parent!r} is not in the training part", OK
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
