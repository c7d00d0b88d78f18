"""The downstream example runs as it is shown, takes clusters apart, and its network has a gate of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import ellipse

from supcam.synthetic.sample import synthesize
from tests.support.imports import ROOT

sys.path.insert(0, str(ROOT / "examples" / "segmentation"))

import methods
import network
import onnx
import promote
import quality
import segment
import train

from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.registry.store import Registry


def chromosomes(centres: list[tuple[int, int]]) -> NDArray[np.uint8]:
    crop = np.full((60, 80), 255, dtype=np.uint8)
    for row, column in centres:
        crop[ellipse(row, column, 14, 6, crop.shape)] = 240
        crop[ellipse(row, column, 12, 4.5, crop.shape)] = 90
    return crop


def test_touching_bodies_are_split_and_single_ones_kept() -> None:
    assert len(methods.split_touching(chromosomes([(30, 20), (30, 31)]))) == 2
    assert len(methods.split_touching(chromosomes([(30, 20), (30, 31), (30, 42)]))) == 3
    assert len(methods.split_touching(chromosomes([(30, 40)]))) == 1
    assert len(methods.keep_whole(chromosomes([(30, 20), (30, 31)]))) == 1


def bar(
    middle: tuple[float, float], length: float, angle: float, shape: tuple[int, int] = (90, 90)
) -> NDArray[np.bool_]:
    rows, columns = np.indices(shape)
    y, x = rows - middle[0], columns - middle[1]
    along = x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle))
    across = y * np.cos(np.radians(angle)) - x * np.sin(np.radians(angle))
    return (np.abs(along) <= length / 2) & (np.abs(across) <= 5.5)


def said(masks: list[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """What a perfect network says of chromosomes: classes as probabilities."""
    several = np.sum(masks, axis=0) > 1
    classes = np.where(np.any(masks, axis=0), methods.INSIDE, methods.OUTSIDE)
    classes[several] = methods.OVERLAP
    return np.moveaxis(np.eye(4, dtype=np.float32)[classes], 2, 0)


@pytest.mark.parametrize("angles", [(0, 90), (20, 70), (10, 130)])
def test_arms_are_joined_across_an_overlap_that_both_get(angles: tuple[float, float]) -> None:
    truth = [bar((45, 45), 76, angles[0]), bar((45, 45), 60, angles[1])]
    found = methods.build(said(truth), np.any(truth, axis=0))
    counts = quality.compare(found, np.stack(truth))
    assert (counts.true, counts.false, counts.missed) == (2, 0, 0)
    assert counts.iou > 1.9
    assert (found.sum(axis=0) > 1).sum() >= 0.95 * (truth[0] & truth[1]).sum()


def test_a_chain_of_two_crossings_and_two_ends_on_each_other() -> None:
    chain = [bar((45, 45), 80, 0), bar((45, 25), 50, 90), bar((45, 65), 50, 80)]
    ends = [bar((45, 28), 48, 0), bar((45, 62), 40, 0) & ~bar((45, 28), 40, 0)]
    for truth in (chain, ends):
        counts = quality.compare(methods.build(said(truth), np.any(truth, axis=0)), np.stack(truth))
        assert (counts.true, counts.false, counts.missed) == (len(truth), 0, 0)


def test_an_empty_answer_of_the_network_keeps_the_cluster_whole() -> None:
    body = bar((45, 45), 60, 30)
    nothing = np.zeros((4, *body.shape), dtype=np.float32)
    nothing[methods.CONTACT] = 1
    assert np.array_equal(methods.build(nothing, body), body[np.newaxis])


def test_quality_counts_each_chromosome_once() -> None:
    truth = np.zeros((2, 1, 20), dtype=bool)
    truth[0, 0, :10], truth[1, 0, 10:] = True, True
    part = np.zeros((1, 1, 20), dtype=bool)
    part[0, 0, :6] = True
    one = quality.compare(part, truth)
    assert (one.true, one.false, one.missed, round(one.iou, 6)) == (1, 0, 1, 0.6)
    assert quality.panoptic([one]) == pytest.approx(0.6 / 1.5)
    assert quality.ap50([one]) == pytest.approx(1 / 2)
    whole = quality.compare(truth.any(axis=0)[np.newaxis], truth)
    assert (whole.true, whole.false, whole.missed) == (0, 1, 2)  # IoU is 0.5, not above it
    assert quality.compare(np.concatenate([truth, truth]), truth).false == 2
    table = quality.intervals([[[one], [one]], [[one], [whole]]], rounds=50)
    assert table[0]["pq"] == pytest.approx((0.4, 0.4, 0.4))
    assert table[1]["pq_less"][0] < 0 and table[0]["pq_less"] == (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with drawn crops and a split, as far as the example looks at it."""
    root = tmp_path_factory.mktemp("segmentation") / "project"
    synthesize(root / "drawn", cases=3, crops=33, seed=5, counts=[24, 3, 3, 3])
    import_sources([root / "drawn"], root / "data")
    frame = read_manifest(root / "data" / "manifest.csv")
    cases = sorted(set(frame["case_id"]))
    frame["label_certain"] = frame["label_certain"].map({True: "yes", False: "no"})
    frame["split"] = ["validation" if case == cases[0] else "train" for case in frame["case_id"]]
    (root / "outputs" / "split").mkdir(parents=True)
    frame.to_csv(root / "outputs" / "split" / "manifest.csv", index=False)
    return root


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    network.export(network.UNet().eval(), path)
    return path


@pytest.fixture(scope="module")
def trained(project: Path) -> Path:
    """The stage train with little work: a network that need not be good."""
    small = {"composites": 8, "held_out": 4, "steps": 4, "seed": 1, "threads": 1}
    out = project / "segmentation" / "outputs"
    train.run(project, out, small)
    return out


def test_the_network_is_trained_on_composites_and_judged_on_others(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {"model.onnx", "metrics.json", "held_out"}
    metrics = json.loads((trained / "metrics.json").read_text())
    assert {"pq", "ap50", "watershed_pq"} == metrics.keys()
    assert all(0 <= value <= 1 for value in metrics.values())
    masks = methods.Network(trained / "model.onnx")(chromosomes([(30, 20), (30, 31)]))
    assert masks.any(axis=0).sum() >= (chromosomes([(30, 20), (30, 31)]) < 200).sum()


def test_targets_mark_overlap_and_contact(project: Path) -> None:
    seen = set()
    crops, others = train.divided(project)
    assert not set(crops.groups) & set(others.groups)
    for one in network.composites(crops, 12, 3):
        targets = network.targets_of(one)
        assert targets.shape == one.image.shape
        assert np.array_equal(targets > 0, network.chromosomes(one).any(axis=0))
        seen |= {(one.type.label, value) for value in np.unique(targets).tolist()}
    assert ("touching", methods.CONTACT) in seen and ("overlapping", methods.OVERLAP) in seen
    assert ("touching", methods.OVERLAP) not in seen


def trained_again(network_file: Path, out: Path, quality_of_it: float) -> Path:
    """Another network, as far as its bytes go, with the metrics that the gate reads."""
    (out / "held_out").mkdir(parents=True)
    model = onnx.load(network_file)
    model.doc_string = out.name
    onnx.save(model, out / "model.onnx")
    (out / "metrics.json").write_text(json.dumps({"pq": quality_of_it, "ap50": 0.5, "watershed_pq": 0.2}))
    return out


def test_the_gate_promotes_refuses_and_repeats(
    network_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.chdir(tmp_path)
    project = tmp_path
    trained_again(network_file, tmp_path / "first", 0.4)
    first = promote.promote(tmp_path / "first", project, 0.01)
    again = promote.promote(tmp_path / "first", project, 0.01)
    assert (first.outcome, again.outcome, again.version) == ("promoted", "unchanged", first.version)
    low = promote.promote(trained_again(network_file, tmp_path / "low", 0.1), project, 0.01)
    assert low.outcome == "refused" and "allowed: above the watershed's 0.200" in low.reason
    monkeypatch.setattr(promote, "judge", lambda model, held_out: scores[model == tmp_path / "next" / "model.onnx"])
    counts = quality.Counts(8, 2, 2, 6.0)
    scores = {True: [quality.Counts(8, 2, 2, 5.8)], False: [counts]}
    worse = promote.promote(trained_again(network_file, tmp_path / "next", 0.6), project, 0.01)
    assert worse.outcome == "refused" and "production's 0.600 less 0.01" in worse.reason
    scores[True] = [counts]
    even = promote.promote(tmp_path / "next", project, 0.01)
    registry = Registry(os.environ["MLFLOW_TRACKING_URI"], promote.NAME)
    assert even.outcome == "promoted"
    assert registry.aliases() == {"candidate": 3, "production": 3, "previous": 1}
    assert [event["action"] for event in registry.events()] == ["promoted", "refused", "refused", "promoted"]
    monkeypatch.setattr(segment, "project_root", lambda: project)
    assert isinstance(segment.open_network("models:/supcam-segmentation@production"), methods.Network)


def test_its_pipeline_names_the_files_it_has(project_root: Path) -> None:
    folder = project_root / "examples" / "segmentation"
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    for stage in stages.values():
        assert all(
            (folder / dep).exists() for dep in stage["deps"] if not dep.startswith(("../../data", "../../out", "out"))
        )
        assert set(stage["params"]) <= settings.keys()
    assert {path.name for path in folder.glob("*.py")} >= {"methods.py", "network.py", "quality.py", "train.py"}


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
    assert len(list((tmp_path / "result" / "masks").iterdir())) == 6
    assert len(list((tmp_path / "result" / "drawn").iterdir())) == 6
    wrong = subprocess.run([*command[:-1], "mine:nothing"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "names no function" in wrong.stderr
