"""What labels chosen by ``supcam review select`` are worth against random ones: python -m benchmarks.selecting --help.

A small network is trained from random weights on 200, 400 and 800 labelled crops of some slides, chosen by the network
of the step before or at random, and judged on crops of other slides. Prints JSON lines; finished trainings are kept.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS
from supcam.data.crops import CropSet
from supcam.evaluation.metrics import confusion, rates
from supcam.experiments.single import print_line
from supcam.review.selection import choose
from supcam.serving.images import decode_crop
from supcam.serving.novelty import statistics_of
from supcam.settings import Settings, parse_settings
from supcam.training.finetuning import finetune
from supcam.training.prediction import predict_logits

START, SIZES = 100, (200, 400, 800)
_STEPS, _BATCH = 480, 32  # each training has as many steps, whatever the number of labels


def load(source: Path) -> CropSet:
    """Crops of a folder with ``labels.csv`` (path, type, case)."""
    table = pd.read_csv(source / "labels.csv", dtype=str)
    frame = table[["path", "type"]].assign(
        crop_id=table["path"], case_id=table["case"], source=source.name, sha256=table["path"], label_certain=True
    )
    return CropSet(frame, [decode_crop(source / path) for path in table["path"]])


def settings_for(labels: int, seed: int) -> Settings:
    """A small network, from random weights, for as many steps whatever the number of labels."""
    return parse_settings(
        {
            "runtime": {"seed": seed, "threads": 1, "progress": False, "device": "cpu"},
            "input": {"size": 64},
            "model": {"encoder": "resnet10", "width": 16, "pooling": "average_max"},
            "finetune": {
                "epochs": round(_STEPS * _BATCH / labels), "batch_size": _BATCH, "head_epochs": 0, "balance": 0.6,
                "use_composed": False, "test_views": 4, "label_smoothing": 0.05, "average": 0.98,
            },
        }
    )  # fmt: skip


class Trial:
    """One seed: slides to judge on, slides to label crops of, and the hundred labels that both ways begin with."""

    def __init__(self, crops: CropSet, statistics: NDArray[np.float64], seed: int, state: Path) -> None:
        self.crops, self.seed, self.state = crops, seed, state
        rng = np.random.default_rng(seed)
        cases = np.unique(crops.frame["case_id"])
        held = rng.permutation(cases)[: round(0.3 * len(cases))]
        is_test = crops.frame["case_id"].isin(held).to_numpy()
        self.test, self.pool = np.flatnonzero(is_test), rng.permutation(np.flatnonzero(~is_test))
        scale = statistics[self.pool]
        self.features = (statistics - scale.mean(axis=0)) / scale.std(axis=0)
        labels = crops.labels[self.pool]
        # At least two of each type, without which nothing can be trained.
        first = np.concatenate([np.flatnonzero(labels == kind)[:2] for kind in range(len(TYPE_LABELS))])
        rest = np.setdiff1d(np.arange(len(self.pool)), first)[: START - len(first)]
        self.start = self.pool[np.concatenate([first, rest])]

    def probabilities(self, labelled: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, 4) of ``rows`` by a network trained on the labels of ``labelled``."""
        settings = settings_for(len(labelled), self.seed)
        train, nothing = self.crops.subset(np.sort(labelled)), self.crops.subset([])
        trained = finetune(train, nothing, settings, None, state_dir=self.state_of(labelled))
        return np.exp(predict_logits(trained.model_state, self.crops.subset(rows), settings).astype(np.float64))

    def state_of(self, labelled: NDArray[np.int64]) -> Path:
        """Folder that keeps the training on these labels."""
        return self.state / f"{self.seed}-{len(labelled)}-{hash_of(labelled)}"

    def run(self, way: str) -> list[dict[str, Any]]:
        """Judge each number of labels; ``way`` is selected or random."""
        labelled, out = self.start, []
        for size in SIZES:
            rest = self.pool[~np.isin(self.pool, labelled)]
            if way == "selected":
                chosen = choose(self.probabilities(labelled, rest), self.features[rest], size - len(labelled))
                labelled = np.concatenate([labelled, rest[chosen]])
            else:
                labelled = np.concatenate([labelled, rest[: size - len(labelled)]])
            found = self.probabilities(labelled, self.test).argmax(axis=1)
            values = rates(confusion(self.crops.labels[self.test], found))
            counts = np.bincount(self.crops.labels[labelled], minlength=len(TYPE_LABELS))
            out.append(
                {
                    "way": way, "seed": self.seed, "labels": size,
                    "macro_sensitivity": round(float(values["macro_sensitivity"]), 4),
                    "accuracy": round(float(values["accuracy"]), 4),
                    "sensitivity": dict(zip(TYPE_LABELS, np.round(values["sensitivity"], 3).tolist(), strict=True)),
                    "labelled": dict(zip(TYPE_LABELS, counts.tolist(), strict=True)),
                }
            )  # fmt: skip
            print_line(**out[-1])
        return out


def hash_of(rows: NDArray[np.int64]) -> str:
    """A name for a set of rows."""
    return hashlib.sha256(np.sort(rows).astype(np.int64).tobytes()).hexdigest()[:12]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean difference of macro sensitivity, selected minus random, with its 95 % interval over the seeds (t)."""
    from scipy.stats import t

    frame = pd.DataFrame(rows).pivot(index=["labels", "seed"], columns="way", values="macro_sensitivity")
    out = []
    for labels, pairs in frame.groupby(level="labels"):
        gain = pairs["selected"] - pairs["random"]
        half = t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
        means = {way: round(float(pairs[way].mean()), 4) for way in ("selected", "random")}
        interval = [round(float(gain.mean() + side * half), 4) for side in (-1, 1)]
        out.append({"labels": labels, **means, "gain": round(float(gain.mean()), 4), "interval": interval})
    return out


def main() -> None:
    """Run all seeds both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with labels.csv, such as ../shared/data/mfish-slides")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--state", type=Path, default=Path("state/selecting"))
    options = parser.parse_args()
    crops = load(options.source)
    statistics = np.stack([statistics_of(image) for image in crops.images])
    trials = [Trial(crops, statistics, seed, options.state) for seed in range(options.seeds)]
    rows = [row for trial in trials for way in ("selected", "random") for row in trial.run(way)]
    for line in summary(rows):
        print_line(name="selecting", **line)


if __name__ == "__main__":
    main()
