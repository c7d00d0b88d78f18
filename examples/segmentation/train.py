"""Stage train: the network from composites of the training crops, and its quality on composites it never saw.

    python train.py [--project ../..] [--out outputs]

Composites are made of single chromosomes of the project's part `train`; every fifth case of it is held out to judge
on, and the parts `validation` and `test` are not looked at. Settings: params.yaml beside this file.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import yaml
from methods import Network, split_touching
from network import chromosomes, composites, examples_of, export, fit
from quality import Counts, ap50, compare, inside, panoptic

from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest
from supcam.errors import UsageError
from supcam.files import replaced_folder, write_text

HERE = Path(__file__).resolve().parent
HELD_OUT = "held_out"


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--project", type=Path, default=HERE.parents[1])
    parser.add_argument("--out", type=Path, default=HERE / "outputs")
    given = parser.parse_args()
    settings = yaml.safe_load((HERE / "params.yaml").read_text(encoding="utf-8"))["train"]
    metrics = run(given.project, given.out, settings)
    print(" ".join(f"{name} {value:.3f}" for name, value in metrics.items()))


def run(project: Path, into: Path, settings: dict[str, int]) -> dict[str, float]:
    """Train, and write network, held-out composites and metrics into the folder ``into``, all or nothing."""
    torch.set_num_threads(settings["threads"])
    seed = settings["seed"]
    with replaced_folder(into) as out:
        crops, others = divided(project)
        made = list(composites(crops, settings["composites"], seed))
        print(f"{len(made)} composites", flush=True)
        export(fit(examples_of(made), settings["steps"], seed), out / "model.onnx")
        (out / HELD_OUT).mkdir()
        for number, one in enumerate(composites(others, settings["held_out"], seed + 1)):
            np.savez_compressed(out / HELD_OUT / f"{number:04d}.npz", crop=one.image, masks=chromosomes(one))
        counts, plain = judge(out / "model.onnx", out / HELD_OUT), judge(None, out / HELD_OUT)
        metrics = {"pq": panoptic(counts), "ap50": ap50(counts), "watershed_pq": panoptic(plain)}
        write_text(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def divided(project: Path) -> tuple[CropSet, CropSet]:
    """Single chromosomes of the part `train` of the project's split: to train on, and those of every fifth case."""
    frame = read_manifest(project / "outputs" / "split" / "manifest.csv")
    chosen = (frame["split"] == "train") & (frame["type"] == "instance") & frame["label_certain"]
    crops = CropSet.load(frame[chosen], project / "data")
    cases = sorted(set(crops.groups))
    if len(cases) < 2:
        raise UsageError(f"the training crops are of {len(cases)} case; two are needed to judge on another. Add cases.")
    held_out = set(cases[::5])
    others = np.array([group in held_out for group in crops.groups])
    return crops.subset(~others), crops.subset(others)


def judge(model: Path | None, held_out: Path) -> list[Counts]:
    """What the network of an ONNX file, or the watershed, finds in each held-out composite."""
    method = split_touching if model is None else Network(model)
    counts = []
    for path in sorted(held_out.iterdir()):
        with np.load(path) as kept:
            crop, truth = kept["crop"], kept["masks"]
        counts.append(compare(inside(method(crop), truth), truth))
    return counts


if __name__ == "__main__":
    main()
