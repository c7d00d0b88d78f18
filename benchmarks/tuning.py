"""Tuning: what tracking costs a step, trials per hour, which objective ranks better, regret against random search.

``python -m benchmarks.tuning [--quick]`` prints one JSON object a line.
"""

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.tuning_grid import TABLE, grid_settings, known_rows, missing_points, sample_parts
from supcam.data.crops import CropSet
from supcam.settings import Settings
from supcam.tracking import quiet, stage_run
from supcam.tuning.slots import sampler
from supcam.tuning.study import tune

METRICS_PER_STEP = 4
TRIALS = 15
TIMED_TRIALS = 10
Surface = Callable[[float, float], float]


def main() -> int:
    """Run every measurement; a quick run leaves out the one that trains whole trials."""
    quick = "--quick" in sys.argv[1:]
    quiet()
    settings = grid_settings()
    with tempfile.TemporaryDirectory() as folder:
        train, validation = sample_parts(settings, Path(folder))
        some = train.subset(range(256)) if quick else train
        _overhead(settings, some, validation, Path(folder), 200 if quick else 1000)
        if quick:
            for workers in (1, 2):
                _row(f"trials_per_hour_{workers}_workers", None, "1/h", reason="a quick run trains no whole trials")
        else:
            _trials_per_hour(settings, train, validation, Path(folder))
    table = known_rows()
    missing = len(missing_points(table))
    reason = f"{missing} points of {TABLE.name} are missing; record them: python -m benchmarks.tuning_grid"
    if missing:
        for name, unit in (("rank_correlation", "tau"), ("regret_ratio", "ratio")):
            _row(name, None, unit, reason=reason)
    else:
        _ranking(table)
        _regret(settings, table, 20 if quick else 200)
    return 0


def _row(name: str, value: float | None, unit: str, **detail: object) -> None:
    print(json.dumps({"name": name, "value": value, "unit": unit, **detail}), flush=True)


def _overhead(settings: Settings, train: CropSet, validation: CropSet, folder: Path, steps: int) -> None:
    """Processor time that logging every step takes from training, over the processor time of a training step."""
    from supcam.training.pretraining import pretrain

    seconds: list[float] = []

    def timed(_epoch: int, _row: dict[str, float]) -> None:
        seconds.append(time.process_time())

    pretrain(train, validation, _epochs(settings, 3), state_dir=folder / "steps", on_epoch=timed)
    step = float(np.diff(seconds).min()) / (len(train) // settings.pretrain.batch_size)
    root = folder / "project"
    root.mkdir()
    with stage_run("tune", root, settings) as run:
        run.log({"warm": 0.0})
        run.flush()
        started = time.process_time()
        for number in range(steps):
            run.log({f"metric {at}": 0.5 for at in range(METRICS_PER_STEP)}, number)
            time.sleep(0.005)  # leaves the sending thread its turns, as a training step does
        run.flush()
        cost = (time.process_time() - started) / steps
    _row(
        "tracking_overhead",
        cost / step,
        "share",
        limit=0.01,
        milliseconds_per_tracked_step=1000 * cost,
        milliseconds_per_training_step=1000 * step,
        steps=steps,
        metrics_per_step=METRICS_PER_STEP,
        batch_size=settings.pretrain.batch_size,
    )


def _epochs(settings: Settings, count: int) -> Settings:
    # Watching the embedding is no part of a step.
    chosen = settings.pretrain.model_copy(update={"epochs": count, "watch_crops": 0})
    return settings.model_copy(update={"pretrain": chosen})


def _trials_per_hour(settings: Settings, train: CropSet, validation: CropSet, folder: Path) -> None:
    for workers in (1, 2):
        chosen = settings.tune.model_copy(
            # As many and as long trials as make the start of a worker small beside them; none pruned: all take the same
            update={"trials": TIMED_TRIALS, "workers": workers, "prune": False}
        )
        started = time.perf_counter()
        tune(
            train,
            validation,
            settings.model_copy(update={"tune": chosen}),
            storage=f"sqlite:///{folder}/{workers}.db",
            study_name=f"{workers} workers",
            state_dir=folder / f"{workers} workers",
        )
        taken = time.perf_counter() - started
        _row(
            f"trials_per_hour_{workers}_workers",
            3600 * chosen.trials / taken,
            "1/h",
            trials=chosen.trials,
            seconds=round(taken, 1),
            epochs=f"{chosen.pretrain_epochs} + {chosen.finetune_epochs}",
            threads_per_worker=settings.runtime.threads,
            cores=os.cpu_count(),
        )


def _ranking(table: pd.DataFrame) -> None:
    """How well each objective ranks the points as full runs do, with intervals by resampling points; and its cost."""
    from scipy.stats import kendalltau, spearmanr

    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(table), len(table)) for _ in range(2000)]
    for judged in ("full_test", "full_validation"):
        resampled: dict[str, NDArray[np.float64]] = {}
        for objective in ("finetune", "probe"):
            pairs = table[[objective, judged]].to_numpy()
            # A resample of equal values has no order.
            resampled[objective] = np.array([kendalltau(*pairs[rows].T).statistic for rows in drawn])
            low, high = np.nanquantile(resampled[objective], [0.025, 0.975])
            _row(
                f"rank_correlation_{objective}_{judged}",
                float(kendalltau(*pairs.T).statistic),
                "tau",
                low=float(low),
                high=float(high),
                spearman=float(spearmanr(*pairs.T).statistic),
                points=len(table),
                seconds_per_trial=float(table[f"seconds_{objective}"].mean()),
                seconds_of_full_run=float(table["seconds_full"].mean()),
            )
        gap = resampled["finetune"] - resampled["probe"]
        low, high = np.nanquantile(gap, [0.025, 0.975])
        _row(
            f"rank_correlation_gain_{judged}",
            float(np.nanmean(gap)),
            "tau",
            low=float(low),
            high=float(high),
            what="finetune less probe",
        )


def _regret(settings: Settings, table: pd.DataFrame, seeds: int) -> None:
    """Simple regret of the sampler over that of random search, as many trials each, on the recorded objective."""
    surface, best, points = _surface(table)
    ours = [_best_of(settings, surface, seed, random=False) for seed in range(seeds)]
    theirs = [_best_of(settings, surface, seed, random=True) for seed in range(seeds)]
    regrets = best - np.array([ours, theirs])
    mean = regrets.mean(axis=1)
    rng = np.random.default_rng(0)
    drawn = regrets[:, rng.integers(0, seeds, (2000, seeds))].mean(axis=2)
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    _row(
        "regret_ratio",
        float(mean[0] / mean[1]),
        "ratio",
        low=float(low),
        high=float(high),
        mean_regret_tpe=float(mean[0]),
        mean_regret_random=float(mean[1]),
        trials=TRIALS,
        seeds=seeds,
        grid_points=points,
    )


def _surface(table: pd.DataFrame) -> tuple[Surface, float, int]:
    """The recorded grid, mean over seeds, linear between its points in margin and log temperature; and its maximum."""
    from scipy.interpolate import RegularGridInterpolator

    grid = table.pivot_table(index="margin", columns="temperature", values="finetune", aggfunc="mean").dropna()
    axes = (grid.index.to_numpy(), np.log(grid.columns.to_numpy(dtype=np.float64)))
    at = RegularGridInterpolator(axes, grid.to_numpy(), bounds_error=False, fill_value=None)
    values: NDArray[np.float64] = grid.to_numpy()
    return lambda margin, temperature: float(at((margin, np.log(temperature)))), float(values.max()), grid.size


def _best_of(settings: Settings, surface: Surface, seed: int, *, random: bool) -> float:
    """Best value of a study of ``TRIALS`` trials, baseline included, replayed on the recorded grid."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seeded = settings.model_copy(update={"runtime": settings.runtime.model_copy(update={"seed": seed})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction="maximize")
        study.enqueue_trial({"margin": 0.0, "temperature": settings.pretrain.temperature})
        for slot in range(TRIALS):
            study.sampler = optuna.samplers.RandomSampler(seed=1000 * seed + slot) if random else sampler(seeded, slot)
            trial = study.ask()
            margin = trial.suggest_float("margin", *settings.tune.margin)
            temperature = trial.suggest_float("temperature", *settings.tune.temperature, log=True)
            study.tell(trial, surface(margin, temperature))
    return float(study.best_value)


if __name__ == "__main__":
    raise SystemExit(main())
