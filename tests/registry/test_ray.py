"""The light client on an engine for many crops: the same answers from two real workers as from one process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from supcam.registry.client import load_production
from tests.registry.conftest import drawn_crops


@pytest.mark.stress
def test_ray_data_gives_the_same_answers(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    for index, crop in enumerate(drawn_crops(200, 3)):
        Image.fromarray(crop).save(tmp_path / f"{index:03d}.png")
    files = sorted(str(path) for path in tmp_path.iterdir())

    class Worker:
        def __init__(self) -> None:
            self.predictor = load_production(str(package), threads=1)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            answers = self.predictor.predict(list(batch["bytes"]), errors="row")
            return {"path": batch["path"], **{name: answers[name].to_numpy() for name in answers}}

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        found = ray.data.read_binary_files(files, include_paths=True)
        table = found.map_batches(Worker, batch_size=32, concurrency=2, num_cpus=0.5).to_pandas()
    finally:
        ray.shutdown()
    expected = load_production(str(package)).predict(files)
    answered = table.set_index("path").loc[files]
    assert list(answered["type"]) == list(expected["type"])
    assert np.allclose(answered["confidence"], expected["confidence"], atol=1e-6)
