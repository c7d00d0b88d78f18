"""The promotion gate: pure functions from what is known about two models to a decision with every rule named."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.card import Metric, ModelCard
from supcam.serving.gate import sure_enough
from supcam.settings import EvaluateSettings, PromoteSettings

if TYPE_CHECKING:
    from supcam.evaluation.intervals import Interval

Outcome = Literal["promoted", "refused", "nothing to do", "candidate only"]
PACKAGE_RULE = "package"
_DATA_RULE = "data validation"
# Not about how good the model is, but whether data and package are what they claim to be.
_CLAIMS = (_DATA_RULE, PACKAGE_RULE, "answers computed", "answers as stored", "card as measured", "split")
_NEVER_FORCED = (*_CLAIMS, "card complete", "ONNX parity")
_SAME_ANSWER = 1e-3  # how far processors may be apart in a probability
_CARD_TOLERANCE = 0.02  # how far card and gate may be apart: models are judged in bfloat16 on some devices


@dataclass(frozen=True)
class GateRule:
    """One rule: its value, what is allowed, and the verdict; None when it could not be applied."""

    name: str
    passed: bool | None
    value: Any
    allowed: str
    note: str = ""

    def __post_init__(self) -> None:
        # A verdict of numpy is not the object False, and would count as none.
        object.__setattr__(self, "passed", None if self.passed is None else bool(self.passed))


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
    resemble each other. ``stored`` of the answers were not computed now, but are kept in the packages.
    """

    types: NDArray[np.int64]
    candidate: NDArray[np.float32]
    production: NDArray[np.float32]
    cases: NDArray[np.str_]
    stored: int = 0


@dataclass(frozen=True)
class Evidence:
    """The candidate's answers to its test crops, and what the gate found when it looked at its package.

    Attributes:
        types: Class indices (N,).
        probabilities: (N, 4), of the graph where the crop is available, else those stored in the package.
        computed: (N,), whether the gate ran the graph on the crop.
        difference: Largest difference between computed and stored probabilities.
        contradiction: What in the package contradicts the data or the split of the project, or "".
        unknown: Why that cannot be compared, or "".
        out_of_fold: Sensitivity by type of the same recipe on crops of other folds, where the settings ask for it.
        no_folds: Why there are none in spite of that, or "".
    """

    types: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    computed: NDArray[np.bool_]
    difference: float = 0.0
    contradiction: str = ""
    unknown: str = ""
    out_of_fold: Mapping[str, Metric] = field(default_factory=dict)
    no_folds: str = ""


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
    def stops_pipeline(self) -> bool:
        """Whether the refusal is not a result of the metrics: the data failed, or the package is not what it claims."""
        return any(rule.name in _CLAIMS and rule.passed is False for rule in self.rules)

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
    evidence: Evidence,
    latency_ms: float,
    comparison: Comparison | None = None,
    withdrawn: bool = False,
    force: str = "",
    note: str = "",
) -> Decision:
    """Apply every rule to a candidate.

    Args:
        candidate: The model that wants to be in production.
        production: The model that is, or was last, or None when there never was one.
        settings: Floors, margin and limits.
        validation: That of the candidate's data, None without a record of one.
        evidence: The candidate on its test crops.
        latency_ms: Median time for one crop on one thread, milliseconds.
        comparison: Both models on shared test crops, None without production or without such crops.
        withdrawn: Whether a rollback took this very version out of production.
        force: Reason to promote in spite of the metrics; never overrides what the package claims or the data are.
        note: What is unusual about ``production``, for the decision.
    """
    number = production.version if production is not None else None
    card = candidate.card
    assert card is not None  # a candidate whose card cannot be read is refused before
    missing = ", ".join(card.missing()) or "nothing missing"
    rules = [
        _data_validation(card, validation),
        GateRule("card complete", missing == "nothing missing", missing, "nothing missing"),
        _parity(card, settings.max_parity_difference),
        *_answers(card, evidence, settings),
        *_split(evidence),
        *_floors(evidence, settings),
        _calibration(evidence, settings),
    ]
    fast, allowed = latency_ms <= settings.max_latency_ms, f"at most {settings.max_latency_ms:g} ms"
    rules.append(GateRule("latency", fast, round(latency_ms, 3), allowed, "one crop, one thread"))
    why = "a rollback took this version out of production; --force REASON brings it back" if withdrawn else ""
    rules.append(GateRule("not rolled back", not withdrawn, "rolled back" if withdrawn else "no", "no", why))
    summary = compare(comparison, settings) if comparison is not None else {}
    if production is not None:
        rules += _comparison_rules(candidate, production, summary, settings, note)
    failed = [rule for rule in rules if rule.passed is False]
    reason = "first model in production" if production is None else "every rule passed"
    reason += f"; {note}" if note else ""
    if unjudged := [rule.name for rule in rules if rule.passed is None]:
        reason += f"; too few test crops to judge: {', '.join(unjudged)}"
    if not evidence.computed.all():
        reason += f"; {int((~evidence.computed).sum())} of {len(evidence.computed)} answers are stored ones"
    outcome: Outcome = "promoted"
    if failed and force and all(rule.name not in _NEVER_FORCED for rule in failed):
        reason = f"forced ({force}) against: " + ", ".join(rule.name for rule in failed)
    elif failed:
        outcome, reason = "refused", "; ".join(_why(rule) for rule in failed)
    return Decision(outcome, reason, candidate.version, number, rules, force, summary)


def _why(rule: GateRule) -> str:
    return f"{rule.name}: {_short(rule.value)} ({rule.allowed})"


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
        "stored_answers": comparison.stored,
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
    name, allowed = _DATA_RULE, "passed, of this very data hash"
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


def _answers(card: ModelCard, evidence: Evidence, settings: PromoteSettings) -> list[GateRule]:
    """Whether the answers were computed now, are those of the package, and give the metrics of its card."""
    run, total = int(evidence.computed.sum()), len(evidence.computed)
    note = "" if run == total else "the crops are not available: dvc checkout data.dvc, or promote.allow_stored_answers"
    passed, near = run == total or settings.allow_stored_answers, f"at most {_SAME_ANSWER:g}"
    measured = _measured(evidence) | _review_risks(evidence, card.review.threshold)
    # A metric that the card lacks is named by the rule "card complete".
    nothing = _Value(0.0, 0, 0.0)
    lies = {
        name: {"card": metric.value, "measured": measured.get(name, nothing).value}
        for name, metric in _claims(card).items()
        if name not in measured
        or metric.crops != measured[name].crops
        or abs(metric.value - measured[name].value) > max(_CARD_TOLERANCE, 1.5 * measured[name].of_a_crop)
    }
    return [
        GateRule("answers computed", passed, f"{run} of {total}", "the graph run on every test crop", note),
        GateRule("answers as stored", evidence.difference <= _SAME_ANSWER, evidence.difference, near),
        GateRule("card as measured", not lies, lies or "as measured", "what the gate measures"),
    ]


class _Value(NamedTuple):
    """A metric, the number of crops it is of, and how much of it a single crop can make."""

    value: float
    crops: int
    of_a_crop: float


def _claims(card: ModelCard) -> dict[str, Metric]:
    overall = {name: card.metrics[name] for name in ("accuracy", "macro_sensitivity") if name in card.metrics}
    review = {
        f"review risk, {label}": Metric(value=row.test.risk or 0.0, crops=row.test.crops)
        for label, row in card.review.by_type.items()
        if row.test is not None
    }
    return overall | review | {f"sensitivity, {label}": metric for label, metric in card.sensitivity.items()}


def _measured(evidence: Evidence) -> dict[str, _Value]:
    """The metrics of a card as the gate measures them; the sensitivity of a type without crops is 0."""
    from supcam.evaluation.metrics import confusion, rates

    found = rates(confusion(evidence.types, evidence.probabilities.argmax(axis=1)))
    counts = np.bincount(evidence.types, minlength=len(TYPE_LABELS))
    total, present = len(evidence.types), counts[counts > 0]
    values = {
        "accuracy": _Value(float(found["accuracy"]), total, 1 / total),
        "macro_sensitivity": _Value(float(found["macro_sensitivity"]), total, 1 / (len(present) * int(present.min()))),
    }
    for label, value, crops in zip(TYPE_LABELS, np.nan_to_num(found["sensitivity"]), counts.tolist(), strict=True):
        values[f"sensitivity, {label}"] = _Value(float(value), crops, 1 / max(crops, 1))
    return values


def _review_risks(evidence: Evidence, threshold: float) -> dict[str, _Value]:
    """Of each type the share of crops that is answered as another type without review, 0 without crops."""
    from supcam.evaluation.review import achieved_risk

    answered = sure_enough(evidence.probabilities.astype(np.float64), threshold)
    found = achieved_risk(evidence.types, evidence.probabilities.argmax(axis=1), answered)
    return {
        f"review risk, {label}": _Value(row["risk"] or 0.0, row["crops"], 1 / max(row["crops"], 1))
        for label, row in found.items()
    }


def _split(evidence: Evidence) -> list[GateRule]:
    """Whether the package is of the data and the split of the project, so that test crops are what they claim to be."""
    allowed = "data and split of the project"
    if evidence.contradiction:
        return [GateRule("split", False, evidence.contradiction, allowed)]
    if evidence.unknown:
        return [GateRule("split known", False, evidence.unknown, allowed)]
    return [GateRule("split", True, "as divided", allowed)]


def _floors(evidence: Evidence, settings: PromoteSettings) -> list[GateRule]:
    """Sensitivity of each type that has as many crops as the comparison asks for: in the test part, else in folds."""
    rules, measured, least = [], _measured(evidence), settings.min_test_crops_per_type
    for label in TYPE_LABELS:
        floor = settings.floors.get(label, settings.min_sensitivity)  # type: ignore[call-overload]
        name, allowed, found = f"floor {label}", f"at least {floor:g}", measured[f"sensitivity, {label}"]
        folds = evidence.out_of_fold.get(label)
        if found.crops >= least:
            rules.append(GateRule(name, found.value >= floor, found.value, allowed, f"on {found.crops} test crops"))
        elif folds is not None and (folds.crops or 0) >= least:
            note = f"out of fold, on {folds.crops} crops: of the recipe, not of this model"
            rules.append(GateRule(name, folds.value >= floor, folds.value, allowed, note))
        else:
            note = f"too few crops to judge ({found.crops} of at least {least})"
            note += f"; {evidence.no_folds}" if evidence.no_folds else ""
            rules.append(GateRule(name, None, found.value if found.crops else None, allowed, note))
    if all(rule.passed is None for rule in rules):
        note = "of no type are there enough crops to judge; --force REASON overrides"
        rules.append(GateRule("floors", False, len(evidence.types), f"a type with at least {least} crops", note))
    return rules


def _calibration(evidence: Evidence, settings: PromoteSettings) -> GateRule:
    from supcam.evaluation.calibration import calibration_error, reliability

    limit, bins = settings.max_calibration_error, EvaluateSettings().reliability_bins
    error = calibration_error(reliability(evidence.types, evidence.probabilities.astype(np.float64), bins))
    return GateRule("calibration", error <= limit, error, f"error at most {limit:g}")


def _comparison_rules(
    candidate: RegisteredModel,
    production: RegisteredModel,
    summary: dict[str, Any],
    settings: PromoteSettings,
    unusual: str,
) -> list[GateRule]:
    name, metric = f"{settings.figure} against production", summary.get("figure")
    if production.content == candidate.content:
        return [GateRule(name, True, "the same model", "at least equal", unusual)]
    if metric is None:
        few = f"fewer than {settings.min_test_crops_per_type} shared test crops of a type that neither model has seen"
        unreadable = "no version that was in production can be read"
        note = f"{unreadable if production.card is None else few}, so nothing can be compared; --force REASON overrides"
        return [GateRule(name, False, summary.get("crops", 0), "at least equal", note)]
    note = f"difference {metric['difference']:+.4f} {_bounds(metric)}"
    if summary["too_few"]:
        note += "; too few crops, so only the floors hold: " + ", ".join(summary["too_few"])
    if summary["stored_answers"]:
        note += f"; {summary['stored_answers']} answers are stored ones"
    note += f"; {unusual}" if unusual else ""
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
