"""Inference: our client beside bare ONNX Runtime, eager torch, mlflow.pytorch and Ray; what its start costs."""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from supcam.cluster_type import TYPE_LABELS
from supcam.registry.card import DataCard, InputCard, Metric, ModelCard
from supcam.registry.client import Predictor, load_production
from supcam.serving.engine import GRAPH_FILE, PROBABILITY_COLUMNS, Engine, open_session
from supcam.settings import ModelSettings

SIZE = 64
BATCH = 64
ENCODER = "resnet10"
VIEWS = 8

LIGHT_START = """
import sys, time
start = time.perf_counter()
import supcam
answer = supcam.load_production(sys.argv[1]).predict(sys.argv[2])
assert len(answer) == 1 and "torch" not in sys.modules
# Not getrusage: its peak starts from the memory of the process that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.perf_counter() - start, int(peak.split()[1]) / 1024)
"""
TORCH_START = """
import sys, time
start = time.perf_counter()
import torch
from safetensors.torch import load_file
from supcam.serving.images import decode_crop, letterbox
from supcam.models.classifier import ClusterClassifier, InferenceModel
from supcam.models.encoders import build_encoder
from supcam.settings import ModelSettings
model = InferenceModel(ClusterClassifier(build_encoder(ModelSettings(encoder=sys.argv[3]))), views=8).eval()
model.load_state_dict(load_file(sys.argv[1] + "/weights.safetensors"))
with torch.inference_mode():
    answer = model(torch.from_numpy(letterbox(decode_crop(sys.argv[2]), 64)[None, None].copy()))
assert answer.shape == (1, 4)
# Not getrusage: its peak starts from the memory of the process that started this one.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.perf_counter() - start, int(peak.split()[1]) / 1024)
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute: fewer crops and repeats")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory() as scratch:
        module = make_model()
        crops = drawn(256 if quick else 1024)
        package = make_package(module, crops, Path(scratch) / "package")
        flavor = _mlflow_pytorch(module, Path(scratch) / "flavor")
        _batches(module, flavor, package, crops, 2 if quick else 5)
        _singles(module, flavor, package, crops[: 100 if quick else 500])
        _starts(package, crops[0], Path(scratch), 1 if quick else 5)
        _workers(package, crops, Path(scratch), 1 if quick else 4)


def make_model(views: int = VIEWS) -> Any:
    """The classifier as it is packaged, untrained: weights do not change its time."""
    import torch

    from supcam.models.classifier import ClusterClassifier, InferenceModel
    from supcam.models.encoders import build_encoder

    torch.manual_seed(0)
    torch.set_num_threads(2)
    return InferenceModel(ClusterClassifier(build_encoder(ModelSettings(encoder=ENCODER))), views=views).eval()


def drawn(count: int) -> list[bytes]:
    """PNG files of bars on white, 60 to 110 pixels a side."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(count):
        height, width = generator.integers(60, 110, 2)
        crop = np.full((height, width), 255, dtype=np.uint8)
        crop[height // 4 : height // 2, 8:-8] = generator.integers(40, 180, (height // 2 - height // 4, width - 16))
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def make_package(module: Any, crops: list[bytes], out: Path) -> Path:
    """Package the model with a card that names it a benchmark."""
    from supcam.evaluation.novelty import MAX_BANK, fit_novelty
    from supcam.registry.package import package_model
    from supcam.serving.images import decode_crop, letterbox

    rows = pd.DataFrame({"sha256": [f"{index:064d}" for index in range(16)], "type": [TYPE_LABELS[0]] * 16})
    card = ModelCard(
        input=InputCard(size=SIZE),
        encoder=ENCODER,
        settings={"benchmark": True},
        data=DataCard(manifest_hash="benchmark", split_hash="benchmark"),
        code_hash="benchmark",
        metrics={},
        sensitivity={label: Metric(value=0, crops=0) for label in TYPE_LABELS},
    )
    read = [decode_crop(crop) for crop in crops]
    canvases = np.stack([letterbox(crop, SIZE)[np.newaxis] for crop in read[:16]])
    # With as many training crops as a package holds at most, so that the whole gate is timed.
    novelty = fit_novelty([read[index % len(read)] for index in range(MAX_BANK)], read, 0.01)
    split = rows.assign(split="test")
    return package_model(module, card, out, split=split, test=rows, canvases=canvases, novelty=novelty)


def _batches(module: Any, flavor: Any, package: Path, crops: list[bytes], repeats: int) -> None:
    predictor = load_production(str(package))
    tensors = _tensors(predictor, crops)
    sides = {
        "client": lambda: predictor.predict(crops),
        "onnx": _each(_bare_onnx(package), tensors, BATCH),
        "torch": _each(_eager_torch(module), tensors, BATCH),
        "mlflow_pytorch": _each(flavor.predict, tensors, BATCH),
    }
    agreed = predictor.predict(crops[:8])[list(PROBABILITY_COLUMNS)].to_numpy()
    seconds = _side_by_side(sides, repeats)
    details: dict[str, object] = {
        f"{name}_crops_per_second": round(len(crops) / value, 1) for name, value in seconds.items()
    }
    details |= {"crops": len(crops), "batch": BATCH, "encoder": ENCODER, "size": SIZE, "views": VIEWS}
    assert agreed.shape == (8, 4)
    row("batch_over_onnx", seconds["client"] / seconds["onnx"], "ratio", **details, limit=1.2)
    row("batch_over_torch", seconds["client"] / seconds["torch"], "ratio", **details)
    row("batch_over_mlflow_pytorch", seconds["client"] / seconds["mlflow_pytorch"], "ratio", **details)


def _singles(module: Any, flavor: Any, package: Path, crops: list[bytes]) -> None:
    # One session for both, and torch apart: threads of another that still spin would cost as much as the crop itself.
    engine = Engine(package)
    predictor = Predictor(engine, "benchmark")
    tensors = list(_tensors(predictor, crops)[:, np.newaxis])
    seconds = _in_turns({"client": (predictor.predict, crops), "onnx": (engine.probabilities, tensors)})
    seconds |= _in_turns({"torch": (_eager_torch(module), tensors), "mlflow_pytorch": (flavor.predict, tensors)})
    details = {f"{name}_ms": round(value * 1000, 3) for name, value in seconds.items()}
    row("single_over_onnx", seconds["client"] / seconds["onnx"], "ratio", **details, limit=1.5)
    row("single_over_torch", seconds["client"] / seconds["torch"], "ratio", **details)
    row("single_over_mlflow_pytorch", seconds["client"] / seconds["mlflow_pytorch"], "ratio", **details)


def _starts(package: Path, crop: bytes, scratch: Path, repeats: int) -> None:
    image = scratch / "crop.png"
    image.write_bytes(crop)
    found: dict[str, tuple[float, float]] = {}
    for name, code in (("client", LIGHT_START), ("torch", TORCH_START)):
        runs = [_start(code, package, image) for _ in range(repeats)]
        found[name] = (median(run[0] for run in runs), median(run[1] for run in runs))
    details = {"what": "import, load a pulled model, predict one file", "repeats": repeats}
    row("client_cold_start_seconds", found["client"][0], "s", torch_seconds=round(found["torch"][0], 3), **details)
    row("client_peak_mb", found["client"][1], "MB", torch_mb=round(found["torch"][1], 1), **details)


def _workers(package: Path, crops: list[bytes], scratch: Path, copies: int) -> None:
    """Files through two Ray workers, their start counted, and through one process that uses every core."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before its import: no call home
    import ray

    class Worker:
        def __init__(self) -> None:
            self.predictor = load_production(str(package), threads=1)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            answers = self.predictor.predict(list(batch["bytes"]))
            return {"path": batch["path"], "type": answers["type"].to_numpy()}

    def answer(files: list[str]) -> int:
        found = ray.data.read_binary_files(files, include_paths=True)
        return len(found.map_batches(Worker, batch_size=BATCH, concurrency=2, num_cpus=0.5).to_pandas())

    folder = scratch / "crops"
    folder.mkdir()
    files = [str(folder / f"{number:05d}.png") for number in range(copies * len(crops))]
    for number, file in enumerate(files):
        Path(file).write_bytes(crops[number % len(crops)])
    predictor = load_production(str(package))
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray has no type of its own for a node that is not up in 30 seconds
        row("ray_crops_per_second", None, "1/s", reason=f"Ray did not start: {error}")
        return
    try:
        start = _seconds(lambda: answer(files[:2]))
        spent = _seconds(lambda: answer(files))
    finally:
        ray.shutdown()
    alone = _seconds(lambda: predictor.predict(files))
    details = {"crops": len(files), "workers": 2, "cores": os.cpu_count(), "start_seconds": round(start, 2)}
    details |= {"single_process_crops_per_second": round(len(files) / alone, 1)}
    row("ray_crops_per_second", len(files) / spent, "1/s", what="with the start of the workers", **details)


def _start(code: str, package: Path, image: Path) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", code, str(package), str(image), ENCODER], capture_output=True, text=True, check=True
    )
    seconds, megabytes = done.stdout.split()
    return float(seconds), float(megabytes)


def _tensors(predictor: Predictor, crops: list[bytes]) -> NDArray[np.uint8]:
    return np.stack([predictor.canvas(crop) for crop in crops])


def _each(run: Callable[[Any], object], tensors: NDArray[np.uint8], size: int) -> Callable[[], object]:
    batches = [tensors[start : start + size] for start in range(0, len(tensors), size)]
    return lambda: [run(batch) for batch in batches]


def _bare_onnx(package: Path) -> Callable[[NDArray[np.uint8]], object]:
    session = open_session(package / GRAPH_FILE)
    return lambda batch: session.run(None, {"image": batch})


def _eager_torch(module: Any) -> Callable[[NDArray[np.uint8]], object]:
    import torch

    def run(batch: NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            return module(torch.from_numpy(batch))

    return run


def _mlflow_pytorch(module: Any, folder: Path) -> Any:
    """The same model as MLflow's own flavour stores it, behind the same pyfunc interface, on ready tensors."""
    import supcam.models.torchvision_cpu  # noqa: F401, I001  # before MLflow imports torchvision
    import mlflow

    # A traced graph would be another model than the eager one; pickled, the module runs as it is.
    mlflow.pytorch.save_model(module, str(folder), pip_requirements=["torch"], serialization_format="pickle")
    return mlflow.pyfunc.load_model(str(folder))


def _side_by_side(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each side, taken in turns so that a busy machine slows them all."""
    for run in sides.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            times[name].append(_seconds(run))
    return {name: median(values) for name, values in times.items()}


def _in_turns(sides: dict[str, tuple[Callable[[Any], object], Sequence[Any]]]) -> dict[str, float]:
    """Median seconds of each side for one of its inputs."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(min(len(inputs) for _, inputs in sides.values())):
        for name, (run, inputs) in sides.items():
            times[name].append(_seconds(partial(run, inputs[index])))
    return {name: median(values) for name, values in times.items()}


def _seconds(run: Callable[[], object]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def row(name: str, value: float | None, unit: str, **explained: object) -> None:
    """Print one metric."""
    rounded = None if value is None else round(value, 4)
    print(json.dumps({"name": name, "value": rounded, "unit": unit, **explained}), flush=True)


if __name__ == "__main__":
    main()
