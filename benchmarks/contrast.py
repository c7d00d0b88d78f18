"""Does contrastive training pay? Arms on the same folds, composites and seeds: python -m benchmarks.contrast --help.

Prints one JSON line for each training as it ends and one for each arm against cross-entropy; finished trainings are
kept. ``joint`` arms train the self-margin loss and cross-entropy together.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.selecting import load
from supcam.cluster_type import TYPE_LABELS
from supcam.composition.dataset import compose_set
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest
from supcam.evaluation.cases import actual_types, certain_rows
from supcam.evaluation.metrics import confusion, rates
from supcam.evaluation.repeats import compare_repeats
from supcam.experiments.parts import Fold, grouped_folds
from supcam.experiments.rows import with_overrides, with_seed
from supcam.experiments.single import print_line
from supcam.files import write_text
from supcam.identity import identity, key_of
from supcam.models.encoders import build_encoder
from supcam.settings import Settings, load_settings, profile_path
from supcam.training.embeddings import encode, linear_probe, nearest_neighbours
from supcam.training.finetuning import finetune
from supcam.training.prediction import predict_logits
from supcam.training.pretraining import pretrain

PREDICTIONS, RESULT = "predictions.npy", "result.json"


def _pretrained(epochs: int, margin_on: str = "self") -> dict[str, Any]:
    return {"pretrain.epochs": epochs, "pretrain.margin_on": margin_on}


_SCRATCH = {"pretrain.epochs": 0}
_JOINT = {"finetune.contrastive_weight": 0.35}
# Each arm by the settings that it changes.
ARMS: dict[str, dict[str, Any]] = {
    "ce": _SCRATCH,
    "ce_long": {**_SCRATCH, "finetune.epochs": 20},
    "supcam_3": _pretrained(3),
    "supcam_30": _pretrained(30),
    "supcam_100": _pretrained(100),
    "none_30": _pretrained(30, "none"),
    "all_30": _pretrained(30, "all"),
    "joint": {**_SCRATCH, **_JOINT},
    "joint_1": {**_SCRATCH, "finetune.contrastive_weight": 1.0},
    "supcam_3_joint": {**_pretrained(3), **_JOINT},
    "supcam_30_joint": {**_pretrained(30), **_JOINT},
}


@dataclass(frozen=True)
class Trial:
    """Crops, one fold of them, a share of its training crops, and the settings with their seed."""

    crops: CropSet
    fold: Fold
    share: float
    settings: Settings
    state: Path

    @property
    def name(self) -> str:
        """Fold, seed and share, for file names."""
        return f"fold{self.fold.number}-seed{self.settings.runtime.seed}-labels{self.share:g}"

    def train(self) -> CropSet:
        """The labelled crops: the share of each type, four at least, at random by the seed."""
        rows = np.random.default_rng(self.settings.runtime.seed).permutation(self.fold.train)
        labels = self.crops.labels[rows]
        parts = [rows[labels == code] for code in range(len(TYPE_LABELS))]
        return self.crops.subset(np.sort(np.concatenate([p[: max(4, round(self.share * len(p)))] for p in parts])))

    def with_composites(self) -> CropSet:
        """Labelled crops and composites of them, made once for all arms."""
        train = self.train()
        sources = CropSet(train.frame.assign(split="train"), train.images)
        folder = self.state / "composed" / self.name
        if not (folder / "manifest.csv").is_file():
            compose_set(sources, self.settings.compose, folder)
        return train.concat(CropSet.load(read_manifest(folder / "manifest.csv"), folder))

    def predicted(self, name: str) -> NDArray[np.int64]:
        """Types (N,) of the crops held out, by the arm; trained where that is not kept."""
        key = key_of(identity(with_overrides(self.settings, ARMS[name]), "network", {}))[:8]
        folder = self.state / name / f"{self.name}-{key}"
        if not (folder / RESULT).is_file():
            self._run(name, folder)
        return np.asarray(np.load(folder / PREDICTIONS), dtype=np.int64)

    def _run(self, name: str, folder: Path) -> None:
        settings = with_overrides(self.settings, ARMS[name])
        train, validation, held_out = (
            self.with_composites(),
            *map(self.crops.subset, (self.fold.validation, self.fold.held_out)),
        )
        row: dict[str, Any] = {
            "arm": name,
            "trial": self.name,
            "real_crops": len(self.train().frame),
            "crops": len(train.frame),
        }
        encoder, start = None, time.process_time()
        if settings.pretrain.epochs:
            encoder = pretrain(train, validation, settings, state_dir=folder / "pretrain").encoder_state
            row |= self._probes(settings, encoder, held_out)
        row["pretrain_seconds"] = round(time.process_time() - start, 1)
        tuned = finetune(train, validation, settings, encoder, state_dir=folder / "finetune")
        found = predict_logits(tuned.model_state, held_out, settings).argmax(axis=1)
        np.save(folder / PREDICTIONS, found)
        row |= _metrics(held_out.labels, found) | {"seconds": round(time.process_time() - start, 1)}
        row["macro_sensitivity_certain"] = _metrics(
            *(v[certain_rows(held_out.frame)] for v in (held_out.labels, found))
        )["macro_sensitivity"]
        write_text(folder / RESULT, json.dumps(row, indent=2))
        print_line(**row)

    def _probes(self, settings: Settings, state: dict[str, Tensor], held_out: CropSet) -> dict[str, float]:
        network = build_encoder(settings.model)
        network.load_state_dict(state)
        train = self.train()
        canvases = (
            torch.from_numpy(crops.canvas(settings.input.size, settings.input.scale)) for crops in (train, held_out)
        )
        known, asked = (encode(network, each) for each in canvases)
        near = nearest_neighbours(normalize(asked, dim=1), normalize(known, dim=1), torch.tensor(train.labels))
        line = linear_probe(known.double().numpy(), train.labels, asked.double().numpy())
        return {
            name: _metrics(held_out.labels, found)["macro_sensitivity"]
            for name, found in (("knn_macro_sensitivity", near), ("probe_macro_sensitivity", line))
        }


def _metrics(labels: NDArray[np.int64], found: NDArray[np.int64]) -> dict[str, float]:
    values = rates(confusion(labels, found))
    return {name: round(float(values[name]), 4) for name in ("accuracy", "macro_sensitivity")}


def _write(path: Path, frame: pd.DataFrame, found: NDArray[np.int64]) -> None:
    """Predicted types (seeds, N) as a table, for ``benchmarks.errors``."""
    rows = [
        pd.DataFrame({"crop_id": frame["crop_id"], "predicted": [TYPE_LABELS[code] for code in one]}) for one in found
    ]
    write_text(path, pd.concat(rows).to_csv(index=False))


def base_settings(seed: int) -> Settings:
    """Profile ``real``, cut down as the ablation of docs/results.md is."""
    settings = with_overrides(
        load_settings(profile_path("real")),
        {
            "runtime.threads": 1, "runtime.progress": False, "runtime.device": "cpu", "model.width": 16,
            "compose.count": 3000, "compose.workers": 1, "finetune.epochs": 10, "finetune.contrastive_weight": 0.0,
        },
    )  # fmt: skip
    return with_seed(settings, seed)


def main() -> None:
    """Run the arms, and compare each with cross-entropy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with labels.csv, such as ../shared/data/mfish-slides")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[name for name in ARMS if name != "ce"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0, help="share of the labelled training crops that is used")
    parser.add_argument("--state", type=Path, default=Path("state/contrast"))
    options = parser.parse_args()
    crops = load(options.source)
    certain = pd.read_csv(options.source / "labels.csv", dtype=str)["label_certain"]
    crops.frame["label_certain"] = (certain != "no").to_numpy()
    settings = {seed: base_settings(seed) for seed in options.seeds}
    first = settings[options.seeds[0]]
    folds = grouped_folds(crops.frame, first.split, options.folds)
    frame = crops.frame.iloc[np.concatenate([fold.held_out for fold in folds])].reset_index(drop=True)
    trials = [[Trial(crops, fold, options.share, settings[seed], options.state) for fold in folds] for seed in settings]
    reference = np.stack([np.concatenate([trial.predicted("ce") for trial in row]) for row in trials])
    labels = actual_types(frame)
    _write(options.state / f"ce-labels{options.share:g}.csv", frame, reference)
    for name in options.arms:
        found = np.stack([np.concatenate([trial.predicted(name) for trial in row]) for row in trials])
        _write(options.state / f"{name}-labels{options.share:g}.csv", frame, found)
        paired = compare_repeats(frame, found, reference, first.evaluate, "macro_sensitivity")
        mean = {
            key: round(float(np.mean([_metrics(labels, one)[key] for one in found])), 4)
            for key in ("accuracy", "macro_sensitivity")
        }
        print_line(
            name="contrast", arm=name, labels=options.share, seeds=options.seeds, **mean, against_ce=asdict(paired)
        )


if __name__ == "__main__":
    main()
