"""The machine that a run trains on: device, number format, compiler, and torch made reproducible."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from supcam.errors import SettingError
from supcam.processes import local_rank, processes
from supcam.settings import RuntimeSettings


def choose_device(runtime: RuntimeSettings) -> torch.device:
    """The device that ``runtime.device`` names; ``auto`` takes a GPU where there is one.

    That is the first GPU, or in one of several processes of torchrun the one of its own.

    Raises:
        SettingError: when a GPU is named and none is there, or one by its number in several processes, or when there
            are more processes than GPUs.
    """
    name = runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SettingError("runtime.device", runtime.device, "auto or cpu on this machine, which has no usable GPU")
    device = torch.device(name)
    if device.type == "cuda" and processes() > 1:
        if ":" in name:
            raise SettingError("runtime.device", runtime.device, "auto, cpu or cuda: each process has its own GPU")
        found = torch.cuda.device_count()
        if local_rank() >= found:
            raise SettingError("runtime.device", runtime.device, f"cpu, or at most {found} processes, one for each GPU")
        device = torch.device("cuda", local_rank())
    return device


def check_sharing(setting: str, batch_size: int) -> None:
    """Refuse a batch that the processes cannot share equally.

    Raises:
        SettingError: naming ``setting``.
    """
    if batch_size % processes():
        raise SettingError(setting, batch_size, f"a multiple of the number of processes, {processes()}")


def choose_precision(runtime: RuntimeSettings, device: torch.device) -> Literal["32-true", "bf16-mixed", "64-true"]:
    """The number format that ``runtime.precision`` names.

    ``auto`` takes bf16-mixed where the device has instructions for it: emulated on a processor with AVX2 only, it was
    12 times slower than 32-true, with them a third faster.
    """
    if runtime.precision != "auto":
        return runtime.precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # no public name yet
    return "bf16-mixed" if native else "32-true"


def check_compiler(runtime: RuntimeSettings, device: torch.device) -> None:
    """Compile and run a small function where ``runtime.compile`` asks for compiled encoders.

    Raises:
        SettingError: when that does not work; the cause is in the message.
    """
    if not runtime.compile:
        return
    try:
        torch.compile(lambda values: values.sin() + 1.0, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:  # whatever a compiler may raise, training could not start
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "Set it to false, or install a C++ compiler (CPU) or triton (GPU)."
        raise SettingError("runtime.compile", True, f"false on this machine: {cause}", remedy) from None


@contextmanager
def reproducible(runtime: RuntimeSettings, seed: int) -> Iterator[None]:
    """Fix threads, seeds and kernels for the time of a run, and put the former ones back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    kernels: Any = torch.utils.deterministic
    filling = kernels.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    state = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
        torch.set_num_threads(runtime.threads)
        torch.use_deterministic_algorithms(True)
        # A net for code that reads memory before writing it; it fills every fresh tensor, a fifth of a step's time.
        kernels.fill_uninitialized_memory = False
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
            kernels.fill_uninitialized_memory = filling
            torch.random.set_rng_state(state)
            logger.setLevel(level)


def memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the GPU where the run uses one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
