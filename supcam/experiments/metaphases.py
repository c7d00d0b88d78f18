"""What a model is worth on whole metaphases with label maps: python -m supcam.experiments.metaphases.

Objects are those of `supcam metaphase`; true ones are the 8-connected regions of a label map above 0. An object is
found when it shares half of its union with a true one. Prints JSON lines; writes `metaphases.json`, `metaphases.md`.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from supcam import tracking
from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.errors import UsageError
from supcam.evaluation.intervals import percentile_interval
from supcam.experiments.single import print_line
from supcam.files import write_text
from supcam.metaphase.metaphase import Metaphase
from supcam.metaphase.objects import Thing
from supcam.metaphase.segmentation import connected
from supcam.progress import progress_bar
from supcam.registry.client import PRODUCTION_URI, Predictor, load_production
from supcam.serving.engine import file_hash
from supcam.stages.command import exit_codes

# Half of the slides, on which the parameters of the segmentation were chosen: the first half of this permutation of the
# sorted slides. Written down before any metric of the other half was read.
HALVING_SEED = 23
MIN_OVERLAP = 0.5
HALVES = ("tuning", "other")
_RESAMPLES = 2000


@dataclass(frozen=True)
class Judged:
    """One metaphase against its label map.

    Attributes:
        cell, case, half: its name, its slide, and whether parameters were chosen on it (``tuning``) or not (``other``).
        part: part of the split of the model that most of its crops are in; empty where none is.
        pairs: actual and given type of each found object.
        counts: true objects, found, false, missed, wrong (found, of another type, not in review), false_routed (false
            and not in review), review.
    """

    cell: str
    case: str
    half: str
    part: str
    pairs: tuple[tuple[str, str], ...]
    counts: dict[str, int]

    @property
    def is_right(self) -> bool:
        """Whether the answer is complete and correct without a person."""
        return not any(self.counts[name] for name in ("false", "missed", "wrong", "review"))


def match_objects(things: Sequence[Thing], truth: NDArray[np.int32]) -> list[int]:
    """Number of the true object (1 to n, of the map (H, W)) that each thing shares half of its union with, or 0."""
    areas = np.bincount(truth.ravel())
    matched = []
    for thing in things:
        under = np.bincount(truth[thing.box][thing.mask], minlength=1)
        under[0] = 0
        best = int(under.argmax())
        union = thing.area + areas[best] - under[best]
        matched.append(best if best and under[best] >= MIN_OVERLAP * union else 0)
    return matched


def judge_metaphase(
    metaphase: Metaphase, truth: NDArray[np.int32], types: Mapping[int, str], cell: str, case: str, half: str, part: str
) -> Judged:
    """Compare typed objects with a map of true ones (H, W) and their types by number."""
    rows = metaphase.objects[metaphase.objects["type"] != ""]
    things = [metaphase.things[number - 1] for number in rows["object"]]
    matched = match_objects(things, truth)
    pairs, counts = [], Counter(dict.fromkeys(("found", "false", "wrong", "false_routed", "review"), 0))
    for number, kind, review in zip(matched, rows["type"], rows["needs_review"], strict=True):
        counts["review"] += int(review)
        if not number:
            counts["false"] += 1
            counts["false_routed"] += int(not review)
            continue
        counts["found"] += 1
        if number in types:
            pairs.append((types[number], str(kind)))
            counts["wrong"] += int(types[number] != kind and not review)
    counts["objects"] = int(truth.max())
    counts["missed"] = counts["objects"] - len({number for number in matched if number})
    return Judged(cell, case, half, part, tuple(pairs), dict(counts))


def summarised(judged: Sequence[Judged], seconds: float) -> dict[str, Any]:
    """Metrics over some metaphases, with 95 % intervals from resampling whole slides.

    Args:
        judged: At least one metaphase.
        seconds: That a person takes to look at one object; all would be looked at without a model.
    """
    metrics = _metrics(judged, seconds)
    by_case: dict[str, list[Judged]] = {}
    for one in judged:
        by_case.setdefault(one.case, []).append(one)
    cases, rng = list(by_case.values()), np.random.default_rng(0)
    drawn: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(_RESAMPLES if len(cases) > 1 else 0):
        chosen = [one for index in rng.integers(0, len(cases), len(cases)) for one in cases[index]]
        for name, value in _metrics(chosen, seconds).items():
            drawn[name].append(value)
    out: dict[str, Any] = {"metaphases": len(judged), "slides": len(cases)}
    for name, value in metrics.items():
        interval = percentile_interval(np.array(drawn[name]), 0.95) if drawn[name] else None
        bounds = {} if interval is None else {"low": round(interval.low, 4), "high": round(interval.high, 4)}
        out[name] = {"value": None if np.isnan(value) else round(value, 4), **bounds}
    return out


def _metrics(judged: Sequence[Judged], seconds: float) -> dict[str, float]:
    total: Counter[str] = Counter()
    table = np.zeros((len(TYPE_LABELS), len(TYPE_LABELS)))
    for one in judged:
        total.update(one.counts)
        for actual, given in one.pairs:
            table[ClusterType.parse(actual), ClusterType.parse(given)] += 1
    number = len(judged)
    typed, per_type = table.sum(), table.sum(axis=1)
    sensitivity = np.diag(table)[per_type > 0] / per_type[per_type > 0]
    answers = total["found"] + total["false"]
    return {
        "recall": _share(total["objects"] - total["missed"], total["objects"]),
        "precision": _share(total["found"], answers),
        "type_accuracy": _share(float(np.trace(table)), float(typed)),
        "macro_sensitivity": float(sensitivity.mean()) if len(sensitivity) else float("nan"),
        "objects_per_metaphase": total["objects"] / number,
        "missed_per_metaphase": total["missed"] / number,
        "false_per_metaphase": total["false"] / number,
        "wrongly_routed_per_metaphase": total["wrong"] / number,
        "false_routed_per_metaphase": total["false_routed"] / number,
        "review_per_metaphase": total["review"] / number,
        "right_without_a_person": sum(one.is_right for one in judged) / number,
        "minutes_saved_per_metaphase": (answers - total["review"]) * seconds / 60 / number,
        "risk": _share(total["wrong"] + total["false_routed"], answers - total["review"]),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def halves_of(cases: Sequence[str]) -> dict[str, str]:
    """Half of each slide, see :data:`HALVING_SEED`."""
    slides = sorted(set(cases))
    order = np.random.default_rng(HALVING_SEED).permutation(len(slides))
    return {slides[index]: HALVES[int(place >= len(slides) // 2)] for place, index in enumerate(order)}


def run_experiment(
    predictor: Predictor, images: Path, maps: Path, crops: Path, half: str | None = None, limit: int | None = None
) -> list[Judged]:
    """Judge all pictures that have a label map of their name; types and slides come from ``labels.csv`` in ``crops``.

    Raises:
        UsageError: when no picture has a map, or picture and map differ in size.
    """
    table = pd.read_csv(crops / "labels.csv", dtype=str, keep_default_na=False)
    cases = table.drop_duplicates("cell").set_index("cell")["case"]
    halves = halves_of(list(cases))
    pictures = [path for path in sorted(images.iterdir()) if (maps / f"{path.stem}.png").is_file()]
    pictures = [path for path in pictures if half in (None, halves.get(str(cases.get(path.stem))))]
    if not pictures:
        raise UsageError(f"{images} holds no picture with a label map of its name in {maps}. Give both folders.")
    pictures = pictures[:: max(1, len(pictures) // limit)][:limit] if limit else pictures
    split, judged = predictor.split(), []
    with progress_bar("metaphases", len(pictures)) as progress:
        for done, path in enumerate(pictures, 1):
            rows = table[table["cell"] == path.stem]
            case = str(cases.get(path.stem, path.stem))
            truth = _true_objects(path, maps / f"{path.stem}.png")
            parts = Counter(split.get(_hash(crops / name), "") for name in rows["path"])
            part = parts.most_common(1)[0][0] if parts else ""
            types = {
                int(Path(name).stem.rpartition("_")[2]): kind
                for name, kind in zip(rows["path"], rows["type"], strict=True)
            }
            judged.append(
                judge_metaphase(
                    Metaphase(path, predictor), truth, types, path.stem, case, halves.get(case, "other"), part
                )
            )
            progress(done, len(pictures))
    return judged


def _true_objects(picture: Path, path: Path) -> NDArray[np.int32]:
    with Image.open(path) as image:
        labels = np.asarray(image)
    with Image.open(picture) as image:
        if image.size != (labels.shape[1], labels.shape[0]):
            raise UsageError(f"{path} is of another size than {picture}. Give the map of this picture.")
    return connected(labels > 0)


def _hash(path: Path) -> str:
    return file_hash(path) if path.is_file() else ""


def markdown(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """One table, a column for each group of metaphases."""
    names = list(groups)
    first = groups[names[0]]
    lines = [f"| metric | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for name in first:
        cells = [_cell(group[name]) for group in groups.values()]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(metric: Any) -> str:
    if not isinstance(metric, Mapping):
        return str(metric)
    if metric["value"] is None:
        return "not defined"
    interval = f" ({metric['low']:.3f} to {metric['high']:.3f})" if "low" in metric else ""
    return f"{metric['value']:.3f}{interval}"


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of pictures")
    parser.add_argument("maps", type=Path, help="folder of label maps, PNG: 0 is background")
    parser.add_argument(
        "crops", type=Path, help="folder with labels.csv: path (..._NNN.png is object NNN), type, case, cell"
    )
    parser.add_argument("--model", default=PRODUCTION_URI)
    parser.add_argument("--half", choices=HALVES, help="only slides that parameters were chosen on, or the other ones")
    parser.add_argument("--seconds", type=float, default=6.0, help="a person takes for one object (an assumption)")
    parser.add_argument("--limit", type=int, help="only so many pictures, spread evenly")
    parser.add_argument("--into", type=Path, default=Path("reports/metaphases"))
    options = parser.parse_args()
    tracking.quiet()
    with exit_codes():
        predictor = load_production(options.model)
        judged = run_experiment(predictor, options.images, options.maps, options.crops, options.half, options.limit)
        groups = {name: [one for one in judged if one.half == name] for name in HALVES}
        groups["test slides of the model"] = [one for one in judged if one.part == "test"]
        found = {name: summarised(chosen, options.seconds) for name, chosen in groups.items() if chosen}
        content = {
            "model": predictor.origin,
            "seconds_per_object": options.seconds,
            "groups": found,
            "metaphases": [{"cell": one.cell, "half": one.half, "part": one.part, **one.counts} for one in judged],
        }
        write_text(options.into / "metaphases.json", json.dumps(content, indent=1) + "\n")
        write_text(options.into / "metaphases.md", markdown(found))
    for group, metrics in found.items():
        for name, metric in metrics.items():
            if isinstance(metric, Mapping):
                print_line(name=name, group=group, **metric)


if __name__ == "__main__":
    main()
