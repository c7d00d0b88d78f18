"""Pre-training: the whole step beside its bare encoders, beside lightly, and the loss beside pytorch-metric-learning.

``python -m benchmarks.pretraining [--quick]`` prints one JSON object a line. The rows of a GPU end in ``_gpu``; where
there is none they hold a reason instead of a value.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from supcam.losses.self_margin import SelfMarginLoss
from supcam.models.encoders import build_encoder, channels_last
from supcam.models.queue import KeyQueue
from supcam.settings import Settings, parse_settings
from supcam.training.crop_bank import CropBank
from supcam.training.device import choose_device, choose_precision, memory_mb, reproducible
from supcam.training.pretraining import PretrainTask
from supcam.training.task import TaskInputs, fit, run_identity
from supcam.views import TrainViews, to_input, view_seeds

CORES = os.cpu_count() or 1
CHRCLUSTER = 6592
WARM = 2
_SMALL = ("resnet10", 32, 16, 64)
ROUNDS = 3
GPU_ROWS = ("step_over_bare_gpu", "lightly_step_ratio_gpu", "views_ratio_gpu", "chrcluster_epoch_seconds_gpu",
            "chrcluster_matrix_rate_share_gpu")  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What is timed on which device, steps in each of the rounds, and what the rows are called and allowed."""

    settings: Settings
    bank: CropBank
    steps: int
    suffix: str
    limits: dict[str, float]

    @property
    def device(self) -> torch.device:
        """Where the encoders train."""
        return choose_device(self.settings.runtime)

    def autocast(self) -> torch.autocast:
        """The number format of the encoders."""
        mixed = choose_precision(self.settings.runtime, self.device) == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)


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
    _step_rows(_setup(*(_SMALL if chosen.quick else ("resnet18", 96, 64, 2048)), steps=3 if chosen.quick else 8))
    for queue in (4096, 65536):
        _loss_row(queue)
    batch, steps = (2, 3) if chosen.quick else (8, 20)
    profile = _setup("resnet50", 64 if chosen.quick else 224, batch, 4096, steps=steps)
    _forget_peak()
    step, _ = _train(profile)
    detail = {"step_seconds": step, "timed_steps": steps, "peak_mb": _memory("VmHWM")}
    scaled = "from the timed steps; the profile's own batch is 256"
    print_row("chrcluster_epoch_seconds", step * CHRCLUSTER / batch, "s", **detail, scaled=scaled, **_what(profile))
    gpu_rows(quick=chosen.quick)


def gpu_rows(*, quick: bool) -> None:
    """The rows of a GPU; where there is none, each with that reason."""
    if not torch.cuda.is_available():
        for name in GPU_ROWS:
            print_row(name, None, "", reason="not measured: no GPU")
        return
    _step_rows(_setup(*(_SMALL if quick else ("resnet50", 224, 256, 4096)), steps=8, device="cuda"))
    _gpu_epoch_rows(_setup("resnet50", 224, 256, 4096, steps=CHRCLUSTER // 256 - WARM, device="cuda", epochs=2))


def _setup(
    encoder: str, size: int, batch: int, queue: int, *, steps: int, device: str = "cpu", epochs: int = 1
) -> Setup:
    on_gpu = device == "cuda"
    precision = "bf16-mixed" if on_gpu else "32-true"
    settings = parse_settings(
        {
            "runtime": {"threads": CORES, "progress": False, "device": device, "precision": precision},
            "input": {"size": size},
            "model": {"encoder": encoder},
            "pretrain": {"epochs": epochs, "batch_size": batch, "queue_size": queue, "watch_crops": 0},
        }
    )
    limits = {"bare": 1.10, "views": 10.0} if on_gpu else {"bare": 1.15, "views": 3.0}
    bank = drawn_bank(settings, batch * (steps + WARM))
    return Setup(settings, bank, steps, "_gpu" if on_gpu else "", limits)


def drawn_bank(settings: Settings, count: int) -> CropBank:
    """Drawn bars on white; what they show does not matter for time."""
    size, rng = settings.input.size, np.random.default_rng(0)
    images = np.full((count, 1, size, size), 255, dtype=np.uint8)
    for image in images:
        column, grey = int(rng.integers(size // 8, size // 2)), int(rng.integers(40, 160))
        image[0, size // 8 : -size // 8, column : column + size // 4] = grey
    zeros, device = np.zeros(count, dtype=np.int64), choose_device(settings.runtime)
    labels = torch.from_numpy(np.arange(count) % 4)
    real = zeros.astype(bool)
    return CropBank(torch.from_numpy(images).to(device), labels.to(device), np.ones(count), zeros, real, real)


class _Timed(PretrainTask):
    """The task as it is, with the time at which every step began."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.began: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        _wait(self.device)
        self.began.append(perf_counter())
        return super().training_step(batch, batch_idx)


def _train(setup: Setup) -> tuple[float, float]:
    """Median seconds from step to step (data, views, encoders, loss, queue, optimiser), and of the last epoch."""
    seen: list[dict[str, float]] = []
    settings = setup.settings
    with tempfile.TemporaryDirectory() as folder, reproducible(settings.runtime, 0):
        identity = run_identity(settings, "pretrain", "drawn")
        task = _Timed(TaskInputs(settings, setup.bank, setup.bank, identity, on_epoch=lambda _, row: seen.append(row)))
        fit(task, "benchmark", settings.pretrain.epochs, 1, Path(folder))
    return float(median(np.diff(task.began)[WARM:].tolist())), seen[-1]["seconds"]


def _step_rows(setup: Setup) -> None:
    """Whole steps of ours, the bare encoders and lightly in turns, so that a drift of the machine meets all of them."""
    lightly = _lightly_step(setup)
    contenders: dict[str, Callable[[], float]] = {
        "ours": lambda: _train(setup)[0],
        "bare": partial(_seconds, _bare_step(setup), setup),
    }
    if callable(lightly):
        contenders["lightly"] = partial(_seconds, lightly, setup)
    rounds = [{side: measure() for side, measure in contenders.items()} for _ in range(ROUNDS)]
    found = {side: median(round_[side] for round_ in rounds) for side in contenders}
    values = {f"{side}_seconds": seconds for side, seconds in found.items()} | _what(setup)
    value = found["ours"] / found["bare"]
    print_row(f"step_over_bare{setup.suffix}", value, "ratio", limit=setup.limits["bare"], **values)
    name = f"lightly_step_ratio{setup.suffix}"
    if callable(lightly):
        print_row(name, found["lightly"] / found["ours"], "ratio", limit=1.0, workers=CORES, **values)
    else:
        print_row(name, None, "ratio", reason=lightly)
    _views_row(setup)


def _bare_step(setup: Setup) -> Callable[[], None]:
    """Query forward, backward and optimiser step, and key forward, on a ready batch."""
    identity = run_identity(setup.settings, "pretrain", "drawn")
    task = PretrainTask(TaskInputs(setup.settings, setup.bank, setup.bank, identity))
    task.to(setup.device)
    keys, network = task.momentum.eval(), task.network.train()
    ready = to_input(setup.bank.images[: setup.settings.pretrain.batch_size])
    ready = ready.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        with setup.autocast():
            key = keys(ready)
            value = (network(ready) * key).sum(dim=1).mean()
        value.backward()
        optimizer.step()

    return step


def _loader(setup: Setup) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
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
    crops, labels = setup.bank.images[:, 0].cpu().numpy(), setup.bank.labels.tolist()

    class Crops(Dataset[Any]):
        def __init__(self) -> None:
            self.images = [Image.fromarray(image) for image in crops]

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> Any:
            return (change(self.images[index]), change(self.images[index])), labels[index]

    loader = DataLoader(
        Crops(), batch_size=setup.settings.pretrain.batch_size, shuffle=True, num_workers=CORES,
        persistent_workers=True, drop_last=True, pin_memory=setup.device.type == "cuda",
    )  # fmt: skip
    while True:
        yield from loader


def _lightly_step(setup: Setup) -> Callable[[], None] | str:
    """A whole step with lightly's MoCo blocks, or why there is none."""
    try:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import batch_shuffle, batch_unshuffle, deactivate_requires_grad, update_momentum
    except ImportError as error:
        return f"not measured: {error}; pip install '.[benchmark]'"
    encoder = channels_last(build_encoder(setup.settings.model))
    network = nn.Sequential(encoder, MoCoProjectionHead(encoder.num_features, encoder.num_features, 128))
    network.to(setup.device)
    keys = copy.deepcopy(network)
    deactivate_requires_grad(keys)
    loss = NTXentLoss(temperature=0.1, memory_bank_size=(setup.settings.pretrain.queue_size, 128)).to(setup.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    batches = _loader(setup)

    def step() -> None:
        first, second = (
            part.to(setup.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            for part in next(batches)[0]
        )
        update_momentum(network, keys, 0.99)
        optimizer.zero_grad()
        with setup.autocast():
            query = network(first)
            with torch.no_grad():
                shuffled, order = batch_shuffle(second)
                key = batch_unshuffle(keys(shuffled), order)
            value = loss(query, key)
        value.backward()
        optimizer.step()

    return step


def _views_row(setup: Setup) -> None:
    """Input alone: two views a crop, without an encoder."""
    views, count = TrainViews(setup.settings.input.size).to(setup.device), setup.settings.pretrain.batch_size
    batches, number = _loader(setup), iter(range(10**9))

    def ours() -> None:
        indices = torch.randint(len(setup.bank), (count,), device=setup.device)
        crops, step = setup.bank.take(indices), next(number)
        seeds = [view_seeds(indices, indices, seed=0, epoch=step, view=view) for view in (0, 1)]
        views(crops.repeat(2, 1, 1, 1), torch.cat(seeds))

    # A prefetching loader hands out what it made before: only the mean over many batches is what one costs.
    mine, theirs = _seconds(ours, setup, 60), _seconds(lambda: next(batches), setup, 60, mean=True)
    print_row(f"views_ratio{setup.suffix}", theirs / mine, "ratio", ours_seconds=mine, torchvision_seconds=theirs,
         limit=setup.limits["views"], workers=CORES, **_what(setup))  # fmt: skip


def _loss_row(queue: int) -> None:
    sides = {side: _in_process("--loss", side, str(queue)) for side in ("ours", "metric-learning")}
    ours, theirs = sides["ours"], sides["metric-learning"]
    name, shape = f"loss_time_ratio_{queue}", {"batch": 64, "dimension": 128, "queue": queue}
    if "reason" in theirs:
        print_row(name, None, "ratio", **theirs, **shape)
        return
    values = {
        f"{side}_{key}": value for side, found in (("ours", ours), ("theirs", theirs)) for key, value in found.items()
    }
    ratio = theirs["seconds"] / ours["seconds"]
    print_row(
        name, ratio, "ratio", memory_ratio=theirs["peak_mb"] / max(ours["peak_mb"], 0.1), limit=1.0, **values, **shape
    )


def _loss_side(side: str, queue: int) -> dict[str, Any]:
    """Seconds of forward, backward and enqueueing, and the memory that they add, in a process of its own."""
    build = {"ours": _our_loss, "metric-learning": _their_loss}[side]
    try:
        build(256)()  # what the libraries load and set up at first use is not the loss's own
    except ImportError as error:
        return {"reason": f"not measured: {error}; pip install '.[benchmark]'"}
    step = build(queue)
    before = _memory("VmRSS")
    _forget_peak()
    times = _times(step, 15)
    return {"seconds": median(times), "peak_mb": _memory("VmHWM") - before}


def _loss_batch(queue: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Queries and keys (64, 128) with labels, and what fills the queue."""
    generator = torch.Generator().manual_seed(0)
    query = nn.functional.normalize(torch.randn(64, 128, generator=generator), dim=1).requires_grad_()
    fill = nn.functional.normalize(torch.randn(queue, 128, generator=generator), dim=1)
    return query, query.detach().roll(1, 1), torch.arange(64) % 4, fill, torch.arange(queue) % 4


def _our_loss(queue: int) -> Callable[[], None]:
    query, key, labels, fill, fill_labels = _loss_batch(queue)
    store, loss = KeyQueue(queue, 128), SelfMarginLoss(0.1, 0.4)
    store.enqueue(fill, fill_labels)

    def step() -> None:
        loss(query, key, labels, store.keys, store.labels, store.valid).backward()
        store.enqueue(key, labels)

    return step


def _their_loss(queue: int) -> Callable[[], None]:
    from pytorch_metric_learning.losses import CrossBatchMemory, SupConLoss

    query, key, labels, fill, fill_labels = _loss_batch(queue)
    memory = CrossBatchMemory(SupConLoss(temperature=0.1), 128, memory_size=queue)
    memory.embedding_memory.copy_(fill)
    memory.label_memory.copy_(fill_labels)
    memory.has_been_filled = True
    both, twice = torch.cat([query, key]), torch.cat([labels, labels])

    def step() -> None:
        memory(both, twice, enqueue_mask=torch.arange(128) >= 64).backward(retain_graph=True)

    return step


def _gpu_epoch_rows(setup: Setup) -> None:
    """A full epoch of the profile, and which share of the GPU's rate for bf16 matrices its step reaches."""
    step, seconds = _train(setup)
    print_row("chrcluster_epoch_seconds_gpu", seconds, "s", step_seconds=step, peak_mb=memory_mb(setup.device),
         **_what(setup))  # fmt: skip
    with FlopCounterMode(display=False) as counter:
        _bare_step(setup)()
    share = counter.get_total_flops() / step / (rate := _matrix_rate(setup))
    print_row("chrcluster_matrix_rate_share_gpu", share, "ratio", step_flops=counter.get_total_flops(),
         matrix_flops_per_second=rate, **_what(setup))  # fmt: skip


def _matrix_rate(setup: Setup, side: int = 8192) -> float:
    """Operations a second of a large bf16 matrix product, measured."""
    left = torch.randn(side, side, device=setup.device, dtype=torch.bfloat16)
    return 2.0 * side**3 / _seconds(lambda: left @ left, setup, 20)


def _in_process(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pretraining", *arguments], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _seconds(step: Callable[[], object], setup: Setup, steps: int | None = None, *, mean: bool = False) -> float:
    """Median (or mean) seconds of a step, after some that warm up."""
    times = _times(step, steps or setup.steps, setup.device)
    return sum(times) / len(times) if mean else median(times)


def _times(step: Callable[[], object], steps: int, device: torch.device | None = None) -> list[float]:
    times = []
    for _ in range(WARM + steps):
        start = perf_counter()
        step()
        _wait(device)
        times.append(perf_counter() - start)
    return times[WARM:]


def _wait(device: torch.device | None) -> None:
    """Let a GPU finish what it was given."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(name: str) -> float:
    """Present (``VmRSS``) or greatest (``VmHWM``) memory of this process in MiB.

    Not getrusage: its peak starts from the memory of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def _forget_peak() -> None:
    """Let the greatest memory of this process start again from the present one (Linux, proc(5))."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _what(setup: Setup) -> dict[str, Any]:
    settings, on_gpu = setup.settings, setup.device.type == "cuda"
    return {
        "encoder": settings.model.encoder,
        "size": settings.input.size,
        "batch_size": settings.pretrain.batch_size,
        "precision": settings.runtime.precision,
        "threads": CORES,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }


def print_row(name: str, value: float | None, unit: str, **detail: Any) -> None:
    """Print a measured value, or why there is none."""
    print(json.dumps({"name": name, "value": value, "unit": unit, **detail}), flush=True)


if __name__ == "__main__":
    main()
