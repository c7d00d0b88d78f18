"""Model tests: what must hold for a good model of crops whatever its metrics are, each a share with its threshold."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.composition.composer import Composer, Composite
from supcam.composition.sampling import Cell, Plan
from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.evaluation.intervals import wilson
from supcam.evaluation.metrics import Ints, confusion, rates
from supcam.resaving import KINDS, encoded
from supcam.settings import CheckSettings, ComposeSettings

Grey: TypeAlias = NDArray[np.uint8]
# Probabilities (N, 4) of N crops.
Predict: TypeAlias = Callable[[Sequence[Grey]], NDArray[np.floating[Any]]]
# Columns type ("" for no crop) and needs_review of N encoded files.
Answer: TypeAlias = Callable[[Sequence[bytes]], pd.DataFrame]

_CELLS = ("instance+instance:touch", "instance+instance:overlap", "instance+touching:overlap")
_TRIES = 4  # composites tried for each one wanted
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class CheckResult:
    """One check of one model.

    Attributes:
        name: What was checked.
        passed: The verdict; None where these crops cannot show it, and the note says why.
        value: Share of answers that are as they must be, 0..1; None where the check could not be applied.
        allowed: The threshold in words.
        note: How many crops, and how many of them failed.
    """

    name: str
    passed: bool | None
    value: float | None
    allowed: str
    note: str


@dataclass(frozen=True)
class CheckReport:
    """Verdicts on one model.

    Attributes:
        rules: One per check. Where it is the model that leaves nothing to check, the check fails.
        sources: Metrics of each source: crops, accuracy with its Wilson interval, macro sensitivity.
        crops: Crops that were used.
        resaving: Of each kind of saving crops again: ``kind, family, expected, crops``, and the shares ``changed``,
            ``flagged`` and ``silent`` (changed and not flagged).
    """

    rules: list[CheckResult]
    sources: dict[str, dict[str, Any]]
    crops: int
    resaving: list[dict[str, Any]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(rule.passed is None or rule.passed for rule in self.rules)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"passed": self.passed, **asdict(self)}


def run_checks(
    predict: Predict,
    crops: CropSet,
    settings: CheckSettings,
    compose: ComposeSettings,
    answer: Answer | None = None,
) -> CheckReport:
    """Test a model on labelled crops that it was not trained on: ``check.crops`` of them, spread evenly.

    With ``answer``, ``check.resaved`` of them are saved again in every kind of :mod:`supcam.resaving` as well.

    Raises:
        UsageError: when there is no crop.
    """
    if not len(crops):
        raise UsageError("there is no crop to check the model with. Give labelled crops with --data.")
    crops = crops.subset(np.linspace(0, len(crops) - 1, min(settings.crops, len(crops))).astype(int))
    answers = _answers(predict, crops.images)

    def unchanged(name: str, changes: Callable[[Grey], Iterable[Grey]], threshold: float) -> CheckResult:
        changed = [one for image in crops.images for one in changes(image)]
        expected = np.repeat(answers, len(changed) // len(crops))
        return _share(name, _answers(predict, changed) == expected, threshold, f"{len(crops)} crops")

    def both_ways(image: Grey) -> list[Grey]:
        return [brightened(image, 1 + sign * settings.brightness) for sign in (-1, 1)]

    results = [
        unchanged("quarter turns and flips", symmetries, settings.min_unchanged),
        _rotations(predict, crops.images, settings),
        unchanged("brightness", both_ways, settings.min_brightness_kept),
        unchanged("blur", lambda image: [blurred(image, settings.blur)], settings.min_blur_kept),
        *(_single_stays(share, predict, crops, answers, settings) for share in settings.padding),
        *_algebra(predict, crops, answers, settings, compose),
    ]
    resaving = resaving_table(answer, crops.images, settings) if answer is not None and settings.resaved else []
    results += _resaved(resaving, settings)
    return CheckReport(results, source_metrics(crops, answers), len(crops), resaving)


def resaving_table(answer: Answer, images: Sequence[Grey], settings: CheckSettings) -> list[dict[str, Any]]:
    """How many of ``check.resaved`` crops change their type when saved again, by kind; see :class:`CheckReport`."""
    types = answer([encoded(image) for image in images])["type"].to_numpy()
    typed = np.flatnonzero(types != "")  # what is not a crop has no type to keep
    if not len(typed):
        return []
    kept = typed[np.unique(np.linspace(0, len(typed) - 1, min(settings.resaved, len(typed))).astype(int))]
    chosen = [images[at] for at in kept]
    rows = []
    for name, kind in KINDS.items():
        rng = np.random.default_rng(settings.seed)
        after = answer([kind.save(image, rng) for image in chosen])
        changed = after["type"].to_numpy() != types[kept]
        flagged = after["needs_review"].to_numpy(dtype=bool)
        shares = {"changed": changed.mean(), "flagged": flagged.mean(), "silent": (changed & ~flagged).mean()}
        described = {"kind": name, "family": kind.family, "expected": kind.expected, "crops": len(chosen)}
        rows.append(described | {what: float(share) for what, share in shares.items()})
    return rows


def symmetries(image: Grey) -> list[Grey]:
    """The other seven turns and mirror images of a crop (H, W)."""
    turned = [np.rot90(image, quarter) for quarter in range(4)]
    return [np.ascontiguousarray(one) for one in (*turned[1:], *(np.fliplr(one) for one in turned))]


def brightened(image: Grey, factor: float) -> Grey:
    """Optical density times a factor: white stays white."""
    return np.asarray(np.clip(np.round(255 - (255 - image.astype(np.float64)) * factor), 0, 255), dtype=np.uint8)


def blurred(image: Grey, radius: float) -> Grey:
    """Gaussian blur, ``radius`` in pixels, on a white surround."""
    margin = int(np.ceil(3 * radius))
    soft = Image.fromarray(padded(image, margin)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(soft)[margin:-margin, margin:-margin] if margin else image


def padded(image: Grey, margin: int) -> Grey:
    """A white frame of ``margin`` pixels around a crop."""
    return np.pad(image, margin, constant_values=255)


def on_diagonal_canvas(image: Grey) -> Grey:
    """A crop centred on a white square on which it can be turned by any angle without being cut or scaled again."""
    side = int(np.ceil(np.hypot(*image.shape))) + 2
    missing = [side - length for length in image.shape]
    return np.pad(image, [(rest // 2, rest - rest // 2) for rest in missing], constant_values=255)


def rotated(canvas: Grey, degrees: float) -> Grey:
    """A canvas turned about its centre, white where nothing was."""
    return np.asarray(Image.fromarray(canvas).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=255))


def source_metrics(crops: CropSet, answers: Ints) -> dict[str, dict[str, Any]]:
    """Crops, accuracy with interval and macro sensitivity of each source."""
    sources = crops.frame["source"].astype(str).to_numpy()
    found = {}
    for name in sorted(set(sources)):
        matrix = confusion(crops.labels[sources == name], answers[sources == name])
        hits, total = int(np.trace(matrix)), int(matrix.sum())
        interval = wilson(hits, total, _CONFIDENCE)
        assert interval is not None  # a source has at least one crop
        accuracy = {"accuracy": hits / total, **asdict(interval)}
        found[name] = {"crops": total, **accuracy, "macro_sensitivity": float(rates(matrix)["macro_sensitivity"])}
    return found


def _rotations(predict: Predict, images: Sequence[Grey], settings: CheckSettings) -> CheckResult:
    rng = np.random.default_rng(settings.seed)
    canvases = [on_diagonal_canvas(image) for image in images]
    # Compared with the answer to the canvas, not to the crop: the white frame is another check.
    before = _answers(predict, canvases)
    turned = [rotated(canvas, degrees) for canvas in canvases for degrees in rng.uniform(0, 360, settings.angles)]
    same = _answers(predict, turned) == np.repeat(before, settings.angles)
    return _share("rotation by any angle", same, settings.min_unchanged, f"{len(images)} crops on a padded canvas")


def _single_stays(
    share: float, predict: Predict, crops: CropSet, answers: Ints, settings: CheckSettings
) -> CheckResult:
    """Singles with a white frame of ``share`` of their longest side."""
    singles = [image for image, answer in zip(crops.images, answers, strict=True) if answer == ClusterType.INSTANCE]
    name, threshold = f"single stays single, framed by {share:g}", settings.min_single_kept
    labelled = crops.labels == ClusterType.INSTANCE
    # A model that types no single correctly must not pass by having nothing that could change.
    if labelled.any() and not (answers[labelled] == ClusterType.INSTANCE).any():
        return _not_measured(name, threshold, f"the model calls none of {labelled.sum()} singles a single", failed=True)
    if not singles:
        return _not_measured(name, threshold, "no crop is a single, and the model calls none so", failed=False)
    framed = [padded(one, max(1, round(share * max(one.shape)))) for one in singles]
    kept = _answers(predict, framed) == int(ClusterType.INSTANCE)
    return _share(name, kept, threshold, f"{len(singles)} crops that the model calls single")


def _resaved(table: list[dict[str, Any]], settings: CheckSettings) -> list[CheckResult]:
    """Whether crops saved again keep their type or go to review, by what is expected of the kind."""
    limits = {"same": settings.min_resaved_same, "same or flagged": settings.min_resaved_doubtful}
    results = []
    for expected, threshold in limits.items() if table else ():
        rows = [row for row in table if row["expected"] == expected]
        value = 1 - float(np.mean([row["silent"] for row in rows]))
        worst = max(rows, key=lambda row: row["silent"])
        note = f"{len(rows)} kinds of {rows[0]['crops']} crops; worst {worst['kind']} {worst['silent']:.2f}"
        name = f"saved again, {expected}"
        results.append(CheckResult(name, value >= threshold, value, f"at least {threshold:g}", note))
    return results


def _algebra(
    predict: Predict, crops: CropSet, answers: Ints, settings: CheckSettings, compose: ComposeSettings
) -> list[CheckResult]:
    """Composites of crops that the model types correctly: it should give them type(A) | type(B) | relation."""
    known = crops.subset(np.flatnonzero(answers == crops.labels))
    # Not training sources: without its column split the composer takes any crops.
    composer = Composer(CropSet(known.frame.drop(columns="split", errors="ignore"), known.images), compose)
    labelled, correct = set(crops.labels.tolist()), set(known.labels.tolist())
    results = []
    for cell in map(Cell.parse, _CELLS):
        name, needed = f"algebra {cell.label} gives {cell.target.label}", {int(cell.first), int(cell.second)}
        missed = [ClusterType(kind).label for kind in sorted((needed & labelled) - correct)]
        if missed and needed <= labelled:
            note = f"the model types no crop of type {' or '.join(missed)} correctly"
            results.append(_not_measured(name, settings.min_algebra, note, failed=True))
        else:
            results.append(_composites_typed(name, predict, composer, cell, settings))
    return results


def _composites_typed(
    name: str, predict: Predict, composer: Composer, cell: Cell, settings: CheckSettings
) -> CheckResult:
    # A generator for each attempt: one that fails does not move the others.
    tried = (
        composer.compose_plan(Plan(cell), np.random.default_rng((settings.seed, int(cell.target), attempt)))
        for attempt in range(_TRIES * settings.composites)
    )
    made = list(islice((one for one in tried if isinstance(one, Composite)), settings.composites))
    if not made:
        return _not_measured(name, settings.min_algebra, "no composite could be made of these crops", failed=False)
    answers = _answers(predict, [composite.image for composite in made])
    wrong = np.bincount(answers[answers != int(cell.target)], minlength=len(TYPE_LABELS))
    others = ", ".join(f"{count} {label}" for label, count in zip(TYPE_LABELS, wrong, strict=True) if count)
    note = f"{len(made)} composites of correctly typed crops" + (f"; otherwise {others}" if others else "")
    return _share(name, answers == int(cell.target), settings.min_algebra, note)


def _answers(predict: Predict, pictures: Sequence[Grey]) -> Ints:
    return np.asarray(predict(pictures).argmax(axis=1), dtype=np.int64)


def _share(name: str, correct: NDArray[np.bool_], threshold: float, note: str) -> CheckResult:
    value, wrong = float(correct.mean()), int((~correct).sum())
    note = f"{note}; {wrong} of {len(correct)} fail"
    return CheckResult(name, value >= threshold, value, f"at least {threshold:g}", note)


def _not_measured(name: str, threshold: float, note: str, failed: bool) -> CheckResult:
    """A check of nothing: failed where that is the model's doing, else not applied."""
    passed, value = (False, 0.0) if failed else (None, None)
    return CheckResult(name, passed, value, f"at least {threshold:g}", note)
