"""The rules of the expectation suites: what each demands of a column of facts, and whether it stops or warns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from supcam.cluster_type import TYPE_LABELS
from supcam.data.measure import OK
from supcam.data.split_report import PARTS
from supcam.errors import SettingError
from supcam.settings import ValidateComposedSettings, ValidateSettings

# What ends the pipeline, and what is only reported.
Severity = Literal["stop", "warn"]
_RESTORE = "Go back (git checkout -- data.dvc, then dvc pull --force data.dvc) or import the crop again."
_RESPLIT = "Divide from scratch: supcam data resplit, then dvc repro."
_PATIENT = "Different patients: set split.same_case: apart."
_DUPLICATE = "Keep one of them; the split keeps them together."
_CORRECT = "Correct or leave out the crop and import with --replace."
_FILL_TYPE = "Import more cases with it, or divide otherwise."
_RECOUNT = "Raise compose.tries or lower compose.count; were more made than asked, compose again."
# What each rule demands, for the page of a report. Which values are allowed, the rules say themselves.
DEMANDS = {
    "complete": "Every crop has an id, path, type, source and hash",
    "id_unique": "No id twice",
    "path_unique": "No path twice",
    "readable": "The file exists and is an image",
    "bytes_unchanged": "The file is the one that was imported or composed",
    "size_as_recorded": "Width and height are those of the manifest",
    "accounted_for": "Every image below crops/ has a row",
    "type_known": "The type is one of the four",
    "source_of_id": "The id begins with its source",
    "short_side": "The shorter side is long enough",
    "long_side": "The longer side is short enough",
    "background": "The edge is white once it is read",
    "foreground": "Neither nearly empty nor nearly full of pixels darker than 250",
    "components": "One body on each crop",
    "contrast": "Contrast as in other crops of the source",
    "focus": "Sharpness as in other crops of the source",
    "not_a_crop": "No picture for which a prediction would have no type",
    "doubtful": "No picture that a prediction would send to review",
    "normalised": "Nothing had to be changed on reading",
    "exact_duplicate": "No picture twice",
    "label_conflict": "No picture has two types",
    "near_duplicate": "No picture twice, saved in another way",
    "turned_duplicate": "No picture twice, turned or mirrored",
    "near_label_conflict": "Nearly equal pictures have one type",
    "case_in_sources": "A case id is in one source only",
    "case_spelling": "Each case id has one spelling",
    "case_mangled": "No case id looks changed by a spreadsheet",
    "crops_per_type": "Enough crops of each type",
    "split_known": "The part is train, validation or test",
    "case_crosses": "No case is in two parts",
    "patient_crosses": "No patient is in two parts, whatever the source",
    "duplicate_crosses": "No picture is in two parts",
    "near_duplicate_crosses": "No nearly equal pictures are in two parts",
    "part_filled": "No part is empty",
    "type_in_every_part": "Every type is in every part",
    "parents": "All sources of a composite are training crops",
    "label_algebra": "The type is what the sources and the relation give",
    "intensity": "Darkest grey value as in real training crops",
    "one_component": "The bodies of a composite are joined",
    "count_as_asked": "As many composites as asked for, but for a few",
}
# Columns of a manifest that no crop may leave empty.
REQUIRED = ("crop_id", "path", "type", "source", "sha256")


@dataclass(frozen=True)
class DataRule:
    """One rule: the values of ``column`` lie in ``among``, or between ``low`` and ``high``, or each once, or exist.

    Reports and ``params.yaml`` call it ``name``; ``remedy`` is what a person can do about a failing row. ``per`` is the
    table of ``facts``: one row for each crop, type, part of the split, doubtful case id, or image file without a row.
    """

    name: str
    column: str
    remedy: str
    severity: Severity = "stop"
    among: Sequence[str] | None = None
    low: float | None = None
    high: float | None = None
    unique: bool = False
    per: Literal["crop", "type", "part", "case", "file"] = "crop"

    @property
    def allowed(self) -> str:
        """What the rule allows, in words."""
        if self.unique:
            return "each once"
        if self.among is not None:
            return ", ".join(value or "none" for value in self.among)
        if self.low is None and self.high is None:
            return "not empty"
        if self.high is None:
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if self.low is None else f"{self.low:g} to {self.high:g}"


def data_rules(settings: ValidateSettings) -> tuple[list[DataRule], list[DataRule]]:
    """Rules of the suites ``raw`` (every crop of the manifest) and ``splits`` (nothing crosses between the parts).

    Raises:
        SettingError: when ``validate.stop`` or ``validate.warn`` names an unknown rule.
    """
    split_known = DataRule("split_known", "split", _RESPLIT, among=PARTS)
    raw = [
        *_file_rules(_RESTORE),
        DataRule("accounted_for", "listed", "Remove the file from data/crops and import it.", among=[OK], per="file"),
        DataRule("type_known", "type", "Correct the type in the manifest.", among=TYPE_LABELS),
        DataRule("source_of_id", "id_source", _RESTORE, among=[OK]),
        DataRule("short_side", "short_side", _CORRECT, low=settings.min_side),
        DataRule("long_side", "long_side", _CORRECT, high=settings.max_side),
        DataRule("background", "background", "Export the crop on a white background.", low=settings.min_background),
        DataRule("foreground", "foreground", _CORRECT, low=settings.min_foreground, high=settings.max_foreground),
        DataRule("components", "components", "Look whether the crop holds more than one body.", "warn", low=1, high=1),
        DataRule("contrast", "contrast_deviation", "Look at the crop.", "warn", high=settings.outlier_range),
        DataRule("focus", "focus_deviation", "Look whether the crop is blurred.", "warn", high=settings.outlier_range),
        DataRule("not_a_crop", "not_a_crop", "Cut out the crops, or leave it out.", among=[""]),
        DataRule("doubtful", "doubtful", "Look whether it is one crop, whole, with grey values.", "warn", among=[""]),
        DataRule("normalised", "notes", "Look whether the crop still shows what it should.", "warn", among=[""]),
        DataRule("exact_duplicate", "same_picture", _DUPLICATE, "warn", among=[""]),
        DataRule("label_conflict", "conflict", "Decide which type is correct and give both that one.", among=[""]),
        DataRule("near_duplicate", "similar_picture", _DUPLICATE, "warn", among=[""]),
        DataRule("turned_duplicate", "turned_picture", _DUPLICATE, "warn", among=[""]),
        DataRule("near_label_conflict", "near_conflict", "Look at both and correct one type.", "warn", among=[""]),
        DataRule("case_in_sources", "sources", _PATIENT, "warn", among=[""], per="case"),
        DataRule("case_spelling", "spelling", "Spell it the same way in every table.", "warn", among=[""], per="case"),
        DataRule("case_mangled", "mangled", "Look in the original table.", "warn", among=[""], per="case"),
        DataRule("crops_per_type", "count", "Import more crops of it.", low=settings.min_crops_per_type, per="type"),
        split_known,
    ]
    splits = [
        split_known,
        DataRule("case_crosses", "case_in", _RESPLIT, among=[""]),
        DataRule("patient_crosses", "patient_in", f"{_RESPLIT} {_PATIENT}", among=[""]),
        DataRule("duplicate_crosses", "duplicate_in", _RESPLIT, among=[""]),
        DataRule("near_duplicate_crosses", "near_in", _RESPLIT, among=[""]),
        DataRule("part_filled", "count", "Import more cases, or divide otherwise.", low=1, per="part"),
        DataRule("type_in_every_part", "count", _FILL_TYPE, "warn", low=1, per="type"),
    ]
    rules = _with_severity([*raw, *splits], settings, "validate")  # the section names rules of both suites
    return rules[: len(raw)], rules[len(raw) :]


def composed_rules(
    settings: ValidateComposedSettings, darkest: tuple[int, int], sides: tuple[float, float]
) -> list[DataRule]:
    """Rules of the suite ``composed``; ``darkest`` and ``sides`` are the ranges of the real training crops.

    Raises:
        SettingError: when ``validate_composed.stop`` or ``.warn`` names an unknown rule.
    """
    again = "Compose again: dvc repro --force compose."
    rules = [
        *_file_rules(again),
        DataRule("type_known", "type", again, among=TYPE_LABELS),
        DataRule("parents", "parents_known", again, among=[OK]),
        DataRule("label_algebra", "algebra", again, among=[OK]),
        DataRule("background", "background", again, low=250),
        DataRule("intensity", "darkest", again, low=darkest[0], high=darkest[1]),
        DataRule("short_side", "short_side", again, low=sides[0] / settings.max_side_ratio),
        DataRule("long_side", "long_side", again, high=sides[1] * settings.max_side_ratio),
        DataRule("one_component", "components", again, "warn", low=1, high=1),
        DataRule("count_as_asked", "missing", _RECOUNT, low=0.0, high=settings.max_missing, per="type"),
    ]
    return _with_severity(rules, settings, "validate_composed")


def _file_rules(remedy: str) -> list[DataRule]:
    return [
        *(DataRule("complete", name, remedy) for name in REQUIRED),
        DataRule("id_unique", "crop_id", remedy, unique=True),
        DataRule("path_unique", "path", remedy, unique=True),
        DataRule("readable", "problem", remedy, among=[OK]),
        DataRule("bytes_unchanged", "bytes", remedy, among=[OK]),
        DataRule("size_as_recorded", "size", remedy, among=[OK]),
    ]


def _with_severity(
    rules: list[DataRule], settings: ValidateSettings | ValidateComposedSettings, section: str
) -> list[DataRule]:
    """Rules with the severities that the settings give them."""
    known = {rule.name for rule in rules}
    changed: dict[str, Severity] = {**dict.fromkeys(settings.warn, "warn"), **dict.fromkeys(settings.stop, "stop")}
    for name in [*settings.stop, *settings.warn]:
        if name not in known:
            raise SettingError(f"{section}.{changed[name]}", name, ", ".join(sorted(known)))
        if name in settings.stop and name in settings.warn:
            raise SettingError(f"{section}.warn", name, "a rule in one of stop and warn")
    return [replace(rule, severity=changed.get(rule.name, rule.severity)) for rule in rules]
