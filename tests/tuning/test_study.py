"""Studies: baseline first, seeds, pruning, resuming, exact numbers of trials, errors, files."""

import sqlite3
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from optuna.visualization import matplotlib as pictures

from supcam.data.crops import CropSet
from supcam.errors import SettingError, SupcamError, UsageError
from supcam.settings import PretrainSettings, Settings, TuneSettings, with_best_params
from supcam.tuning import storage
from supcam.tuning.objective import Objective
from supcam.tuning.result import TuneResult
from supcam.tuning.storage import StorageLost
from supcam.tuning.study import study_key, tune
from tests.tuning.objectives import HELD, Bowl, Faulty, LocksStorage, Narrow, TakenOver, no_number, wrong_use

BOWL = Bowl()
NONE = CropSet(pd.DataFrame({"type": [], "source": [], "case_id": []}), [])


def settings(**values: Any) -> Settings:
    return Settings(tune=TuneSettings(**values), pretrain=PretrainSettings(temperature=0.1))


def study(folder: Path, objective: Objective = BOWL, name: str = "study", **values: Any) -> TuneResult:
    folder.mkdir(exist_ok=True)
    return tune(
        NONE,
        NONE,
        settings(**values),
        storage=f"sqlite:///{folder}/study.db",
        study_name=name,
        state_dir=folder / "state",
        objective=objective,
    )


def test_the_baseline_comes_first_and_the_best_is_found(tmp_path: Path) -> None:
    result = study(tmp_path, trials=20)
    first = result.trials.iloc[0]
    assert (first["margin"], first["temperature"]) == (0.0, 0.1)
    assert result.baseline == pytest.approx(0.9 - 0.16)
    assert result.value > 0.89 and abs(result.best.margin - 0.4) < 0.1
    assert result.trials["trial"].tolist() == list(range(20))
    assert result.trials["margin"].between(0.0, 0.6).all() and result.trials["temperature"].between(0.07, 0.3).all()


def test_same_seed_same_bytes_and_interrupted_equals_whole(tmp_path: Path) -> None:
    written = []
    for name, steps in (("whole", [7]), ("again", [7]), ("in parts", [1, 4, 7])):
        for trials in steps:
            result = study(tmp_path / name, trials=trials)
        result.write(tmp_path / name / "out")
        written.append({path.name: path.read_bytes() for path in (tmp_path / name / "out").iterdir()})
    expected = {"best_params.yaml", "trials.csv", "history.png", "importances.png", "slice.png", "contour.png"}
    assert set(written[0]) == expected
    assert written[0] == written[1] == written[2]
    assert set(yaml.safe_load(written[0]["best_params.yaml"])) == {"margin", "temperature"}


def test_figures_of_a_study_leave_the_style_of_later_ones(tmp_path: Path) -> None:
    """The main job draws its evaluation in the same process, and drew other bytes than dvc repro."""
    result = study(tmp_path, trials=3)
    before = dict(plt.rcParams)
    result.write(tmp_path / "out")
    assert {name: value for name, value in plt.rcParams.items() if before[name] != value and name != "backend"} == {}


def test_raising_the_number_adds_trials_and_keeps_the_old_ones(tmp_path: Path) -> None:
    first = study(tmp_path, trials=4)
    second = study(tmp_path, trials=7)
    pd.testing.assert_frame_equal(second.trials.head(4), first.trials)
    assert len(second.trials) == 7 and len(second.study.trials) == 7
    assert len(second.trials.drop_duplicates(["margin", "temperature"])) == 7
    third = study(tmp_path, trials=4)
    assert len(third.study.trials) == 7 and len(third.trials) == 4


def test_poor_trials_are_pruned_but_never_the_baseline(tmp_path: Path) -> None:
    result = study(tmp_path, trials=12, startup_trials=3)
    states = result.trials["state"].value_counts()
    assert states["pruned"] >= 2 and states["finished"] >= 3
    assert result.trials.loc[0, "state"] == "finished"
    pruned = result.trials[result.trials["state"] == "pruned"]
    assert (pruned["reports"] < 4).all() and pruned["value"].isna().all()
    unpruned = study(tmp_path, name="all", trials=12, startup_trials=3, prune=False)
    assert (unpruned.trials["state"] == "finished").all()


def test_a_failed_trial_counts_with_its_error_and_the_rest_goes_on(tmp_path: Path) -> None:
    result = study(tmp_path, Faulty(), trials=5)
    assert result.trials["state"].tolist() == ["finished", *["failed"] * 4]
    assert result.trials["error"].tolist()[1:] == ["RuntimeError: out of memory"] * 4
    assert result.best.margin == 0.0
    result.write(tmp_path / "out")
    assert (tmp_path / "out" / "contour.png").stat().st_size > 1000


def test_no_finished_trial_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(SupcamError, match=r"none of 3 trials .* finished: SupcamError: the value of the trial is nan"):
        study(tmp_path, no_number, trials=3)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_of_the_user_ends_the_study_and_uses_no_trial(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UsageError, match=r"pretrain.batch_size is larger than the data"):
        study(tmp_path, wrong_use, trials=3, workers=workers)
    assert len(study(tmp_path, trials=3).trials) == 3


def test_a_study_with_another_space_is_refused(tmp_path: Path) -> None:
    study(tmp_path, trials=2, study="mine")
    with pytest.raises(SettingError, match=r"setting tune.study = 'mine' .* a study with the space"):
        study(tmp_path, trials=2, study="mine", margin=(0.0, 0.5))
    assert len(study(tmp_path, trials=3, study="mine").trials) == 3


def test_trials_of_other_crops_or_settings_do_not_decide_under_a_name_of_the_users_own(tmp_path: Path) -> None:
    study(tmp_path, trials=2, study="mine", name="key of old crops")
    with pytest.raises(SettingError, match=r"'mine' .* \(key of new crops\).* of others \(key of old crops\)"):
        study(tmp_path, trials=2, study="mine", name="key of new crops")
    assert len(study(tmp_path, trials=3, study="mine", name="key of old crops").trials) == 3


def test_a_baseline_outside_of_the_space_is_run_but_not_sampled_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its missing coordinates took all others out of the picture of importances."""
    result = study(tmp_path, trials=12, margin=(0.2, 0.5), temperature=(0.2, 0.3))
    assert (result.trials.loc[0, "margin"], result.trials.loc[0, "temperature"]) == (0.0, 0.1)
    assert result.trials["margin"].iloc[1:].between(0.2, 0.5).all()
    assert result.study.trials[0].params == {}
    axes = pictures.plot_param_importances
    drawn: list[set[str]] = []

    def draw(*args: Any, **options: Any) -> Any:
        found = axes(*args, **options)
        drawn.append({label.get_text() for label in found.get_yticklabels()})
        return found

    monkeypatch.setattr(pictures, "plot_param_importances", draw)
    result.write(tmp_path / "out")
    assert drawn == [{"margin", "temperature"}]


def test_further_settings_of_pretraining_are_searched_and_reach_the_settings(tmp_path: Path) -> None:
    space = {"queue_size": (128, 1024), "momentum_end": (0.99, 0.995)}
    result = study(tmp_path, Narrow(), trials=12, space=space)
    rows = result.trials
    assert (rows.loc[0, "queue_size"], rows.loc[0, "momentum_end"]) == (512, 0.99)
    assert rows["queue_size"].between(128, 1024).all() and rows["queue_size"].nunique() > 5
    assert rows["momentum_end"].between(0.99, 0.995).all()
    best = rows.iloc[int(np.nanargmax(rows["value"]))]
    result.write(tmp_path)
    found = with_best_params(Settings(), tmp_path / "best_params.yaml").pretrain
    assert found.queue_size == best["queue_size"] and isinstance(found.queue_size, int)
    assert found.momentum_end == pytest.approx(best["momentum_end"], abs=1e-6)
    assert f"queue_size {found.queue_size}" in result.summary
    with pytest.raises(SettingError, match=r"setting tune.study = 'study' .* a study with the space"):
        study(tmp_path, Narrow(), trials=12, study="study")


def test_a_single_point_is_a_space(tmp_path: Path) -> None:
    result = study(tmp_path, trials=3, margin=(0.3, 0.3), temperature=(0.1, 0.1))
    assert result.trials["margin"].tolist() == [0.0, 0.3, 0.3]
    result.write(tmp_path / "out")


def test_a_study_of_another_program_is_refused(tmp_path: Path) -> None:
    other = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="mine")
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(SettingError, match=r"setting tune.study = 'mine' .* holds trials of another program"):
        study(tmp_path, trials=2, study="mine")


def test_a_locked_storage_is_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    study(tmp_path, trials=1)
    with sqlite3.connect(tmp_path / "study.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageLost, match=r"tune.storage sqlite:.*study.db cannot be used: .*locked.* run again"):
            study(tmp_path, trials=2)
    other.close()
    assert len(study(tmp_path, trials=2).trials) == 2


def test_a_storage_that_locks_during_a_trial_fails_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was counted as the trial's own failure, and so never repeated."""
    monkeypatch.setattr(storage, "PATIENCE", 0.1)
    with pytest.raises(StorageLost, match=r"database is locked"):
        study(tmp_path, LocksStorage(0.0, tmp_path / "study.db"), trials=3)
    HELD.pop().close()
    result = study(tmp_path, trials=3)
    assert (result.trials["state"] == "finished").all() and len(result.trials) == 3
    assert [trial.state.name for trial in result.study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert result.study.trials[1].params == result.study.trials[2].params


@pytest.mark.parametrize(
    ("storage", "text"),
    [
        ("postgresql+psycopg://user:secret@127.0.0.1:1/x", r"tune.storage postgresql\+psycopg://user:\*\*\*@.*refused"),
        ("postgresql+nodriver://user:secret@127.0.0.1:1/x", r"tune.storage postgresql\+nodriver://user:\*\*\*@"),
        ("oracle://x", r"tune.storage"),
        ("no address", r"tune.storage"),
        ("sqlite:///:memory:", r"tune.storage = 'sqlite:.*memory.*' is not allowed.* an address of sqlite \(a file\)"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named_without_its_password(storage: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(SupcamError, match=text) as error:
        tune(NONE, NONE, settings(), storage=storage, study_name="x", state_dir=tmp_path, objective=Bowl())
    assert "secret" not in str(error.value)


def test_a_trial_that_another_worker_took_over_is_decided_once(tmp_path: Path) -> None:
    """As after a machine that slept: this worker goes on with a trial that counts as lost."""
    result = study(tmp_path, TakenOver(0.0, f"sqlite:///{tmp_path}/study.db"), trials=3)
    assert (result.trials["state"] == "finished").all() and len(result.trials) == 3
    assert [trial.state.name for trial in result.study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert result.study.trials[1].params == result.study.trials[2].params


def test_the_key_follows_what_determines_a_trial_and_nothing_else() -> None:
    base = Settings()
    deps = {"outputs/split": "aa.dir", "supcam/losses": "bb.dir"}

    def changed(section: str, **values: Any) -> Settings:
        return base.model_copy(update={section: getattr(base, section).model_copy(update=values)})

    key = study_key(deps, base)
    same = [
        changed("tune", trials=99), changed("tune", workers=3), changed("tune", storage="sqlite:///x"),
        changed("evaluate", seed=1), changed("runtime", progress=False),
    ]  # fmt: skip
    assert {study_key(deps, item) for item in same} == {key}
    other = [
        changed("tune", margin=(0.0, 0.5)), changed("pretrain", batch_size=32), changed("finetune", epochs=3),
        changed("runtime", seed=1), changed("input", size=128), base.model_copy(update={"profile": "real"}),
    ]  # fmt: skip
    keys = {study_key(deps, item) for item in other} | {study_key({**deps, "outputs/split": "ab.dir"}, base)}
    assert len(keys) == 7 and key not in keys


def test_best_params_reach_the_settings(tmp_path: Path) -> None:
    result = study(tmp_path, trials=4)
    result.write(tmp_path)
    found = with_best_params(Settings(), tmp_path / "best_params.yaml").pretrain
    assert (found.margin, found.temperature) == pytest.approx((result.best.margin, result.best.temperature), abs=1e-6)
    with pytest.raises(UsageError, match=r"do not exist. Run: dvc repro tune"):
        with_best_params(Settings(), tmp_path / "none.yaml")
    (tmp_path / "best_params.yaml").write_text("margin: 9\ntemperature: 0.1\n")
    with pytest.raises(SettingError, match=r"best_params.yaml"):
        with_best_params(Settings(), tmp_path / "best_params.yaml")
    (tmp_path / "best_params.yaml").write_text("margin: 0.1\n")
    with pytest.raises(UsageError, match=r"must hold margin and temperature"):
        with_best_params(Settings(), tmp_path / "best_params.yaml")


def test_tpe_beats_the_average_of_its_own_startup(tmp_path: Path) -> None:
    result = study(tmp_path, trials=20, startup_trials=8, prune=False)
    values = result.trials["value"].to_numpy()
    assert np.mean(values[12:]) > np.mean(values[1:8])
