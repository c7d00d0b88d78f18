"""The rules of the expectation suites: what each demands of a column of facts, and whether it stops or warns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from supcam.cluster_type import TYPE_LABELS
from supcam.data.measure import OK
from supcam.data.split_report import PARTS
from supcam.errors import SettingError
from supcam.settings import ValidateComposedSettings, ValidateSettings

Severity = Literal["stop", "warn"]
_RESTORE = "Restore the data (dvc checkout --force data.dvc) or import the crop again."
_CORRECT = "Correct or leave out the crop and import with --replace."


@dataclass(frozen=True)
class Rule:
    """One rule: the values of ``column`` lie in ``among``, or between ``low`` and ``high``, or each once, or exist.

    ``per`` tells the table the column belongs to: one row per crop, per type, per part of the split, or per file
    without a row.
    """

    name: str
    column: str
    remedy: str
    severity: Severity = "stop"
    among: Sequence[str] | None = None
    low: float | None = None
    high: float | None = None
    unique: bool = False
    per: Literal["crop", "type", "part", "file"] = "crop"

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


def raw_rules(settings: ValidateSettings, with_split: bool) -> list[Rule]:
    """Rules of the suite ``raw``: every crop of the manifest.

    Raises:
        SettingError: when ``validate.stop`` or ``validate.warn`` names an unknown rule.
    """
    return [rule for rule in _validate_rules(settings)[0] if with_split or rule.name != "split_known"]


def split_rules(settings: ValidateSettings, by_case: bool) -> list[Rule]:
    """Rules of the suite ``splits``: nothing crosses between the parts.

    Raises:
        SettingError: as :func:`raw_rules`.
    """
    return [rule for rule in _validate_rules(settings)[1] if by_case or rule.name != "case_crosses"]


def _raw(settings: ValidateSettings) -> list[Rule]:
    return [
        *_file_rules(_RESTORE),
        Rule("accounted_for", "listed", "Remove the file from data/crops and import it.", among=[OK], per="file"),
        Rule("type_known", "type", "Correct the type in the manifest.", among=TYPE_LABELS),
        Rule("source_of_id", "id_source", _RESTORE, among=[OK]),
        Rule("short_side", "short_side", _CORRECT, low=settings.min_side),
        Rule("long_side", "long_side", _CORRECT, high=settings.max_side),
        Rule("background", "background", "Export the crop on a white background.", low=settings.min_background),
        Rule("foreground", "foreground", _CORRECT, low=settings.min_foreground, high=settings.max_foreground),
        Rule("components", "components", "Look whether the crop holds more than one body.", "warn", low=1, high=1),
        Rule("contrast", "contrast_deviation", "Look at the crop.", "warn", high=settings.outlier_range),
        Rule("focus", "focus_deviation", "Look whether the crop is blurred.", "warn", high=settings.outlier_range),
        Rule("normalised", "notes", "Look whether the crop still shows what it should.", "warn", among=[""]),
        Rule("exact_duplicate", "same_picture", "Keep one of them; the split keeps them together.", "warn", among=[""]),
        Rule("label_conflict", "conflict", "Decide which type is right and give both that one.", among=[""]),
        Rule("near_duplicate", "alike", "Keep one of them; the split keeps them together.", "warn", among=[""]),
        Rule("near_label_conflict", "near_conflict", "Look at both and correct one type.", "warn", among=[""]),
        Rule("crops_per_type", "count", "Import more crops of it.", low=settings.min_crops_per_type, per="type"),
        Rule("split_known", "split", "Divide anew: supcam data resplit, then dvc repro.", among=PARTS),
    ]


def _splits() -> list[Rule]:
    anew = "Divide anew: supcam data resplit, then dvc repro."
    return [
        Rule("split_known", "split", anew, among=PARTS),
        Rule("case_crosses", "case_in", anew, among=[""]),
        Rule("duplicate_crosses", "duplicate_in", anew, among=[""]),
        Rule("near_duplicate_crosses", "near_in", anew, among=[""]),
        Rule("part_filled", "count", "Import more cases, or divide otherwise.", low=1, per="part"),
        Rule(
            "type_in_every_part", "count", "Import more cases with it, or divide otherwise.", "warn", low=1, per="type"
        ),
    ]


def _validate_rules(settings: ValidateSettings) -> tuple[list[Rule], list[Rule]]:
    """Both suites that the section ``validate`` serves."""
    raw, splits = _raw(settings), _splits()
    _check_names({rule.name for rule in raw + splits}, settings.stop, settings.warn, "validate")
    return _with_severity(raw, settings), _with_severity(splits, settings)


def composed_rules(
    settings: ValidateComposedSettings, darkest: tuple[int, int], sides: tuple[float, float]
) -> list[Rule]:
    """Rules of the suite ``composed``; ``darkest`` and ``sides`` are the ranges of the real training crops.

    Raises:
        SettingError: when ``validate_composed.stop`` or ``.warn`` names an unknown rule.
    """
    again = "Compose again: dvc repro --force compose."
    rules = [
        *_file_rules(again),
        Rule("type_known", "type", again, among=TYPE_LABELS),
        Rule("parents", "parents_known", again, among=[OK]),
        Rule("label_algebra", "algebra", again, among=[OK]),
        Rule("background", "background", again, low=250),
        Rule("intensity", "darkest", again, low=darkest[0], high=darkest[1]),
        Rule("short_side", "short_side", again, low=sides[0] / settings.max_side_ratio),
        Rule("long_side", "long_side", again, high=sides[1] * settings.max_side_ratio),
        Rule("one_component", "components", again, "warn", low=1, high=1),
        Rule(
            "count_as_asked",
            "missing",
            "Raise compose.tries or lower compose.count; were more made than asked, compose again.",
            low=0.0,
            high=settings.max_missing,
            per="type",
        ),
    ]
    _check_names({rule.name for rule in rules}, settings.stop, settings.warn, "validate_composed")
    return _with_severity(rules, settings)


REQUIRED = ("crop_id", "path", "type", "source", "sha256")


def _file_rules(remedy: str) -> list[Rule]:
    return [
        *(Rule("complete", name, remedy) for name in REQUIRED),
        Rule("id_unique", "crop_id", remedy, unique=True),
        Rule("path_unique", "path", remedy, unique=True),
        Rule("readable", "problem", remedy, among=[OK]),
        Rule("bytes_unchanged", "bytes", remedy, among=[OK]),
        Rule("size_as_recorded", "size", remedy, among=[OK]),
    ]


def _with_severity(rules: list[Rule], settings: ValidateSettings | ValidateComposedSettings) -> list[Rule]:
    changed: dict[str, Severity] = {**dict.fromkeys(settings.warn, "warn"), **dict.fromkeys(settings.stop, "stop")}
    return [replace(rule, severity=changed.get(rule.name, rule.severity)) for rule in rules]


def _check_names(known: set[str], stop: Sequence[str], warn: Sequence[str], section: str) -> None:
    for name in [*stop, *warn]:
        if name not in known:
            raise SettingError(f"{section}.{'stop' if name in stop else 'warn'}", name, ", ".join(sorted(known)))
        if name in stop and name in warn:
            raise SettingError(f"{section}.warn", name, "a rule in one of stop and warn")
