"""How often ``supcam watch`` raises a false alarm, and which shifts it notices: python -m benchmarks.watching --help.

A model answers crops that it has not seen. Three in ten of their cases are the reference, weeks of whole cases are
drawn from the others, as they are and after changes that cost 5 points of accuracy. Prints JSON lines.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.selecting import SIZES as SIZES_OF_LABELS
from benchmarks.selecting import Trial, load, settings_for
from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest
from supcam.evaluation.intervals import wilson
from supcam.evaluation.novelty import fit_novelty
from supcam.experiments.single import print_line
from supcam.monitoring.shift import compare_with_reference
from supcam.registry.package import read_split
from supcam.resaving import KINDS
from supcam.serving.engine import Engine
from supcam.serving.gate import LOW_CONFIDENCE, UNLIKE_TRAINING
from supcam.serving.images import decode_crop
from supcam.serving.novelty import statistics_of
from supcam.settings import WatchSettings
from supcam.training.finetuning import finetune
from supcam.training.prediction import predict_logits

Crop = NDArray[np.uint8]
Change = Callable[[Crop, float, np.random.Generator], Crop]

SIZES = (200, 2000)
COST = 0.05  # accuracy that a shift costs
RESAVED = ("u12", "inverted", "bg200", "noise5_pad15", "gamma2.2", "gamma0.6", "jpeg75", "webp")
_SETTINGS = WatchSettings()


def _blurred(crop: Crop, level: float, _: np.random.Generator) -> Crop:
    return np.asarray(np.rint(gaussian_filter(crop.astype(np.float64), 4 * level, mode="nearest")), dtype=np.uint8)


def _noisy(crop: Crop, level: float, rng: np.random.Generator) -> Crop:
    noise = np.where(crop < 250, rng.normal(0, 60 * level, crop.shape), 0)
    return np.asarray(np.clip(crop + noise, 0, 255), dtype=np.uint8)


def _pale(crop: Crop, level: float, _: np.random.Generator) -> Crop:
    return np.asarray(np.rint(255 - (255.0 - crop) * (1 - 0.85 * level)), dtype=np.uint8)


def _coarse(crop: Crop, level: float, _: np.random.Generator) -> Crop:
    from PIL import Image

    height, width = crop.shape
    factor = 1 + 7 * level
    small = Image.fromarray(crop).resize((max(4, round(width / factor)), max(4, round(height / factor))), 4)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


def _dark(crop: Crop, level: float, _: np.random.Generator) -> Crop:
    return np.asarray(np.rint(255 * (crop / 255.0) ** (1 + 5 * level)), dtype=np.uint8)


CHANGES: dict[str, Change] = {
    "out of focus": _blurred, "pale stain": _pale, "fewer pixels": _coarse, "noise": _noisy, "dark stain": _dark,
}  # fmt: skip


Picture = Crop | bytes
Answer = Callable[[Sequence[Picture], pd.DataFrame], pd.DataFrame]


def judged(columns: Mapping[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """A table that ``supcam watch`` reads, with ``case`` and whether the answers are ``correct``."""
    table = pd.DataFrame(columns).assign(case=frame["case_id"].to_numpy())
    return table.assign(correct=table["type"] == frame["type"].to_numpy())


def of_project(package: Path, data: Path) -> tuple[Answer, CropSet]:
    """The model of a project, and the validation and test crops of its data, which it did not train on."""
    frame, engine = read_manifest(data / "manifest.csv"), Engine(package, threads=1)
    parts = read_split(package).drop_duplicates("sha256").set_index("sha256")["split"]
    kept = frame[frame["sha256"].map(parts).isin(["validation", "test"])]

    def answer(crops: Sequence[Picture], rows: pd.DataFrame) -> pd.DataFrame:
        return judged(engine.answer(engine.predict(crops)), rows)

    return answer, CropSet.load(kept, data)


def small(source: Path, state: Path) -> tuple[Answer, CropSet]:
    """The network of ``benchmarks.selecting`` with 800 random labels of 14 of 20 slides, and the crops without labels.

    One in ten of these goes to review; what is unlike the 800 crops is found as in a package.
    """
    crops = load(source)
    trial = Trial(crops, np.stack([statistics_of(image) for image in crops.images]), 0, state)
    labelled = np.concatenate([trial.start, trial.pool[~np.isin(trial.pool, trial.start)]])[: SIZES_OF_LABELS[-1]]
    rest = crops.subset(np.setdiff1d(np.arange(len(crops)), labelled))
    settings, train = settings_for(len(labelled), 0), crops.subset(np.sort(labelled))
    kept = finetune(train, crops.subset([]), settings, None, state_dir=trial.state_of(labelled))
    novelty = fit_novelty(train.images, rest.images, 0.01, train.frame["case_id"].tolist())
    assert novelty is not None
    threshold = 0.0

    def answer(pictures: Sequence[Picture], rows: pd.DataFrame) -> pd.DataFrame:
        images = [decode_crop(picture) for picture in pictures]
        found = CropSet(rows.reset_index(drop=True), images)
        values = np.exp(predict_logits(kept.model_state, found, settings))
        unlike = novelty.unlike(np.stack([statistics_of(image) for image in images]))
        low = values.max(axis=1) < threshold
        reasons = [
            "; ".join(filter(None, (UNLIKE_TRAINING * bool(far), LOW_CONFIDENCE * bool(few))))
            for far, few in zip(unlike, low, strict=True)
        ]
        types = [TYPE_LABELS[index] for index in values.argmax(axis=1)]
        columns = {"type": types, "confidence": values.max(axis=1), "needs_review": unlike | low, "reason": reasons}
        return judged(columns, rows)

    threshold = float(np.quantile(answer(list(rest.images), rest.frame)["confidence"], 0.1))
    return answer, rest


def divided(answers: pd.DataFrame, count: int, share: float = 0.3) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """``count`` divisions of the cases into a reference and new ones."""
    cases = answers["case"].unique()
    for seed in range(count):
        chosen = np.random.default_rng(seed).permutation(cases)[: max(1, round(share * len(cases)))]
        is_reference = answers["case"].isin(chosen)
        yield answers[is_reference], answers[~is_reference]


def weeks(answers: pd.DataFrame, size: int, count: int, named: bool, seed: int = 0) -> Iterator[pd.DataFrame]:
    """``count`` weeks of ``size`` answers: whole cases in turn until they suffice; without their names if so asked."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(answers["case"] == case) for case in answers["case"].unique()]
    for _ in range(count):
        chosen: list[NDArray[np.int64]] = []
        while sum(map(len, chosen)) < size:
            chosen += [rng.permutation(rows[at]) for at in rng.permutation(len(rows))]
        sizes = [len(part) for part in chosen]
        week = answers.iloc[np.concatenate(chosen)[:size]]
        names = np.repeat(np.arange(len(chosen)), sizes)[:size].astype(str)
        yield week.assign(case=names) if named else week.drop(columns="case")


def alarms(pairs: Iterable[tuple[pd.DataFrame, pd.DataFrame]], size: int, count: int, named: bool) -> dict[str, object]:
    """Share of weeks with an alarm, ``count`` of each reference and its answers, and its 95 % interval (Wilson)."""
    found = [
        compare_with_reference(reference, week, _SETTINGS).alarms
        for seed, (reference, answers) in enumerate(pairs)
        for week in weeks(answers, size, count, named, seed)
    ]
    interval = wilson(sum(map(bool, found)), len(found))
    names = pd.Series([alarm.name for week in found for alarm in week], dtype=object).value_counts()
    low, high = (round(interval.low, 3), round(interval.high, 3)) if interval else (None, None)
    share = round(sum(map(bool, found)) / len(found), 3)
    return {"crops": size, "cases_named": named, "weeks": len(found), "alarms": share, "low": low, "high": high,
            "by": names.to_dict()}  # fmt: skip


def quiet(answers: pd.DataFrame, divisions: int, count: int) -> None:
    """False alarms: weeks of the reference's own answers, and of new cases."""
    for named in (True, False):
        for size in SIZES:
            own = ((reference, reference) for reference, _ in divided(answers, divisions))
            print_line(name="quiet", weeks_of="the reference", **alarms(own, size, count, named))
            print_line(name="quiet", weeks_of="new cases", **alarms(divided(answers, divisions), size, count, named))


def changed_weeks(
    before: pd.DataFrame, after: pd.DataFrame, divisions: int
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """References as they were, with changed answers of new cases."""
    for reference, new in divided(before, divisions):
        yield reference, after[after["case"].isin(new["case"].unique())]


def costly(answer: Answer, crops: CropSet, answers: pd.DataFrame, divisions: int, count: int) -> None:
    """Shifts that cost 5 points of accuracy, each by the level that costs so much, found by bisection."""
    accuracy = float(answers["correct"].mean())
    for name, change in CHANGES.items():
        low, high, kept, nearest = 0.0, 1.0, answers, 0.0
        for _ in range(5):
            level, rng = (low + high) / 2, np.random.default_rng(0)
            found = answer([change(image, level, rng) for image in crops.images], crops.frame)
            cost = accuracy - float(found["correct"].mean())
            if abs(cost - COST) < abs(nearest - COST):
                kept, nearest = found, cost
            low, high = (level, high) if cost < COST else (low, level)
        for named in (True, False):
            for size in (200, 1000):
                weeks_found = alarms(changed_weeks(answers, kept, divisions), size, count, named)
                print_line(name="costly", change=name, cost=round(nearest, 3), **weeks_found)


def shifts(
    answer: Answer, crops: CropSet, answers: pd.DataFrame, other: Path | None, divisions: int, count: int
) -> None:
    """Each case left out and watched by itself, crops of another laboratory, and crops saved again."""
    for case in answers["case"].unique():
        alone = answers["case"] == case
        found = compare_with_reference(answers[~alone], answers[alone], _SETTINGS)
        accuracy = round(float(answers[alone]["correct"].mean()), 3)
        raised = [alarm.name for alarm in found.alarms]
        print_line(name="case", case=case, crops=int(alone.sum()), accuracy=accuracy, alarms=raised)
    tables = {}
    if other is not None:
        foreign = load(other)
        tables[other.name] = answer(list(foreign.images), foreign.frame)
    for name in RESAVED:
        rng = np.random.default_rng(0)
        tables[f"saved again: {name}"] = answer([KINDS[name].save(image, rng) for image in crops.images], crops.frame)
    for name, table in tables.items():
        is_other = other is not None and name == other.name
        pairs = ((reference, table) for reference, _ in divided(answers, divisions)) if is_other else (
            changed_weeks(answers, table, divisions))  # fmt: skip
        accuracy = round(float(table["correct"].mean()), 3)
        print_line(name="shift", of=name, accuracy=accuracy, **alarms(pairs, 200, count, True))


def main() -> None:
    """Measure one model: of a project, or a small one trained on a folder of slides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, help="package of a project's model; with --data")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--slides", type=Path, help="instead: folder with labels.csv, such as mfish-slides")
    parser.add_argument("--state", type=Path, default=Path("state/selecting"))
    parser.add_argument("--other", type=Path, help="folder with labels.csv of another laboratory")
    parser.add_argument("--divisions", type=int, default=10, help="of the cases into reference and new ones")
    parser.add_argument("--weeks", type=int, default=20, help="of each division")
    parser.add_argument("--crops", type=int, default=400, help="crops that are changed, spread evenly")
    parser.add_argument("--parts", nargs="+", default=["quiet", "shifts", "costly"])
    options = parser.parse_args()
    answer, crops = (
        small(options.slides, options.state) if options.slides else of_project(options.package, options.data)
    )
    answers = answer(list(crops.images), crops.frame)
    accuracy, review = (round(float(answers[name].mean()), 3) for name in ("correct", "needs_review"))
    print_line(name="model", crops=len(crops), cases=answers["case"].nunique(), accuracy=accuracy, needs_review=review)
    if "quiet" in options.parts:
        quiet(answers, options.divisions, options.weeks)
    few = np.unique(np.linspace(0, len(crops) - 1, options.crops).astype(int))
    fewer, same = crops.subset(few), answers.iloc[few].reset_index(drop=True)
    if "shifts" in options.parts:
        shifts(answer, fewer, answers, options.other, options.divisions, options.weeks)
    if "costly" in options.parts:
        costly(answer, fewer, same, options.divisions, options.weeks)


if __name__ == "__main__":
    main()
