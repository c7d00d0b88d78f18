"""Serving: MLflow's scoring server under wrk on the loopback: requests per second, latency, errors, memory.

``python -m benchmarks.serving [--quick]`` prints one JSON object a line. wrk comes with ``apt-get install wrk``. Two
models are served: the one of the sample (8 averaged views), which shows what a crop costs, and the same with one view,
for the long run that shows whether memory stays flat.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.inference import ENCODER, SIZE, drawn, make_model, make_package, row
from tests.support.scoring import ROUND_SECONDS, Load, load_server, serve_command, server

SOAK_REQUESTS = 100_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute: short runs")
    parser.add_argument("--requests", type=int, default=SOAK_REQUESTS, help="of the long run")
    parser.add_argument("--seconds", type=float, default=480.0, help="limit of the long run")
    parser.add_argument("--workers", type=int, default=1, help="server processes")
    given = parser.parse_args(arguments)
    for name, views, requests, seconds, length in (
        ("serving", 8, SOAK_REQUESTS, 5 if given.quick else 60, 5 if given.quick else ROUND_SECONDS),
        ("soak", 1, given.requests, 10 if given.quick else given.seconds, 2 if given.quick else ROUND_SECONDS),
    ):
        details: dict[str, object] = {"encoder": ENCODER, "size": SIZE, "views": views, "workers": given.workers}
        if shutil.which("wrk") is None:
            for metric, unit in (("requests_per_second", "1/s"), ("p50_ms", "ms"), ("p99_ms", "ms")):
                row(f"{name}_{metric}", None, unit, reason="wrk is not installed: apt-get install wrk", **details)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            load = _measure(Path(scratch), views, given.workers, requests, seconds, length)
        _print_rows(
            name, load, details | {"requests": load.requests, "seconds": round(load.seconds, 1), "connections": 4}
        )


def _measure(scratch: Path, views: int, workers: int, requests: int, seconds: float, round_seconds: int) -> Load:
    from supcam.registry.registration import save_served

    crops = drawn(64)
    package = make_package(make_model(views), crops, scratch / "package")
    model = save_served(package, scratch / "model")
    # One thread a request: several requests at once fill the cores without waiting for each other.
    with server(serve_command(str(model), workers), "/ping", scratch / "log", OMP_NUM_THREADS="1") as (address, pid):
        return load_server(
            address, pid, crops, scratch, requests=requests, seconds=seconds, round_seconds=round_seconds
        )


def _print_rows(name: str, load: Load, details: dict[str, object]) -> None:
    cost = 1000 * load.cpu_seconds / load.requests
    row(
        f"{name}_requests_per_second", load.requests / load.seconds, "1/s", cpu_ms_per_request=round(cost, 3), **details
    )
    row(f"{name}_p50_ms", median(load.p50_ms), "ms", of="rounds, median", **details)
    row(f"{name}_p99_ms", median(load.p99_ms), "ms", of="rounds, median", worst=round(max(load.p99_ms), 1), **details)
    row(f"{name}_errors", load.errors, "requests", limit=0, **details)
    shown = [round(value, 1) for value in load.memory_mb[:: max(1, len(load.memory_mb) // 20)]]
    row(f"{name}_memory_growth", load.memory_growth, "share", memory_mb=shown, **details)


if __name__ == "__main__":
    main()
