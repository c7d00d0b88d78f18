"""Import and validation: seconds for a ChrCluster-sized set, and peak memory for 100,000 crops.

``python -m benchmarks.data [--quick]`` prints one JSON object a line.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from supcam.cluster_type import TYPE_LABELS

CHRCLUSTER = 6592
LARGE = 100_000


def main() -> int:
    """Run both measurements, each in a process of its own so that the peak is its own."""
    if len(sys.argv) == 3 and sys.argv[1] == "--measure":
        return _measure(int(sys.argv[2]))
    quick = "--quick" in sys.argv[1:]
    count = 600 if quick else CHRCLUSTER
    small = _in_process(count)
    detail = {"crops": count, "cores": os.cpu_count(), "limit": 60.0, "quick": quick}
    _row("import_validate_6592_seconds", None if quick else small["seconds"], "s", **(detail | small))
    large = _in_process(1200 if quick else LARGE)
    ratio = (large["seconds"] / large["crops"]) / (small["seconds"] / small["crops"])
    _row(
        "peak_mb_100000",
        None if quick else large["peak_mb"],
        "MB",
        **large,
        time_per_crop_over_small_set=round(ratio, 2),
    )
    return 0


def _row(name: str, value: float | None, unit: str, **detail: object) -> None:
    reason = {} if value is not None else {"reason": "a quick run measures fewer crops"}
    print(json.dumps({"name": name, "value": value, "unit": unit, **reason, **detail}), flush=True)


def _in_process(count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data", "--measure", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _measure(count: int) -> int:
    """Import and validate ``count`` drawn crops in a fresh DVC project and print seconds and peak memory."""
    import resource

    from supcam.data.expectations import validate_crops
    from supcam.data.importers import import_sources
    from supcam.data.manifest import read_manifest
    from supcam.settings import ValidateSettings

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        _write(root / "source", count)
        subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=root, check=True)
        start = time.perf_counter()
        import_sources([root / "source"], root / "data")
        imported = time.perf_counter()
        report = validate_crops(read_manifest(root / "data" / "manifest.csv"), root / "data", ValidateSettings())
        end = time.perf_counter()
    # The import hands the recording to a DVC process of its own; the larger of both is the peak.
    own, child = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    result = {
        "crops": report.crops,
        "seconds": round(end - start, 2),
        "import_seconds": round(imported - start, 2),
        "validate_seconds": round(end - imported, 2),
        "peak_mb": round(max(own, child), 1),
        "peak_mb_own": round(own, 1),
        "peak_mb_dvc": round(child, 1),
    }
    print(json.dumps(result))
    return 0


def _write(root: Path, count: int) -> None:
    """Crops of the sizes of real ones: drawn bodies, each with noise of its own so that no two are the same file."""
    rng = np.random.default_rng(0)
    for kind in TYPE_LABELS:
        (root / kind).mkdir(parents=True)
    for index in range(count):
        body = _body(rng)
        noise = rng.integers(0, 12, body.shape, dtype=np.uint8)
        crop = np.where(body < 250, np.minimum(body + noise, 249), body).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, "PNG", compress_level=1)
        (root / TYPE_LABELS[index % 4] / f"case{index % 40}_{index}.png").write_bytes(buffer.getvalue())


def _body(rng: np.random.Generator) -> NDArray[np.uint8]:
    height, width = rng.integers(24, 140, 2)
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = rng.uniform(0, np.pi)
    across = rows * np.cos(angle) + columns * np.sin(angle)
    along = columns * np.cos(angle) - rows * np.sin(angle)
    inside = (across / rng.uniform(0.4, 0.9)) ** 2 + (along / rng.uniform(0.4, 0.9)) ** 2 < 1
    bands = 130 + 70 * np.sin(along * rng.uniform(5, 20) + rng.uniform(0, 6))
    return np.where(inside, bands, 255).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
