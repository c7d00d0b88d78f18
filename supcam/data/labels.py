"""Types and cases of a source: from its label table, or from the names of its folders."""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import pandas as pd

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.data.case_ids import plain_case
from supcam.data.manifest import COLUMNS, parse_certain
from supcam.data.sources import LABELS, ImportSource, is_image
from supcam.data.table_paths import find_files
from supcam.data.tables import read_table
from supcam.errors import UsageError

# Crops per type of ChrCluster (Lin et al., Medical Image Analysis 69:101943, 2021).
CHRCLUSTER_COUNTS = {"instance": 1712, "touching": 3029, "overlapping": 1038, "touching-overlapping": 813}

_KNOWN = ("path", "type", "case", "label_certain")
# Hyphens and dashes that look like the one on the keyboard, with spaces around them.
_DASH = re.compile("\\s*[-\u2010-\u2015\u2212]\\s*")
_ADDED_BY_STAGES = ("split", "fold", "relation", "parent_a", "parent_b", "seed")


@dataclass(frozen=True)
class LabelledCrop:
    """One crop of a source before it is read: its path below the source and what its labels say."""

    path: str
    type: str
    case_id: str = ""
    certain: bool = True
    extra: Mapping[str, str] = field(default_factory=dict)


def label_source(
    source: ImportSource, type_map: Mapping[str, str] | None = None, case_pattern: str | None = None
) -> list[LabelledCrop]:
    """Find type and case of every crop of a source: from its label table, else from the names of its folders.

    What has no type goes into ``source.refused``, an image that the table does not list into ``source.ignored``.
    ``type_map`` is the type by name of a folder, or by what the table says instead of a type; ``case_pattern``, a
    regular expression, finds the case in the path of a crop that has none.

    Raises:
        UsageError: for a table without its columns, a wrong map or pattern, or a source without crops.
    """
    pattern = _compile(case_pattern)
    source.type_map = {folder: ClusterType.parse(name).label for folder, name in (type_map or {}).items()}
    table = next((path for path in source.files if source.is_table(path)), None)
    crops = _from_table(source, table) if table else _from_folders(source)
    if not (crops or source.refused):
        packed = (
            f" but {source.archives[0]}, which is not unpacked: unpack it and import that" if source.archives else ""
        )
        raise UsageError(
            f"source {source.name!r} holds no crop{packed}. Give a folder per type ({', '.join(TYPE_LABELS)}) or a "
            f"{LABELS}."
        )
    return [_with_case(crop, source, pattern) for crop in crops] if pattern else crops


def _from_folders(source: ImportSource) -> list[LabelledCrop]:
    source.type_map = source.type_map or _known_counts(source)
    crops = []
    for path in filter(is_image, source.files):
        types = _folder_types(path, source.type_map)
        if len(types) == 1:
            crops.append(LabelledCrop(path, types.pop()))
        elif types:
            source.refused[path] = f"lies in folders of several types ({', '.join(sorted(types))}). Keep one."
        else:
            source.refused[path] = (
                f"lies in no folder named like a type; allowed are {', '.join(TYPE_LABELS)}. "
                "Rename the folder, or map it: --map FOLDER=TYPE."
            )
    return crops


def _folder_types(path: str, type_map: Mapping[str, str]) -> set[str]:
    types = set()
    for part in PurePosixPath(path).parts[:-1]:
        with suppress(UsageError):
            types.add(_type_of(part, type_map))
    return types


def _type_of(text: str, type_map: Mapping[str, str]) -> str:
    """The type that a name means: mapped, or spelled with any dash; names of one look are equal (NFC).

    Raises:
        UsageError: for a name that is neither.
    """
    plain = unicodedata.normalize("NFC", text)
    known = {unicodedata.normalize("NFC", name): label for name, label in type_map.items()}
    return known[plain] if plain in known else ClusterType.parse(_DASH.sub("-", plain)).label


def _known_counts(source: ImportSource) -> dict[str, str]:
    """Map numeric folders of the full ChrCluster, whose counts per type are published and all differ."""
    parents = Counter(PurePosixPath(path).parent.name for path in source.files if is_image(path))
    numeric = {name: count for name, count in parents.items() if name.isdigit()}
    by_count = {count: label for label, count in CHRCLUSTER_COUNTS.items()}
    if sorted(numeric.values()) != sorted(CHRCLUSTER_COUNTS.values()):
        return {}
    return {name: by_count[count] for name, count in numeric.items()}


def _from_table(source: ImportSource, table: str) -> list[LabelledCrop]:
    frame = _read_labels(source, table)
    present = set(source.files)
    paths, beginning = find_files(frame["path"].to_list(), source.files, source.place)
    if beginning:
        source.notes.append(f"paths in {table} begin with {beginning}, which is left out")
    counts = Counter(paths)
    extras = [name for name in frame.columns if name not in _KNOWN]
    crops = []
    for line, path, row in zip(frame.index, paths, frame.to_dict("records"), strict=True):
        try:
            if path not in present or not is_image(path):
                state = "is not in the source" if path not in present else "has no image suffix"
                raise UsageError(f"{state} ({table} line {line}). Correct the path.")
            if counts[path] > 1:
                raise UsageError(f"is listed twice ({table} line {line}). Keep one line.")
            label = _type_in_line(path, row["type"], source.type_map, f"{table} line {line}")
            certain = parse_certain(row["label_certain"])
        except UsageError as error:
            # Of two reasons the source's own counts: a path it refuses is not in the source for the labels.
            source.refused.setdefault(row["path"], str(error))
            continue
        # One line of the manifest for each crop, whatever line breaks a value of the table holds.
        extra = {name: " ".join(row[name].split()) for name in extras}
        crops.append(LabelledCrop(path, label, row["case"], certain, extra))
    unlisted = sum(map(is_image, present - set(paths)))
    if unlisted:
        source.ignored[f"images not listed in {table}"] = unlisted
    return crops


def _read_labels(source: ImportSource, table: str) -> pd.DataFrame:
    where = f"{table} of source {source.name!r}"
    remedy = "Save it as CSV in UTF-8, or name its encoding, such as --encoding gbk."
    frame = read_table(source.read(table), where, remedy, encoding=source.encoding, needed=("path", "type"))
    known = {name: name for name in _KNOWN} | {"case_id": "case"}
    frame.columns = pd.Index([known.get(str(name).lower(), str(name)) for name in frame.columns])
    for name in ("path", "type"):
        if name not in frame.columns:
            found = ", ".join(map(str, frame.columns)) or "none"
            raise UsageError(
                f"{where} lacks the column {name!r}; needed are path and type, found are {found}. Rename or add it."
            )
    taken = [name for name in frame.columns if name in {*COLUMNS, *_ADDED_BY_STAGES} - {*_KNOWN}]
    taken = taken or [*frame.columns[frame.columns.duplicated()]]
    if taken:
        raise UsageError(f"{where} has columns of its own named {', '.join(taken)}, which are taken. Rename them.")
    return frame.assign(**{name: "" for name in _KNOWN if name not in frame.columns})


def _type_in_line(path: str, text: str, type_map: Mapping[str, str], where: str) -> str:
    try:
        label = _type_of(text, type_map)
    except UsageError:
        raise UsageError(
            f"({where}): type {text!r} is unknown; allowed are {', '.join(TYPE_LABELS)}. "
            f"Correct it, or map it: --map {text or 'NAME'}=TYPE."
        ) from None
    others = _folder_types(path, type_map) - {label}
    if others:
        raise UsageError(
            f"is {label} in {where} but lies in a folder named {', '.join(sorted(others))}. Correct one of them."
        )
    return label


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


def _with_case(crop: LabelledCrop, source: ImportSource, pattern: re.Pattern[str]) -> LabelledCrop:
    if plain_case(crop.case_id):
        return crop
    found = pattern.search(crop.path)
    case = found["case" if "case" in pattern.groupindex else 1] if found else None
    if not case:
        source.refused[crop.path] = f"does not match --case-pattern {pattern.pattern!r}. Widen the pattern."
    return replace(crop, case_id=case or "")
