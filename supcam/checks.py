"""Model tests: what must hold for a good model of crops whatever its figures are, each a share with its bar."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.composition.composer import Composer, Composite
from supcam.composition.sampling import Cell, Plan
from supcam.data.crops import CropSet
from supcam.errors import UsageError
from supcam.evaluation.intervals import wilson
from supcam.evaluation.metrics import confusion, rates
from supcam.registry.rules import GateRule as Rule
from supcam.settings import CheckSettings, ComposeSettings

Grey: TypeAlias = NDArray[np.uint8]
# Probabilities (N, 4) of N crops.
Predict: TypeAlias = Callable[[Sequence[Grey]], NDArray[np.floating[Any]]]

_CELLS = ("instance+instance:touch", "instance+instance:overlap", "instance+touching:overlap")
_TRIES = 4  # composites tried for each one wanted
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class CheckReport:
    """Verdicts on one model.

    Attributes:
        rules: One per check; ``passed`` is None where these crops cannot tell, and the note says why. Where it is the
            model that leaves nothing to check, the check fails.
        sources: Figures of each source: crops, accuracy with its Wilson interval, macro sensitivity.
        crops: Crops that were used.
    """

    rules: list[Rule]
    sources: dict[str, dict[str, Any]]
    crops: int

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(rule.passed is not False for rule in self.rules)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"passed": self.passed, **asdict(self)}


def run_checks(predict: Predict, crops: CropSet, settings: CheckSettings, compose: ComposeSettings) -> CheckReport:
    """Test a model on labelled crops that it was not trained on.

    Args:
        predict: The model.
        crops: At least one; ``check.crops`` of them are used, spread evenly.
        settings: Bars and strengths.
        compose: How composites of the algebra check are made.

    Raises:
        UsageError: when there is no crop.
    """
    if not len(crops):
        raise UsageError("there is no crop to check the model with. Give labelled crops with --data.")
    crops = crops.subset(np.linspace(0, len(crops) - 1, min(settings.crops, len(crops))).astype(int))
    answers = predict(crops.images).argmax(axis=1)
    rules = [
        _unchanged("quarter turns and flips", predict, crops.images, answers, symmetries, settings.min_unchanged),
        _rotations(predict, crops.images, settings),
        _unchanged(
            "brightness",
            predict,
            crops.images,
            answers,
            lambda image: [brightened(image, 1 + sign * settings.brightness) for sign in (-1, 1)],
            settings.min_brightness_kept,
        ),
        _unchanged(
            "blur",
            predict,
            crops.images,
            answers,
            lambda image: [blurred(image, settings.blur)],
            settings.min_blur_kept,
        ),
        *(_single_stays(share, predict, crops, answers, settings) for share in settings.padding),
        *_algebra(predict, crops, answers, settings, compose),
    ]
    return CheckReport(rules, source_figures(crops, answers), len(crops))


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
    """A crop centred on a white square on which it can be turned by any angle without being cut or scaled anew."""
    height, width = image.shape
    side = int(np.ceil(np.hypot(height, width))) + 2
    canvas = np.full((side, side), 255, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


def rotated(canvas: Grey, degrees: float) -> Grey:
    """A canvas turned about its centre, white where nothing was."""
    return np.asarray(Image.fromarray(canvas).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=255))


def source_figures(crops: CropSet, answers: NDArray[np.int64]) -> dict[str, dict[str, Any]]:
    """Crops, accuracy with interval and macro sensitivity of each source."""
    sources, labels = crops.frame["source"].astype(str).to_numpy(), crops.labels
    found = {}
    for name in sorted(set(sources)):
        rows = sources == name
        hits, total = int((labels[rows] == answers[rows]).sum()), int(rows.sum())
        span = wilson(hits, total, _CONFIDENCE)
        assert span is not None  # a source has at least one crop
        sensitivity = float(rates(confusion(labels[rows], answers[rows]))["macro_sensitivity"])
        found[name] = {
            "crops": total,
            "accuracy": hits / total,
            "low": span.low,
            "high": span.high,
            "macro_sensitivity": sensitivity,
        }
    return found


def _unchanged(
    name: str,
    predict: Predict,
    images: Sequence[Grey],
    answers: NDArray[np.int64],
    changes: Callable[[Grey], Iterable[Grey]],
    bar: float,
) -> Rule:
    changed = [list(changes(image)) for image in images]
    expected = np.repeat(answers, [len(pictures) for pictures in changed])
    return _share(name, _answers(predict, changed) == expected, bar, f"{len(images)} crops")


def _rotations(predict: Predict, images: Sequence[Grey], settings: CheckSettings) -> Rule:
    rng = np.random.default_rng(settings.seed)
    canvases = [on_diagonal_canvas(image) for image in images]
    before = _answers(predict, [[canvas] for canvas in canvases])
    turned = [[rotated(canvas, degrees) for degrees in rng.uniform(0, 360, settings.angles)] for canvas in canvases]
    same = _answers(predict, turned) == np.repeat(before, settings.angles)
    return _share("rotation by any angle", same, settings.min_unchanged, f"{len(images)} crops on a padded canvas")


def _single_stays(
    share: float, predict: Predict, crops: CropSet, answers: NDArray[np.int64], settings: CheckSettings
) -> Rule:
    """Singles with a white frame of ``share`` of their longest side."""
    singles = [image for image, answer in zip(crops.images, answers, strict=True) if answer == ClusterType.INSTANCE]
    name, bar = f"single stays single, framed by {share:g}", settings.min_single_kept
    labelled = crops.labels == ClusterType.INSTANCE
    if labelled.any() and not (answers[labelled] == ClusterType.INSTANCE).any():
        return Rule(name, False, 0.0, f"at least {bar:g}", f"the model calls none of {labelled.sum()} singles a single")
    if not singles:
        return Rule(name, None, None, f"at least {bar:g}", "no crop is a single, and the model calls none so")
    framed = [[padded(one, max(1, round(share * max(one.shape))))] for one in singles]
    kept = _answers(predict, framed) == int(ClusterType.INSTANCE)
    return _share(name, kept, bar, f"{len(singles)} crops that the model calls single")


def _algebra(
    predict: Predict, crops: CropSet, answers: NDArray[np.int64], settings: CheckSettings, compose: ComposeSettings
) -> list[Rule]:
    """Composites of crops that the model types rightly: it should give them type(A) | type(B) | relation."""
    rows = np.flatnonzero(answers == crops.labels)
    known = crops.subset(rows)
    # Not training sources: without its column split the composer takes any crops.
    frame = known.frame.drop(columns="split", errors="ignore")
    composer = Composer(CropSet(frame, known.images), compose)
    labelled, right = set(crops.labels.tolist()), set(known.labels.tolist())
    rules = []
    for cell in map(Cell.parse, _CELLS):
        needed = {int(cell.first), int(cell.second)}
        missed = [ClusterType(kind).label for kind in sorted((needed & labelled) - right)]
        if missed and needed <= labelled:
            note = f"the model types no crop of type {' or '.join(missed)} rightly"
            rules.append(Rule(_algebra_name(cell), False, 0.0, f"at least {settings.min_algebra:g}", note))
        else:
            rules.append(_algebra_rule(predict, composer, cell, settings))
    return rules


def _algebra_name(cell: Cell) -> str:
    return f"algebra {cell.label} gives {cell.target.label}"


def _algebra_rule(predict: Predict, composer: Composer, cell: Cell, settings: CheckSettings) -> Rule:
    name, bar = _algebra_name(cell), settings.min_algebra
    made: list[Composite] = []
    for attempt in range(_TRIES * settings.composites):
        rng = np.random.default_rng((settings.seed, int(cell.target), attempt))
        composite = composer.compose_plan(Plan(cell), rng)
        if isinstance(composite, Composite):
            made.append(composite)
        if len(made) == settings.composites:
            break
    if not made:
        return Rule(name, None, None, f"at least {bar:g}", "no composite could be made of these crops")
    told = _answers(predict, [[composite.image] for composite in made])
    wrong = np.bincount(told[told != int(cell.target)], minlength=len(TYPE_LABELS))
    others = ", ".join(f"{count} {label}" for label, count in zip(TYPE_LABELS, wrong, strict=True) if count)
    note = f"{len(made)} composites of rightly typed crops" + (f"; otherwise {others}" if others else "")
    return _share(name, told == int(cell.target), bar, note)


def _answers(predict: Predict, pictures: Sequence[Sequence[Grey]]) -> NDArray[np.int64]:
    """Types of all pictures, crop by crop."""
    flat = [one for group in pictures for one in group]
    return np.asarray(predict(flat).argmax(axis=1), dtype=np.int64)


def _share(name: str, right: NDArray[np.bool_], bar: float, note: str) -> Rule:
    value = float(right.mean())
    return Rule(name, value >= bar, value, f"at least {bar:g}", f"{note}; {int((~right).sum())} of {len(right)} fail")
