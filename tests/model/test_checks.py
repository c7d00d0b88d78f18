"""Model tests pass for what holds and fail for what does not; a small real network goes through all of them."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from supcam import checks
from supcam.checks import CheckReport, CheckResult, Grey, Predict, run_checks
from supcam.cli.app import app
from supcam.cluster_type import ClusterType
from supcam.composition.composer import Composer
from supcam.data.crops import CropSet
from supcam.data.manifest import read_manifest, write_manifest
from supcam.errors import GateRefused, UsageError
from supcam.registry.client import Predictor
from supcam.resaving import KINDS
from supcam.settings import CheckSettings, ComposeSettings
from supcam.synthetic.sample import draw_crops
from tests.support.imports import ROOT

QUICK = CheckSettings(crops=24, angles=1, composites=4, padding=[0.25])


def rule(report: CheckReport, name: str) -> CheckResult:
    (found,) = [one for one in report.rules if one.name.startswith(name)]
    return found


def constant(kind: ClusterType) -> Predict:
    """A model that always says the same."""

    def predict(images: Sequence[Grey]) -> np.ndarray:
        return np.tile(np.eye(4)[kind], (len(images), 1))

    return predict


def asked(question: str) -> Predict:
    """A model with a fault: it says touching where the question about a crop is answered with yes, else single."""
    questions = {
        "wide": lambda image: image.shape[1] > image.shape[0],
        "dark": lambda image: image.min() < DARK,
        "large": lambda image: image.shape[0] * image.shape[1] > LARGE,
        "sharp": lambda image: np.abs(np.diff(image.astype(int), axis=0)).max() > SHARP,
    }

    def predict(images: Sequence[Grey]) -> np.ndarray:
        return np.eye(4)[[int(questions[question](image)) for image in images]]

    return predict


DARK, LARGE, SHARP = 90, 4000, 60


@pytest.fixture(scope="module")
def judged(predictor: Predictor, crops: CropSet) -> CheckReport:
    test = crops.subset((crops.frame["split"] == "test").to_numpy())
    return run_checks(predictor.probabilities, test, QUICK, ComposeSettings())


def test_a_symmetric_model_keeps_its_answer(crops: CropSet) -> None:
    """Symmetric by construction: the answer depends on the sum of the pixels, which no turn or flip changes."""
    middle = float(np.median([image.sum() for image in crops.images]))

    def by_ink(images: Sequence[Grey]) -> np.ndarray:
        return np.eye(4)[[int(image.sum() > middle) for image in images]]

    turns = rule(run_checks(by_ink, crops, QUICK, ComposeSettings()), "quarter turns")
    assert turns.passed and turns.value == 1.0
    assert turns.note == "24 crops; 0 of 168 fail"


def test_every_check_is_applied_and_states_its_threshold(judged: CheckReport) -> None:
    assert len(judged.rules) == 8
    for one in judged.rules:
        assert one.allowed.startswith("at least")
        assert one.value is not None and one.passed == (one.value >= float(one.allowed.split()[-1]))
    json.dumps(judged.as_dict(), allow_nan=False)


def test_metrics_are_given_by_source(judged: CheckReport, crops: CropSet) -> None:
    (source,) = judged.sources
    test = crops.subset((crops.frame["split"] == "test").to_numpy())
    metrics = judged.sources[source]
    assert metrics["crops"] == 24
    assert 0 <= metrics["low"] < metrics["accuracy"] < metrics["high"] < 1
    assert metrics["macro_sensitivity"] == 1 / len(set(test.labels))


@pytest.mark.parametrize(
    ("fault", "failing"),
    [("wide", "quarter turns"), ("dark", "brightness"), ("large", "single stays single"), ("sharp", "blur")],
)
def test_a_fault_is_found(crops: CropSet, fault: str, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each faulty model must fail the check that is about its fault."""
    sizes = [image.size for image in crops.images]
    monkeypatch.setattr("tests.model.test_checks.LARGE", float(np.quantile(sizes, 0.6)))
    monkeypatch.setattr("tests.model.test_checks.DARK", float(np.median([image.min() for image in crops.images])))
    steps = [np.abs(np.diff(image.astype(int), axis=0)).max() for image in crops.images]
    monkeypatch.setattr("tests.model.test_checks.SHARP", float(np.median(steps)) - 1)
    report = run_checks(asked(fault), crops, QUICK, ComposeSettings())
    assert rule(report, failing).passed is False
    assert not report.passed


def test_a_model_that_always_says_single_fails_the_algebra_alone(crops: CropSet) -> None:
    report = run_checks(constant(ClusterType.INSTANCE), crops, QUICK, ComposeSettings())
    failed = {one.name.split()[0] for one in report.rules if one.passed is False}
    assert failed == {"algebra"}
    assert "otherwise 4 instance" in rule(report, "algebra instance+instance:touch").note


def test_a_model_that_types_composites_correctly_passes_the_algebra(
    crops: CropSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known by their bytes: every composite gets its true type, every crop its label."""
    true = {image.tobytes(): int(label) for image, label in zip(crops.images, crops.labels, strict=True)}
    compose = Composer.compose_plan

    def remembered(self: Composer, *arguments: object) -> object:
        made = compose(self, *arguments)  # type: ignore[arg-type]
        if isinstance(made, checks.Composite):
            true[made.image.tobytes()] = int(made.type)
        return made

    monkeypatch.setattr(Composer, "compose_plan", remembered)
    report = run_checks(
        lambda images: np.eye(4)[[true.get(image.tobytes(), 0) for image in images]], crops, QUICK, ComposeSettings()
    )
    algebra = [one for one in report.rules if one.name.startswith("algebra")]
    assert [one.value for one in algebra if one.passed is not None] == [1.0] * 3
    assert rule(report, "algebra instance+touching:overlap").name.endswith("gives touching-overlapping")


def test_what_these_crops_cannot_show_is_stated(crops: CropSet) -> None:
    overlapping = crops.subset(crops.labels == ClusterType.OVERLAPPING)
    report = run_checks(constant(ClusterType.OVERLAPPING), overlapping, QUICK, ComposeSettings())
    single = rule(report, "single stays single")
    assert single.passed is None and single.note == "no crop is a single, and the model calls none so"
    algebra = rule(report, "algebra instance+instance:touch")
    assert algebra.passed is None and "no composite could be made" in algebra.note
    assert report.passed


@pytest.mark.parametrize("kind", [ClusterType.TOUCHING, ClusterType.OVERLAPPING, ClusterType.TOUCHING_OVERLAPPING])
def test_a_model_that_leaves_nothing_to_check_fails(crops: CropSet, kind: ClusterType) -> None:
    report = run_checks(constant(kind), crops, QUICK, ComposeSettings())
    single = rule(report, "single stays single")
    assert single.passed is False and single.note.startswith("the model calls none of ")
    algebra = rule(report, "algebra instance+instance:touch")
    assert algebra.passed is False and algebra.note == "the model types no crop of type instance correctly"
    assert not report.passed
    json.dumps(report.as_dict(), allow_nan=False)


def test_no_crop_is_refused(crops: CropSet) -> None:
    with pytest.raises(UsageError, match="no crop to check"):
        run_checks(constant(ClusterType.INSTANCE), crops.subset([]), QUICK, ComposeSettings())


def test_changes_keep_white_white_and_nothing_is_cut() -> None:
    image = draw_crops(1, 1, 0)[1][0].image  # in focus: of soft rims the rotation rounds more than it may cut
    ink = (255.0 - image).sum()
    assert checks.brightened(image, 1.0) is not image and np.array_equal(checks.brightened(image, 1.0), image)
    assert (checks.brightened(image, 1.1)[image == 255] == 255).all()
    assert len({one.tobytes() for one in checks.symmetries(image)}) == 7
    canvas = checks.on_diagonal_canvas(image)
    for degrees in (17.0, 45.0, 131.0):
        assert (255.0 - checks.rotated(canvas, degrees)).sum() == pytest.approx(ink, rel=0.01)
    assert checks.padded(image, 3).shape == (image.shape[0] + 6, image.shape[1] + 6)


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, the working directory, whose checks save few crops again."""
    for name in ("dvc.yaml", "MLproject"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "params.yaml").write_text("check: {min_algebra: 0.0, resaved: 2}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_refuses_a_model_that_fails_and_writes_why(labelled: Path, package: Path, in_project: Path) -> None:
    """The network says single to everything: it keeps every answer, and fails the algebra."""
    output = in_project / "check.json"
    (in_project / "params.yaml").write_text("check: {resaved: 2}\n")
    done = CliRunner().invoke(app, ["check", "--data", str(labelled), "--model", str(package), "--output", str(output)])
    verdict = json.loads(output.read_text())
    assert "quarter turns and flips" in done.stdout and "FAILED" in done.stdout
    failed = [one["name"] for one in verdict["rules"] if one["passed"] is False]
    assert verdict["passed"] is False and len(failed) == 3
    assert isinstance(done.exception, GateRefused)
    assert all(name in str(done.exception) and name.startswith("algebra") for name in failed)
    assert "The thresholds are settings" in str(done.exception)


def test_the_command_passes_a_model_that_keeps_every_threshold(
    package: Path, data: Path, crops: CropSet, in_project: Path
) -> None:
    """The same network on singles alone, in a project that asks nothing of the algebra."""
    (in_project / "lab" / "instance").mkdir(parents=True)
    for path in crops.frame.loc[crops.frame["type"] == "instance", "path"]:
        shutil.copy(data / path, in_project / "lab" / "instance" / path.replace("/", "-"))
    done = CliRunner().invoke(app, ["check", "--data", "lab", "--model", str(package), "--output", "check.json"])
    assert done.exit_code == 0, done.output
    verdict = json.loads((in_project / "check.json").read_text())
    assert verdict["passed"] is True
    assert [one["passed"] for one in verdict["rules"]].count(True) == 10
    assert len(verdict["resaving"]) == len(KINDS)


def test_without_data_the_command_takes_the_crops_that_the_model_was_judged_on(
    package: Path, data: Path, crops: CropSet, in_project: Path
) -> None:
    shutil.copytree(data, in_project / "data")
    output = in_project / "check.json"
    CliRunner().invoke(app, ["check", "--model", str(package), "--output", str(output)])
    assert json.loads(output.read_text())["crops"] == int((crops.frame["split"] == "test").sum())
    frame = read_manifest(in_project / "data" / "manifest.csv")
    split = dict(zip(crops.frame["crop_id"], crops.frame["split"], strict=True))
    write_manifest(frame[frame["crop_id"].map(split) == "train"], in_project / "data" / "manifest.csv")
    done = CliRunner().invoke(app, ["check", "--model", str(package)])
    assert isinstance(done.exception, UsageError)
    assert f"none of the {int((crops.frame['split'] == 'train').sum())} crops" in str(done.exception)


RESAVED = CheckSettings(crops=8, angles=1, composites=1, padding=[0.25], resaved=3)


def test_crops_saved_again_are_counted_by_kind(predictor: Predictor, crops: CropSet) -> None:
    """A model that says the same to all but what is no crop changes nothing silently."""
    answer = partial(predictor.predict, errors="row")
    report = run_checks(predictor.probabilities, crops, RESAVED, ComposeSettings(), answer)
    assert {row["kind"] for row in report.resaving} == set(KINDS)
    assert all(row["crops"] == 3 and row["silent"] == 0 for row in report.resaving)
    assert [one.passed for one in report.rules[-2:]] == [True, True]
    json.dumps(report.as_dict(), allow_nan=False)


def test_a_reading_that_changes_answers_silently_fails(predictor: Predictor, crops: CropSet) -> None:
    """A program that takes every file but a PNG for another type, as misread depths made models do."""

    def answer(files: Sequence[bytes]) -> pd.DataFrame:
        types = ["instance" if content.startswith(b"\x89PNG") else "touching" for content in files]
        return pd.DataFrame({"type": types, "needs_review": [content.startswith(b"BM") for content in files]})

    report = run_checks(predictor.probabilities, crops, RESAVED, ComposeSettings(), answer)
    rows = {row["kind"]: row for row in report.resaving}
    assert rows["u12"]["silent"] == rows["jpeg75"]["silent"] == rows["bmp"]["changed"] == 1.0
    assert rows["rgb8"]["silent"] == rows["bmp"]["silent"] == 0.0
    assert [one.passed for one in report.rules[-2:]] == [False, False]
    assert "3 crops; worst" in report.rules[-1].note


def test_singles_where_there_are_none_are_no_singles_kept(crops: CropSet) -> None:
    """A model that is wrong about every crop, and calls clusters single."""
    wrong = {
        image.tobytes(): int(ClusterType.TOUCHING if label == ClusterType.INSTANCE else ClusterType.INSTANCE)
        for image, label in zip(crops.images, crops.labels, strict=True)
    }
    report = run_checks(
        lambda images: np.eye(4)[[wrong.get(image.tobytes(), 0) for image in images]], crops, QUICK, ComposeSettings()
    )
    assert rule(report, "single stays single").passed is False


@pytest.mark.parametrize("option", ["--map", "--case-pattern"])
def test_options_of_other_sources_are_refused(option: str, package: Path, data: Path) -> None:
    for arguments, message in (([], "say how to read --data"), (["--data", str(data)], "is a data folder")):
        done = CliRunner().invoke(app, ["check", "--model", str(package), *arguments, option, "0=instance"])
        assert isinstance(done.exception, UsageError) and message in str(done.exception)
