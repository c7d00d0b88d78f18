"""The promotion gate: pure functions from what is known about two models to a decision with every rule named."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.card import ModelCard
from supcam.settings import PromoteSettings

if TYPE_CHECKING:
    from supcam.evaluation.intervals import Interval

Outcome = Literal["promoted", "refused", "nothing to do", "candidate only"]
_NEVER_FORCED = ("data validation", "card complete", "ONNX parity")


@dataclass(frozen=True)
class GateRule:
    """One rule: its value, what is allowed, and the verdict; None when it could not be applied."""

    name: str
    passed: bool | None
    value: Any
    allowed: str
    note: str = ""


@dataclass(frozen=True)
class RegisteredModel:
    """A registered version as the gate sees it; the card is None when this version cannot be read any more.

    ``shipped`` is the hash of the code that travels with it, "" where it was not kept.
    """

    version: int
    content: str
    card: ModelCard | None
    shipped: str = ""


@dataclass(frozen=True)
class Validation:
    """The outcome of data validation and the hash of the manifest it looked at."""

    passed: bool
    manifest_hash: str


@dataclass(frozen=True)
class Comparison:
    """Both models on crops that neither trained, validated or tuned on.

    Class indices (N,), probabilities (N, 4) of either model, and the name of each crop's case (N,): crops of one case
    resemble each other.
    """

    types: NDArray[np.int64]
    candidate: NDArray[np.float32]
    production: NDArray[np.float32]
    cases: NDArray[np.str_]


@dataclass(frozen=True)
class Decision:
    """What was decided about a candidate, and why."""

    outcome: Outcome
    reason: str
    version: int
    production: int | None
    rules: list[GateRule] = field(default_factory=list)
    forced: str = ""
    comparison: dict[str, Any] = field(default_factory=dict)

    @property
    def data_failed(self) -> bool:
        """Whether the data of the candidate failed validation, which stops a pipeline."""
        return any(rule.name == "data validation" and rule.passed is False for rule in self.rules)

    @property
    def refusal(self) -> str:
        """What a person reads when the candidate was refused."""
        return f"version {self.version} was refused: {self.reason}. Production stays as it was."


def decide(
    candidate: RegisteredModel,
    production: RegisteredModel | None,
    settings: PromoteSettings,
    *,
    validation: Validation | None,
    comparison: Comparison | None,
    latency_ms: float,
    withdrawn: bool = False,
    force: str = "",
) -> Decision:
    """Apply every rule to a candidate.

    Args:
        candidate: The model that wants to be in production.
        production: The model that is, or None.
        settings: Floors, margin and limits.
        validation: That of the candidate's data, None without a record of one.
        comparison: Both models on shared test crops, None without production or without such crops.
        latency_ms: Median time for one crop on one thread, milliseconds.
        withdrawn: Whether a rollback took this very version out of production.
        force: Reason to promote in spite of the metrics; never overrides data validation, the card or parity.
    """
    number = production.version if production is not None else None
    if production is not None and production.content == candidate.content:
        return Decision("nothing to do", "production already is this model on these data", candidate.version, number)
    card = candidate.card
    assert card is not None  # a candidate whose card cannot be read is an error before the gate
    missing = ", ".join(card.missing()) or "nothing missing"
    rules = [
        _data_validation(card, validation),
        GateRule("card complete", missing == "nothing missing", missing, "nothing missing"),
        _parity(card, settings.max_parity_difference),
        *_floors(card, settings),
        _calibration(card, settings.max_calibration_error),
    ]
    slowest, note = settings.max_latency_ms, "one crop, one thread"
    rules.append(GateRule("latency", latency_ms <= slowest, round(latency_ms, 3), f"at most {slowest:g} ms", note))
    note = "a rollback took this version out of production; --force REASON brings it back" if withdrawn else ""
    rules.append(GateRule("not rolled back", not withdrawn, "rolled back" if withdrawn else "no", "no", note))
    summary = compare(comparison, settings) if comparison is not None else {}
    if production is not None:
        rules += _comparison_rules(candidate, production, summary, settings)
    failed = [rule for rule in rules if rule.passed is False]
    reason = "first model in production" if production is None else "every rule passed"
    outcome: Outcome = "promoted"
    if failed and force and all(rule.name not in _NEVER_FORCED for rule in failed):
        reason = f"forced ({force}) against: " + ", ".join(rule.name for rule in failed)
    elif failed:
        outcome, reason = "refused", "; ".join(f"{rule.name}: {_short(rule.value)} ({rule.allowed})" for rule in failed)
    return Decision(outcome, reason, candidate.version, number, rules, force, summary)


def compare(comparison: Comparison, settings: PromoteSettings) -> dict[str, Any]:
    """Sensitivities of both models on shared crops, their differences, and paired intervals over cases.

    The differences decide; the intervals and McNemar's test show how much of them could be chance. Types with fewer
    crops than the settings ask for are left out and named under ``too_few``.
    """
    from supcam.evaluation.intervals import mcnemar, paired_bootstrap
    from supcam.evaluation.metrics import confusion, rates

    types = comparison.types
    answers = {"candidate": comparison.candidate.argmax(axis=1), "production": comparison.production.argmax(axis=1)}
    new, old = answers.values()
    counts = dict(zip(TYPE_LABELS, np.bincount(types, minlength=len(TYPE_LABELS)).tolist(), strict=True))
    compared = [label for label, count in counts.items() if count >= settings.min_test_crops_per_type]
    sensitivity: dict[str, Any] = {}
    summary: dict[str, Any] = {
        "crops": len(types),
        "cases": len(np.unique(comparison.cases)),
        "compared": compared,
        "too_few": {label: count for label, count in counts.items() if label not in compared},
        "sensitivity": sensitivity,
    }
    if not compared:
        return summary
    used = np.isin(types, [TYPE_LABELS.index(label) for label in compared])
    intervals = paired_bootstrap(
        types[used],
        new[used],
        old[used],
        comparison.cases[used].tolist(),
        repeats=settings.bootstrap,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    found = {who: rates(confusion(types[used], answer[used])) for who, answer in answers.items()}
    for label in compared:
        index = TYPE_LABELS.index(label)
        shares = {who: float(one["sensitivity"][index]) for who, one in found.items()}
        sizes = {"crops": counts[label], "cases": len(np.unique(comparison.cases[types == index]))}
        sensitivity[label] = sizes | _difference(shares, intervals.get(f"sensitivity/{label}"))
    totals = {who: float(one[settings.figure]) for who, one in found.items()}
    summary["figure"] = {"name": settings.figure, **_difference(totals, intervals.get(settings.figure))}
    summary["mcnemar"] = asdict(mcnemar(types, new, old))
    return summary


def _difference(values: dict[str, float], interval: "Interval | None") -> dict[str, float | None]:
    # Shares of the same crops differ by whole crops: what is left below that is rounding.
    difference = round(values["candidate"] - values["production"], 12)
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {**values, "difference": difference, "low": low, "high": high}


def _data_validation(card: ModelCard, validation: Validation | None) -> GateRule:
    name, allowed = "data validation", "passed, of this very data hash"
    if validation is None:
        return GateRule(name, False, "no record", allowed, "Run: dvc repro validate")
    if validation.manifest_hash != card.data.manifest_hash:
        note = "the validation looked at other data than the model"
        return GateRule(name, False, validation.manifest_hash, allowed, note)
    return GateRule(name, validation.passed, "passed" if validation.passed else "failed", allowed)


def _parity(card: ModelCard, limit: float) -> GateRule:
    name, allowed = "ONNX parity", f"at most {limit:g}"
    if card.parity is None:
        return GateRule(name, False, "not measured", allowed)
    found = card.parity
    return GateRule(name, found.difference <= limit, found.difference, allowed, f"on {found.crops} crops")


def _floors(card: ModelCard, settings: PromoteSettings) -> list[GateRule]:
    rules = []
    for label in card.types:
        floor = settings.floors.get(label, settings.min_sensitivity)  # type: ignore[call-overload]
        name, allowed, metric = f"floor {label}", f"at least {floor:g}", card.sensitivity.get(label)
        if metric is None or metric.crops == 0:
            rules.append(GateRule(name, None, None, allowed, "no test crop of this type"))
        else:
            note = f"on {metric.crops} test crops" if metric.crops else ""
            rules.append(GateRule(name, metric.value >= floor, metric.value, allowed, note))
    return rules


def _calibration(card: ModelCard, limit: float) -> GateRule:
    error = card.calibration.error
    passed, note = (None, "not measured") if error is None else (error <= limit, "")
    return GateRule("calibration", passed, error, f"error at most {limit:g}", note)


def _comparison_rules(
    candidate: RegisteredModel, production: RegisteredModel, summary: dict[str, Any], settings: PromoteSettings
) -> list[GateRule]:
    name, metric = f"{settings.figure} against production", summary.get("figure")
    if metric is None:
        few = f"fewer than {settings.min_test_crops_per_type} shared test crops of a type that neither model has seen"
        unreadable = f"version {production.version} in production cannot be read"
        note = f"{unreadable if production.card is None else few}, so the floors decide"
        floors_decide = GateRule(name, None, summary.get("crops", 0), "at least equal", note)
        return [floors_decide, _tie(candidate, production, None)]
    note = f"difference {metric['difference']:+.4f} {_bounds(metric)}"
    if summary["too_few"]:
        note += "; too few crops, so only the floors hold: " + ", ".join(summary["too_few"])
    value = {key: metric[key] for key in ("candidate", "production", "difference")}
    rules = [GateRule(name, metric["difference"] >= 0, value, "at least equal", note)]
    for label, row in summary["sensitivity"].items():
        note = f"{settings.confidence:.0%} interval {_bounds(row)} on {row['crops']} crops of {row['cases']} cases"
        # The difference itself: an interval of a few crops is so wide that it excuses nearly every fall.
        passed, allowed = row["difference"] >= -settings.margin, f"a fall of at most {settings.margin:g}"
        rules.append(GateRule(f"{label} not worse", passed, row["difference"], allowed, note))
    return [*rules, _tie(candidate, production, metric["difference"])]


def _bounds(row: dict[str, Any]) -> str:
    return "[not defined]" if row["low"] is None else f"[{row['low']:+.4f}, {row['high']:+.4f}]"


def _tie(candidate: RegisteredModel, production: RegisteredModel, difference: float | None) -> GateRule:
    allowed = "a tie needs other data or code"
    card, other = candidate.card, production.card
    if difference:
        return GateRule("tie", True, "no tie", allowed)
    same = card is not None and other is not None and card.data == other.data and card.code_hash == other.code_hash
    changed = not same or candidate.shipped != production.shipped
    return GateRule("tie", changed, "other data or code" if changed else "same data and code", allowed)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
