"""The downstream example runs as it is shown, and splits what touches."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import ellipse


def chromosomes(centres: list[tuple[int, int]]) -> NDArray[np.uint8]:
    crop = np.full((60, 80), 255, dtype=np.uint8)
    for row, column in centres:
        crop[ellipse(row, column, 14, 6, crop.shape)] = 240
        crop[ellipse(row, column, 12, 4.5, crop.shape)] = 90
    return crop


def load_example(project_root: Path) -> object:
    import importlib.util

    spec = importlib.util.spec_from_file_location("segment", project_root / "examples/segmentation/segment.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_touching_bodies_are_split_and_single_ones_kept(project_root: Path) -> None:
    example = load_example(project_root)
    assert example.split_touching(chromosomes([(30, 20), (30, 31)])).max() == 2  # type: ignore[attr-defined]
    assert example.split_touching(chromosomes([(30, 20), (30, 31), (30, 42)])).max() == 3  # type: ignore[attr-defined]
    assert example.split_touching(chromosomes([(30, 40)])).max() == 1  # type: ignore[attr-defined]
    assert example.keep_whole(chromosomes([(30, 20), (30, 31)])).max() == 1  # type: ignore[attr-defined]


def test_runs_on_a_folder_with_a_function_of_ones_own(project_root: Path, package: Path, tmp_path: Path) -> None:
    runs_on_a_folder(Path(sys.executable), project_root, package, tmp_path)


@pytest.mark.stress
def test_needs_the_light_client_and_scikit_image_alone(
    light_python: Path, project_root: Path, package: Path, tmp_path: Path
) -> None:
    subprocess.run([light_python, "-m", "pip", "install", "-q", "scikit-image"], check=True)
    assert subprocess.run([light_python, "-c", "import torch"], capture_output=True, check=False).returncode == 1
    runs_on_a_folder(light_python, project_root, package, tmp_path)


def runs_on_a_folder(python: Path, project_root: Path, package: Path, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    crops.mkdir()
    for index in range(6):
        Image.fromarray(chromosomes([(30, 20), (30, 25 + index)])).save(crops / f"crop {index}.png")
    (crops / "broken.png").write_bytes(b"nothing")
    (tmp_path / "mine.py").write_text("def split(crop):\n    return (crop < 200).astype('int32')\n")
    command = [str(python), str(project_root / "examples/segmentation/segment.py"), str(crops)]
    command += ["--into", str(tmp_path / "result"), "--model", str(package), "--overlap", "mine:split"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "result" / "segments.csv")
    assert len(table) == 7
    treated = table[table["treatment"] != "left to a person"]
    assert (treated["objects"] >= 1).all() and len(treated) == 6
    assert len(list((tmp_path / "result" / "labels").iterdir())) == 6
    assert len(list((tmp_path / "result" / "drawn").iterdir())) == 6
    wrong = subprocess.run([*command[:-1], "mine:nothing"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "names no function" in wrong.stderr
