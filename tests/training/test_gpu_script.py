"""The script for machines with a GPU runs to its end, rehearsed on the processor."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

from supcam.data.manifest import write_manifest
from supcam.synthetic.sample import synthesize
from tests.support.imports import ROOT


def test_the_script_for_gpus_is_rehearsed_without_one(tmp_path: Path) -> None:
    table = synthesize(tmp_path / "crops", cases=10, crops=120, seed=3)
    paths = [f"crops/{path}" for path in table["path"]]
    sizes = [Image.open(tmp_path / path).size for path in paths]
    frame = table.assign(
        crop_id=table["path"],
        path=paths,
        case_id=table["case"],
        source="synthetic",
        sha256=[hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() for path in paths],
        width=[width for width, _ in sizes],
        height=[height for _, height in sizes],
        label_certain=True,
    )
    write_manifest(frame, tmp_path / "manifest.csv")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--data", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    for step in ("pretrain", "finetune"):
        assert all(rows[f"{step}_step_difference_{precision}"]["value"] == 0 for precision in ("64-true", "32-true"))
    assert rows["resumed_from_epoch"]["value"] in (1, 2)  # killed after two epochs, before or after the second is kept
    assert rows["finetune_crops_per_second"]["epochs"] == 3
    assert rows["real_gpu_seconds"]["finished"] is True
    assert rows["real_gpu_accuracy"]["crops"] > 0
    assert torch.cuda.is_available() or rows["step_over_bare_gpu"]["reason"] == "not measured: no GPU"
