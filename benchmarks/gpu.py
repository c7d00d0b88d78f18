"""What only a GPU can show, within 9 minutes: ``python -m benchmarks.gpu`` prints one JSON object a line.

A step of either training on the GPU against the same one on the processor; the GPU rows of ``benchmarks.pretraining``;
profile ``real_gpu`` on the crops in ``data/`` (four fifths of the cases, judged on the others), killed in its
training and resumed. ``--device cpu --quick`` is the rehearsal on a machine without a GPU: it measures nothing.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.pretraining import drawn_bank, gpu_rows, print_row
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest
from supcam.evaluation.metrics import confusion, rates
from supcam.experiments.parts import grouped_folds
from supcam.experiments.recipe import run_recipe
from supcam.settings import Settings, load_settings, parse_settings, profile_path
from supcam.training.device import reproducible
from supcam.training.finetuning import FinetuneTask
from supcam.training.pretraining import PretrainTask
from supcam.training.task import Step, TaskInputs, fit, run_identity

LIMITS = {"64-true": 1e-6, "32-true": 1e-2}  # of the difference between two updates, in the length of one
FOLDS = 5
KILLED_AFTER = 2  # epochs
QUICK = {
    "runtime.threads": "1", "input.size": "32", "model.width": "16", "compose.count": "40", "compose.workers": "1",
    "pretrain.batch_size": "32", "pretrain.queue_size": "64", "finetune.epochs": "2",
    "finetune.real_epochs": "1", "finetune.batch_size": "32",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every row; what does not fit into the time is a row with a reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a small training and few steps")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--data", type=Path, default=Path("data"))
    chosen = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * chosen.minutes
    for step in ("pretrain", "finetune"):
        for precision in LIMITS:
            _step_row(step, precision, chosen.device)
    gpu_rows(quick=chosen.quick)
    overrides = {"runtime.device": chosen.device, "runtime.progress": "false"} | (QUICK if chosen.quick else {})
    _training_rows(load_settings(profile_path("real_gpu"), overrides), chosen.data, deadline)


def _step_row(step: Step, precision: str, device: str) -> None:
    """How far apart the weights are after the first step of a training, in lengths of that step."""
    before, after = _one_step(step, precision, "cpu")
    _, other = _one_step(step, precision, device)
    change, difference = (torch.linalg.vector_norm(one - two) for one, two in ((after, before), (other, after)))
    value = float(difference / change)
    print_row(f"{step}_step_difference_{precision}", value, "ratio", limit=LIMITS[precision], device=_named(device))


def _one_step(step: Step, precision: str, device: str) -> tuple[Tensor, Tensor]:
    """Weights (N,) before and after the only step of a training of one epoch."""
    section = {"epochs": 1, "batch_size": 32}
    settings = parse_settings(
        {
            "runtime": {"threads": 1, "progress": False, "device": device, "precision": precision},
            "model": {"encoder": "resnet18", "width": 16},
            "pretrain": {**section, "queue_size": 64, "watch_crops": 0},
            "finetune": {**section, "head_epochs": 0, "test_views": 1, "contrastive_weight": 0.35},
        }
    )
    bank = drawn_bank(settings, 32)
    with tempfile.TemporaryDirectory() as folder, reproducible(settings.runtime, 0):
        given = TaskInputs(settings, bank, bank, run_identity(settings, step, "drawn"))
        task = PretrainTask(given) if step == "pretrain" else FinetuneTask(given, 0)
        before = _flat(task.trained)
        fit(task, step, 1, 1, Path(folder))
        return before, _flat(task.trained)


def _flat(network: torch.nn.Module) -> Tensor:
    return torch.cat([weights.detach().cpu().double().flatten() for weights in network.parameters()])


def _training_rows(settings: Settings, data: Path, deadline: float) -> None:
    """Profile ``real_gpu`` killed, resumed, and as far as the time goes."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        log.touch()
        start = time.monotonic()
        first = _started(settings, data, log)
        while first.is_alive() and time.monotonic() < deadline and len(_epochs(log, "finetune")) < KILLED_AFTER:
            time.sleep(0.05)
        first.kill()
        first.join()
        killed = len(log.read_text(encoding="utf-8").splitlines())
        second = _started(settings, data, log)
        second.join(max(0.0, deadline - time.monotonic()))
        ended = not second.is_alive()
        second.kill()
        second.join()
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    what: dict[str, Any] = {"device": _named(settings.runtime.device), "profile": settings.profile}
    again = [row["epoch"] for row in rows[killed:] if "crops_per_second" in row]
    measured = [row for row in rows if "crops_per_second" in row]  # not those that a resumed run logs again
    if not again:
        reason = "not measured: the time was over" if not ended else "not measured: the training failed, see above"
        print_row("resumed_from_epoch", None, "epoch", reason=reason, **what)
        return
    print_row("resumed_from_epoch", again[0], "epoch", killed_after=KILLED_AFTER, **what)
    if measured:
        rate = float(np.median([row["crops_per_second"] for row in measured]))
        print_row("finetune_crops_per_second", rate, "1/s", epochs=measured[-1]["epoch"] + 1, **what)
    results = [row for row in rows if row["step"] == "result"]
    for name in ("accuracy", "macro_sensitivity"):
        if results:
            print_row(f"real_gpu_{name}", results[0][name], "share", crops=results[0]["crops"], **what)
        else:
            print_row(f"real_gpu_{name}", None, "share", reason="not measured: the time was over", **what)
    print_row("real_gpu_seconds", time.monotonic() - start, "s", finished=bool(results), **what)


def _started(settings: Settings, data: Path, log: Path) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(settings, data, log))
    process.start()
    return process


def _train(settings: Settings, data: Path, log: Path) -> None:
    """Train on all folds but the first and judge that one; a line in ``log`` for each epoch, and for the result."""
    frame = read_manifest(data / "manifest.csv")
    fold = grouped_folds(frame, settings.split, FOLDS)[0]
    crops = CropSet.load(frame, data)
    train, validation, held_out = (crops.subset(rows) for rows in (fold.train, fold.validation, fold.held_out))

    def write(step: str, values: Mapping[str, float]) -> None:
        with log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")

    def epoch(metrics: Mapping[str, float], number: int) -> None:
        step = next(iter(metrics)).partition("/")[0]
        write(step, {"epoch": number} | {name.partition("/")[2]: value for name, value in metrics.items()})

    logits = run_recipe(train, validation, held_out, settings, log.parent / "state", epoch).logits
    found = rates(confusion(held_out.labels, logits.argmax(axis=1)))
    write("result", {name: float(found[name]) for name in ("accuracy", "macro_sensitivity")} | {"crops": len(held_out)})


def _epochs(log: Path, step: str) -> list[str]:
    return [line for line in log.read_text(encoding="utf-8").splitlines() if f'"step": "{step}"' in line]


def _named(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"


if __name__ == "__main__":
    main()
