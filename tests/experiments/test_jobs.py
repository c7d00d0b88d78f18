"""Finished jobs are kept and not run again, a cut-off one resumes, a failed one leaves the others alone."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supcam.data.crops import CropSet
from supcam.errors import SupcamError, UsageError
from supcam.experiments import jobs as module
from supcam.experiments.jobs import Job, JobContext
from supcam.experiments.parts import Fold, grouped_folds
from supcam.experiments.pool import run_jobs
from supcam.experiments.recipe import RecipeResult, run_recipe
from supcam.experiments.rows import with_seed
from supcam.experiments.table import gather, subset_metrics
from supcam.settings import SplitSettings
from supcam.training.finetuning import finetune
from tests.experiments.conftest import quick
from tests.support.imports import ROOT

Trained = list[tuple[CropSet, CropSet, CropSet]]


@pytest.fixture
def folds(crops: CropSet) -> list[Fold]:
    return grouped_folds(crops.frame, SplitSettings(validation=0.25), 2)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Trainings that were asked for; each answers by the seed."""
    seen: Trained = []

    def recipe(train: CropSet, validation: CropSet, held_out: CropSet, settings: Any, *_: Any) -> RecipeResult:
        seen.append((train, validation, held_out))
        rng = np.random.default_rng(settings.runtime.seed)
        return RecipeResult(np.log(rng.dirichlet(np.ones(4), len(held_out))), {"best_epoch": 1.0}, {"finetune": 1.0})

    monkeypatch.setattr(module, "run_recipe", recipe)
    return seen


def table(folds: list[Fold], *seeds: int) -> list[Job]:
    return [Job("row", with_seed(quick(), seed), fold) for seed in seeds for fold in folds]


def test_finished_jobs_are_kept(crops: CropSet, folds: list[Fold], trained: Trained, tmp_path: Path) -> None:
    context = JobContext(crops, tmp_path)
    assert run_jobs(table(folds, 1), context).ran == 2
    counts = run_jobs(table(folds, 1, 2), context)
    assert (counts.kept, counts.ran, len(trained)) == (2, 2, 4)
    assert not list(tmp_path.glob("*/work"))


def test_equal_jobs_run_once(crops: CropSet, folds: list[Fold], trained: Trained, tmp_path: Path) -> None:
    run_jobs(table(folds, 1) + table(folds, 1), JobContext(crops, tmp_path))
    assert len(trained) == 2


def test_a_changed_label_is_another_job(crops: CropSet, folds: list[Fold], tmp_path: Path) -> None:
    (job, *_) = table(folds, 1)
    frame = crops.frame.copy()
    frame.loc[int(job.fold.train[0]), "label_certain"] = False
    assert JobContext(CropSet(frame, crops.images), tmp_path).key(job) != JobContext(crops, tmp_path).key(job)


@pytest.mark.parametrize(
    ("section", "key", "value", "same"),
    [
        ("finetune", "epochs", 2, False),
        ("compose", "count", 40, False),
        ("compose", "drawn", {"looks": 1}, False),
        ("runtime", "threads", 2, False),
        ("runtime", "progress", True, True),
        ("compose", "workers", 1, True),
        ("evaluate", "bootstrap", 60, True),
    ],
)
def test_the_key_holds_what_determines_a_job(
    crops: CropSet, folds: list[Fold], tmp_path: Path, section: str, key: str, value: object, same: bool
) -> None:
    context = JobContext(crops, tmp_path)
    first, other = (Job("row", settings, folds[0]) for settings in (quick(), quick(**{section: {key: value}})))
    assert (context.key(first) == context.key(other)) is same


def test_no_held_out_case_is_trained_on_and_answers_keep_their_crops(
    crops: CropSet, folds: list[Fold], trained: Trained, tmp_path: Path
) -> None:
    context = JobContext(crops, tmp_path)
    run_jobs(table(folds, 1, 2), context)
    for train, validation, held_out in trained:
        assert not {*train.frame["case_id"], *validation.frame["case_id"]} & set(held_out.frame["case_id"])
    answers = gather(table(folds, 1, 2), context)
    assert answers is not None and answers.logits.shape == (2, 96, 4)
    expected = np.random.default_rng(1).dirichlet(np.ones(4), len(folds[0].held_out))
    assert np.allclose(np.exp(answers.logits[0, : len(expected)]), expected, atol=1e-6)
    held = np.concatenate([fold.held_out for fold in folds])
    assert answers.frame["crop_id"].tolist() == crops.frame["crop_id"].iloc[held].tolist()
    assert {"all crops", "one", "two"} == set(subset_metrics(answers, quick().evaluate))


def test_a_failed_job_leaves_the_others_alone(
    crops: CropSet, folds: list[Fold], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trained: Trained
) -> None:
    recipe: Callable[..., RecipeResult] = module.run_recipe

    def diverging(*arguments: Any) -> RecipeResult:
        if arguments[3].runtime.seed == 1:
            raise SupcamError("loss is not a finite number")
        return recipe(*arguments)

    monkeypatch.setattr(module, "run_recipe", diverging)
    counts = run_jobs(table(folds, 1, 2), JobContext(crops, tmp_path))
    assert (counts.ran, list(counts.failed)) == (2, ["row, seed 1, fold 0", "row, seed 1, fold 1"])
    assert gather(table(folds, 1), JobContext(crops, tmp_path)) is None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_of_the_user_stops_at_once(crops: CropSet, folds: list[Fold], tmp_path: Path, workers: int) -> None:
    settings = quick(finetune={"batch_size": 90})
    jobs = [Job("row", settings, fold) for fold in folds]
    with pytest.raises(UsageError, match=r"finetune.batch_size = 90 is not allowed"):
        run_jobs(jobs, JobContext(crops, tmp_path), workers)


class Killing(JobContext):
    """A context whose worker processes end as the system ends them for want of memory."""

    def key(self, job: Job) -> str:
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().key(job)


def test_a_killed_worker_is_reported(crops: CropSet, folds: list[Fold], tmp_path: Path) -> None:
    with pytest.raises(SupcamError, match=r"one of 2 workers was ended from outside.*run it again"):
        run_jobs(table(folds, 1), Killing(crops, tmp_path), workers=2)


class Sleeping(JobContext):
    """A context whose worker processes say that they work and then take their time."""

    def key(self, job: Job) -> str:
        if multiprocessing.parent_process() is not None:
            print("working", flush=True)
            time.sleep(600)
        return super().key(job)


def run_sleeping(crops: CropSet, state: Path) -> None:
    """Two workers that do not end by themselves."""
    run_jobs(table(grouped_folds(crops.frame, SplitSettings(validation=0.25), 2), 1), Sleeping(crops, state), 2)


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """They used to wait for work for ever; whoever lives holds the pipe open."""
    script = (
        "import sys; from pathlib import Path; from tests.experiments.conftest import bars; "
        "from tests.experiments.test_jobs import run_sleeping; run_sleeping(bars(), Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"working\n"
        parent.kill()
        parent.communicate(timeout=60)


def test_a_cut_off_job_resumes_to_the_same_answers(crops: CropSet, folds: list[Fold], tmp_path: Path) -> None:
    settings = quick(compose={"count": 12, "workers": 1}, pretrain={"epochs": 1}, finetune={"epochs": 2})
    (job,) = [Job("row", settings, folds[0])]
    whole, cut = JobContext(crops, tmp_path / "whole"), JobContext(crops, tmp_path / "cut")
    run_jobs([job], whole)
    work = cut.state / cut.key(job) / "work"
    parts = [crops.subset(rows) for rows in (job.fold.train, job.fold.validation, job.fold.held_out)]

    class CutOff(Exception):
        pass

    def stop(row: Any, _: int) -> None:
        if "finetune/loss" in row:
            raise CutOff

    with pytest.raises(CutOff):
        run_recipe(*parts, settings, work, stop)
    run_jobs([job], cut)
    kept = [json.loads((context.state / context.key(job) / module.RESULT).read_text()) for context in (whole, cut)]
    assert [one["resumed"] for one in kept] == [False, True]
    results = [context.result(job) for context in (whole, cut)]
    assert results[0] is not None and results[1] is not None
    assert np.array_equal(results[0].logits, results[1].logits)
    assert set(results[0].seconds) == {"compose", "pretrain", "finetune", "predict", "all", "processor"}


class Prepared(Exception):
    """A training has all that it needs and would begin."""


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training ends before its first step."""

    def stop(*_: object) -> None:
        raise Prepared

    monkeypatch.setattr("supcam.training.task.fit", stop)


@pytest.mark.usefixtures("untrained")
def test_composites_are_made_of_training_crops_alone(crops: CropSet, folds: list[Fold], tmp_path: Path) -> None:
    from supcam.data.manifest import read_manifest

    job = Job("row", quick(compose={"count": 12, "workers": 1}), folds[0])
    parts = [crops.subset(rows) for rows in (job.fold.train, job.fold.validation, job.fold.held_out)]
    with pytest.raises(Prepared):
        run_recipe(*parts, job.settings, tmp_path)
    composed = read_manifest(tmp_path / "composed" / "manifest.csv")
    parents = {name for row in composed["parents"] for name in row.split(";")}
    assert parents and parents <= set(parts[0].frame["crop_id"])


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("on_the_fly", [False, True])
def test_a_recipe_draws_what_its_settings_say(
    crops: CropSet, folds: list[Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_the_fly: bool
) -> None:
    seen: list[CropSet] = []

    def recorded(train: CropSet, *given: Any, **named: Any) -> Any:
        seen.append(train)
        return finetune(train, *given, **named)

    monkeypatch.setattr("supcam.experiments.recipe.finetune", recorded)
    drawn = {"looks": 2, "singles": 3, "share": 1.0}
    compose = {"count": 12, "workers": 1, "drawn": drawn, "on_the_fly": on_the_fly}
    settings = quick(compose=compose, finetune={"drawn_first": 1.0})
    parts = [crops.subset(rows) for rows in (folds[0].train, folds[0].validation, folds[0].held_out)]
    with pytest.raises(Prepared):
        run_recipe(*parts, settings, tmp_path)
    relations = seen[0].frame["relation"].fillna("").value_counts()
    assert relations[""] == len(parts[0])
    assert relations["drawn"] == 6
    assert (len(seen[0]) - len(parts[0]) - 6 > 0) is not on_the_fly
