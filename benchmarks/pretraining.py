"""Pre-training: the whole step beside its bare encoders, beside lightly, and the loss beside pytorch-metric-learning.

``python -m benchmarks.pretraining [--quick]`` prints one JSON object a line.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supcam.losses.self_margin import SelfMarginLoss
from supcam.models.encoders import build_encoder, channels_last
from supcam.models.queue import KeyQueue
from supcam.settings import Settings, parse_settings
from supcam.training.crop_bank import CropBank
from supcam.training.pretraining import PretrainTask
from supcam.training.session import fit, reproducible, run_identity
from supcam.views import TrainViews, to_input, view_seeds

CORES = os.cpu_count() or 1
CHRCLUSTER = 6592
WARM = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every row; a part that cannot be measured here is a row with a reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute: a small encoder and few steps")
    parser.add_argument("--loss", nargs=2, metavar=("SIDE", "QUEUE"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(CORES)
    if chosen.loss:
        print(json.dumps(_loss_side(chosen.loss[0], int(chosen.loss[1]))))
        return
    settings, steps = (
        (_settings("resnet10", 32, 16, 64), 6) if chosen.quick else (_settings("resnet18", 96, 64, 2048), 20)
    )
    bank = _bank(settings, settings.pretrain.batch_size * (steps + WARM))
    with tempfile.TemporaryDirectory() as scratch:
        ours = _whole_step(settings, bank, Path(scratch) / "ours")
        _bare_row(settings, bank, ours, steps)
        _lightly_row(settings, bank, ours, steps)
        _views_row(settings, bank, steps)
        for queue in (4096, 65536):
            _loss_row(queue)
        _chrcluster_rows(Path(scratch) / "chrcluster", chosen.quick)
    _gpu_rows()


def _settings(encoder: str, size: int, batch: int, queue: int, epochs: int = 1) -> Settings:
    return parse_settings(
        {
            "runtime": {"threads": CORES, "progress": False, "device": "cpu"},
            "input": {"size": size},
            "model": {"encoder": encoder},
            "pretrain": {"epochs": epochs, "batch_size": batch, "queue_size": queue, "watch_crops": 0},
        }
    )


def _bank(settings: Settings, count: int) -> CropBank:
    """Drawn bars on white; what they show does not matter for time."""
    size, rng = settings.input.size, np.random.default_rng(0)
    images = np.full((count, 1, size, size), 255, dtype=np.uint8)
    for image in images:
        column, grey = int(rng.integers(size // 8, size // 2)), int(rng.integers(40, 160))
        image[0, size // 8 : -size // 8, column : column + size // 4] = grey
    zeros = np.zeros(count, dtype=np.int64)
    labels = torch.from_numpy(np.arange(count) % 4)
    return CropBank(torch.from_numpy(images), labels, np.ones(count), zeros, zeros.astype(bool))


class _Timed(PretrainTask):
    """The task as it is, with the time at which every step began."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.began: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.began.append(perf_counter())
        return super().training_step(batch, batch_idx)


def _whole_step(settings: Settings, bank: CropBank, folder: Path) -> float:
    """Median seconds from one step to the next: data, views, encoders, loss, queue, optimiser, Lightning."""
    with reproducible(settings.runtime, 0):
        task = _Timed(settings, bank, bank, run_identity(settings, "pretrain", "drawn"))
        fit(task, settings, "benchmark", settings.pretrain.epochs, 1, folder)
    return float(median(np.diff(task.began)[WARM:].tolist()))


def _bare_row(settings: Settings, bank: CropBank, ours: float, steps: int) -> None:
    task = PretrainTask(settings, bank, bank, run_identity(settings, "pretrain", "drawn"))
    keys, network = task.momentum.eval(), task.network.train()
    ready = to_input(bank.images[: settings.pretrain.batch_size]).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        key = keys(ready)
        (network(ready) * key).sum(dim=1).mean().backward()
        optimizer.step()

    bare = _seconds(step, steps)
    again = ours_again(settings, bank)
    whole = median([ours, again])
    _row("step_over_bare", whole / bare, "ratio", whole_seconds=whole, bare_seconds=bare, limit=1.15, **_what(settings))


def ours_again(settings: Settings, bank: CropBank) -> float:
    """A second measurement of the whole step, after the bare one, against drift of the machine."""
    with tempfile.TemporaryDirectory() as folder:
        return _whole_step(settings, bank, Path(folder))


def _loader(bank: CropBank, settings: Settings) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
    """Two views a crop by torchvision's transforms in as many worker processes as there are cores."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    change = transforms.Compose(
        [
            transforms.RandomAffine(180, translate=(0.05, 0.05), scale=(0.85, 1.15), fill=255),
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.ColorJitter(brightness=0.2, contrast=0.2),
            transforms.GaussianBlur(3),
            transforms.RandomInvert(1.0),
            transforms.ToTensor(),
        ]
    )

    class Crops(Dataset[Any]):
        def __init__(self) -> None:
            self.images = [Image.fromarray(image) for image in bank.images[:, 0].numpy()]

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> Any:
            return (change(self.images[index]), change(self.images[index])), int(bank.labels[index])

    loader = DataLoader(
        Crops(), batch_size=settings.pretrain.batch_size, shuffle=True, num_workers=CORES, persistent_workers=True,
        drop_last=True,
    )  # fmt: skip
    while True:
        yield from loader


def _lightly_row(settings: Settings, bank: CropBank, ours: float, steps: int) -> None:
    try:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import batch_shuffle, batch_unshuffle, deactivate_requires_grad, update_momentum
    except ImportError as error:
        _row("lightly_step_ratio", None, "ratio", reason=f"not measured: {error}; pip install '.[benchmark]'")
        return
    encoder = channels_last(build_encoder(settings.model))
    network = nn.Sequential(encoder, MoCoProjectionHead(encoder.num_features, encoder.num_features, 128))
    keys = copy.deepcopy(network)
    deactivate_requires_grad(keys)
    loss = NTXentLoss(temperature=0.1, memory_bank_size=(settings.pretrain.queue_size, 128))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    batches = _loader(bank, settings)

    def step() -> None:
        (first, second), _ = next(batches)
        update_momentum(network, keys, 0.99)
        optimizer.zero_grad()
        query = network(first.contiguous(memory_format=torch.channels_last))
        with torch.no_grad():
            shuffled, order = batch_shuffle(second.contiguous(memory_format=torch.channels_last))
            key = batch_unshuffle(keys(shuffled), order)
        loss(query, key).backward()
        optimizer.step()

    theirs = _seconds(step, steps)
    _row("lightly_step_ratio", theirs / ours, "ratio", ours_seconds=ours, lightly_seconds=theirs, limit=1.0,
         workers=CORES, **_what(settings))  # fmt: skip


def _views_row(settings: Settings, bank: CropBank, steps: int) -> None:
    views, count = TrainViews(settings.input.size), settings.pretrain.batch_size
    batches, number = _loader(bank, settings), iter(range(10**9))

    def ours() -> None:
        indices = torch.randint(len(bank), (count,))
        crops, step = bank.take(indices), next(number)
        seeds = [view_seeds(indices, indices, seed=0, epoch=step, view=view) for view in (0, 1)]
        views(crops.repeat(2, 1, 1, 1), torch.cat(seeds))

    mine, theirs = _seconds(ours, 3 * steps), _seconds(lambda: next(batches), 3 * steps, mean=True)
    _row("views_ratio", theirs / mine, "ratio", ours_seconds=mine, torchvision_seconds=theirs, limit=3.0, workers=CORES,
         **_what(settings))  # fmt: skip


def _loss_row(queue: int) -> None:
    sides = {side: _in_process("--loss", side, str(queue)) for side in ("ours", "metric-learning")}
    ours, theirs = sides["ours"], sides["metric-learning"]
    name, shape = f"loss_time_ratio_{queue}", {"batch": 64, "dimension": 128, "queue": queue}
    if "reason" in theirs:
        _row(name, None, "ratio", **theirs, **shape)
        return
    figures = {
        f"{side}_{key}": value for side, found in (("ours", ours), ("theirs", theirs)) for key, value in found.items()
    }
    ratio = theirs["seconds"] / ours["seconds"]
    _row(
        name, ratio, "ratio", memory_ratio=theirs["peak_mb"] / max(ours["peak_mb"], 0.1), limit=1.0, **figures, **shape
    )


def _loss_side(side: str, queue: int) -> dict[str, Any]:
    """Seconds of forward, backward and enqueueing, and the memory that they add, in a process of its own."""
    generator = torch.Generator().manual_seed(0)
    query = nn.functional.normalize(torch.randn(64, 128, generator=generator), dim=1).requires_grad_()
    key, labels = query.detach().roll(1, 1), torch.arange(64) % 4
    if side == "ours":
        store, loss = KeyQueue(queue, 128), SelfMarginLoss(0.1, 0.4)

        def step() -> None:
            loss(query, key, labels, store.keys, store.labels, store.valid).backward()
            store.enqueue(key, labels)
    else:
        try:
            from pytorch_metric_learning.losses import CrossBatchMemory, SupConLoss
        except ImportError as error:
            return {"reason": f"not measured: {error}; pip install '.[benchmark]'"}
        memory = CrossBatchMemory(SupConLoss(temperature=0.1), 128, memory_size=queue)
        both, twice = torch.cat([query, key]), torch.cat([labels, labels])

        def step() -> None:
            memory(both, twice, enqueue_mask=torch.arange(128) >= 64).backward(retain_graph=True)

    fill = nn.functional.normalize(torch.randn(queue, 128, generator=generator), dim=1)
    if side == "ours":
        store.enqueue(fill, torch.arange(queue) % 4)
    else:
        memory.embedding_memory.copy_(fill)
        memory.label_memory.copy_(torch.arange(queue) % 4)
        memory.has_been_filled = True
    before = _peak_mb()
    seconds = _seconds(step, 10)
    return {"seconds": seconds, "peak_mb": _peak_mb() - before}


def _chrcluster_rows(folder: Path, quick: bool) -> None:
    """The profile's step on the CPU, at a batch that fits one, scaled to an epoch of 6,592 crops."""
    batch, steps = (2, 3) if quick else (8, 20)
    settings = _settings("resnet50", 64 if quick else 224, batch, 4096)
    bank = _bank(settings, batch * (steps + WARM))
    step = _whole_step(settings, bank, folder)
    detail = {"step_seconds": step, "timed_steps": steps, "batch": batch, "peak_mb": _peak_mb()}
    scaled = "from the timed steps; the profile's own batch is 256"
    _row("chrcluster_epoch_seconds", step * CHRCLUSTER / batch, "s", **detail, scaled=scaled, **_what(settings))


def _gpu_rows() -> None:
    names = ("step_over_bare_gpu", "lightly_step_ratio_gpu", "views_ratio_gpu", "chrcluster_epoch_seconds_gpu",
             "chrcluster_matrix_rate_share_gpu")  # fmt: skip
    here = torch.cuda.is_available()
    for name in names:
        _row(name, None, "", reason="not measured: this benchmark times the CPU" if here else "not measured: no GPU")


def _seconds(step: Callable[[], object], steps: int, *, mean: bool = False) -> float:
    for _ in range(WARM):
        step()
    times = []
    for _ in range(steps):
        start = perf_counter()
        step()
        times.append(perf_counter() - start)
    # A prefetching loader hands out what it made before: only its mean rate is what it costs.
    return sum(times) / len(times) if mean else median(times)


def _in_process(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pretraining", *arguments], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _peak_mb() -> float:
    # Not getrusage: its peak starts from the memory of the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def _what(settings: Settings) -> dict[str, Any]:
    return {
        "encoder": settings.model.encoder,
        "size": settings.input.size,
        "batch_size": settings.pretrain.batch_size,
        "threads": CORES,
        "torch": torch.__version__,
        "device": "cpu",
    }


def _row(name: str, value: float | None, unit: str, **detail: Any) -> None:
    print(json.dumps({"name": name, "value": value, "unit": unit, **detail}), flush=True)


if __name__ == "__main__":
    main()
