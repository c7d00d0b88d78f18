"""Types and cases of a source: from its label table, or from the names of its folders."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import pandas as pd

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.data.manifest import COLUMNS, parse_certain
from supcam.data.sources import LABELS, ImportSource, is_image
from supcam.data.tables import read_table
from supcam.errors import UsageError

# Crops per type of ChrCluster (Lin et al., Medical Image Analysis 69:101943, 2021).
CHRCLUSTER_COUNTS: dict[str, int] = {
    "instance": 1712,
    "touching": 3029,
    "overlapping": 1038,
    "touching-overlapping": 813,
}

_ADDED_BY_STAGES = ("split", "fold", "relation", "parent_a", "parent_b", "seed")


@dataclass(frozen=True)
class LabelledCrop:
    """One crop of a source before it is read: its path below the source and what its labels say."""

    path: str
    type: str
    case_id: str = ""
    certain: bool = True
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass
class SourceLabels:
    """What the labels of a source say.

    Attributes:
        crops: Those with a type.
        type_map: Type by folder name, as given or found.
        refused: Why a path cannot be labelled.
        ignored: Images left out because the label table does not list them, counted.
    """

    crops: list[LabelledCrop] = field(default_factory=list)
    type_map: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)


def label_source(
    source: ImportSource, type_map: Mapping[str, str] | None = None, case_pattern: str | None = None
) -> SourceLabels:
    """Find type and case of every crop of a source: from its label table, else from the names of its folders.

    Args:
        source: An opened source.
        type_map: Type by name of a folder, or by what the table says instead of a type.
        case_pattern: Regular expression that finds the case in the path of a crop that has none.

    Raises:
        UsageError: for a table without its columns, a wrong map or pattern, or a source without crops.
    """
    pattern = _compile(case_pattern)
    used = {folder: ClusterType.parse(name).label for folder, name in (type_map or {}).items()}
    table = next((path for path in source.files if source.is_table(path)), None)
    labels = _from_table(source, used, table) if table else _from_folders(source, used or _known_counts(source))
    if not (labels.crops or labels.refused or source.refused):
        raise UsageError(
            f"source {source.name!r} holds no crop. Give a folder per type ({', '.join(TYPE_LABELS)}) or a {LABELS}."
        )
    if pattern is not None:
        _find_cases(labels, pattern)
    return labels


def _from_folders(source: ImportSource, used: dict[str, str]) -> SourceLabels:
    labels = SourceLabels(type_map=used)
    for path in filter(is_image, source.files):
        types = _folder_types(path, used)
        if len(types) == 1:
            labels.crops.append(LabelledCrop(path, types.pop()))
        elif types:
            labels.refused[path] = f"lies in folders of several types ({', '.join(sorted(types))}). Keep one."
        else:
            labels.refused[path] = (
                f"lies in no folder named like a type; allowed are {', '.join(TYPE_LABELS)}. "
                "Rename the folder, or map it: --map FOLDER=TYPE."
            )
    return labels


def _folder_types(path: str, used: Mapping[str, str]) -> set[str]:
    types = set()
    for part in PurePosixPath(path).parts[:-1]:
        if part in used:
            types.add(used[part])
            continue
        try:
            types.add(ClusterType.parse(part).label)
        except UsageError:
            continue
    return types


def _known_counts(source: ImportSource) -> dict[str, str]:
    """Map numeric folders of the full ChrCluster, whose counts per type are published and all differ."""
    parents = Counter(PurePosixPath(path).parent.name for path in source.files if is_image(path))
    numeric = {name: count for name, count in parents.items() if name.isdigit()}
    by_count = {count: label for label, count in CHRCLUSTER_COUNTS.items()}
    if sorted(numeric.values()) != sorted(CHRCLUSTER_COUNTS.values()):
        return {}
    return {name: by_count[count] for name, count in numeric.items()}


def _from_table(source: ImportSource, used: dict[str, str], table: str) -> SourceLabels:
    labels = SourceLabels(type_map=used)
    frame = _read_labels(source, table)
    present = set(source.files)
    # A file may bear the very name that looks like another spelling of a path.
    paths = [path if path in present else _plain(path) for path in frame["path"]]
    counts = Counter(paths)
    extras = [name for name in frame.columns if name not in ("path", "type", "case", "label_certain")]
    for line, path, row in zip(frame.index, paths, frame.to_dict("records"), strict=True):
        where = f"{table} line {line}"
        try:
            if path not in present or not is_image(path):
                state = "is not in the source" if path not in present else "has no image suffix"
                raise UsageError(f"{state} ({where}). Correct the path.")
            if counts[path] > 1:
                raise UsageError(f"is listed twice ({where}). Keep one line.")
            label = _type_in_line(row["type"], used, where)
            _agree(path, label, used, where)
            certain = parse_certain(row["label_certain"])
        except UsageError as error:
            labels.refused.setdefault(row["path"], str(error))
            continue
        # One line of the manifest for each crop, whatever line breaks a value of the table holds.
        extra = {name: " ".join(row[name].split()) for name in extras}
        labels.crops.append(LabelledCrop(path, label, row["case"], certain, extra))
    unlisted = sum(map(is_image, present - set(paths)))
    if unlisted:
        labels.ignored[f"images not listed in {table}"] = unlisted
    return labels


def _plain(path: str) -> str:
    """One spelling of a path: slashes forward, no step that leads nowhere, or one crop could be listed twice."""
    return PurePosixPath(path.replace("\\", "/")).as_posix()


def _read_labels(source: ImportSource, table: str) -> pd.DataFrame:
    where = f"{table} of source {source.name!r}"
    frame = read_table(source.read(table), where, "Save it as CSV in UTF-8.")
    known = {name: name for name in ("path", "type", "case", "label_certain")} | {"case_id": "case"}
    frame.columns = pd.Index([known.get(str(name).lower(), str(name)) for name in frame.columns])
    for name in ("path", "type"):
        if name not in frame.columns:
            raise UsageError(f"{where} lacks the column {name!r}; needed are path and type. Add it.")
    clash = [
        name for name in frame.columns if name in {*COLUMNS, *_ADDED_BY_STAGES} - {"path", "type", "label_certain"}
    ]
    if clash or frame.columns.duplicated().any():
        names = ", ".join(clash or frame.columns[frame.columns.duplicated()])
        raise UsageError(f"{where} has columns of its own named {names}, which are taken. Rename them.")
    for name in ("case", "label_certain"):
        if name not in frame.columns:
            frame[name] = ""
    return frame


def _type_in_line(text: str, used: Mapping[str, str], where: str) -> str:
    if text in used:
        return used[text]
    try:
        return ClusterType.parse(text).label
    except UsageError as error:
        raise UsageError(f"({where}): {error}") from None


def _agree(path: str, label: str, used: Mapping[str, str], where: str) -> None:
    others = _folder_types(path, used) - {label}
    if others:
        raise UsageError(
            f"is {label} in {where} but lies in a folder named {', '.join(sorted(others))}. Correct one of them."
        )


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--case-pattern {pattern!r} is not a regular expression: {error}. Correct it.") from None
    if not compiled.groups:
        raise UsageError(f"--case-pattern {pattern!r} has no group; put the case in brackets, such as '(case[0-9]+)/'.")
    return compiled


def _find_cases(labels: SourceLabels, pattern: re.Pattern[str]) -> None:
    group = "case" if "case" in pattern.groupindex else 1
    for index, crop in enumerate(labels.crops):
        found = pattern.search(crop.path)
        if crop.case_id:
            continue
        if found and found[group]:
            labels.crops[index] = replace(crop, case_id=found[group])
        else:
            labels.refused[crop.path] = f"does not match --case-pattern {pattern.pattern!r}. Widen the pattern."
