"""The benchmark's replay of a recorded table: a made-up grid whose best point and ranking are known."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import tuning, tuning_grid
from supcam.settings import Settings, TuneSettings

SETTINGS = Settings(tune=TuneSettings(temperature=(0.1, 0.4)))


def made_up(noise: float) -> pd.DataFrame:
    """A bowl with its top at margin 0.45, temperature 0.16; the probe sees it through noise."""
    rows, rng = [], np.random.default_rng(0)
    for seed, margin, temperature in itertools.product(
        tuning_grid.SEEDS, tuning_grid.MARGINS, tuning_grid.TEMPERATURES
    ):
        value = 0.9 - (margin - 0.45) ** 2 - np.log(temperature / 0.16) ** 2 / 4
        rows.append(
            {
                "seed": seed, "margin": margin, "temperature": temperature, "finetune": value,
                "probe": value + noise * rng.normal(), "full_test": value + 0.05, "full_validation": value**2,
                "seconds_probe": 2.0, "seconds_finetune": 3.0, "seconds_full": 10.0, "reports": "0.5",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, float]]:
    return {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}


def test_the_objective_that_ranks_better_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    tuning._ranking(made_up(noise=1.0))
    told = rows(capsys)
    assert told["rank_correlation_finetune_full_test"]["value"] == pytest.approx(1.0)
    assert told["rank_correlation_finetune_full_test"]["spearman"] == pytest.approx(1.0)
    assert told["rank_correlation_probe_full_test"]["value"] < 0.7
    gain = told["rank_correlation_gain_full_validation"]
    assert 0 < gain["low"] < gain["value"] < gain["high"]
    assert told["rank_correlation_probe_full_test"]["seconds_per_trial"] == 2.0


def test_regret_of_the_sampler_is_told_against_random_search(capsys: pytest.CaptureFixture[str]) -> None:
    tuning._regret(SETTINGS, made_up(noise=0.0), seeds=6)
    told = rows(capsys)["regret_ratio"]
    assert told["mean_regret_random"] > 0 and told["mean_regret_tpe"] >= 0
    assert told["value"] == pytest.approx(told["mean_regret_tpe"] / told["mean_regret_random"])
    assert told["seeds"] == 6 and told["grid_points"] == 20


def test_a_recording_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning_grid, "TABLE", tmp_path / "grid.csv")
    assert len(tuning_grid.missing_points(tuning_grid.known_rows())) == 20
    made_up(0.0).head(7).to_csv(tmp_path / "grid.csv", index=False)
    missing = tuning_grid.missing_points(tuning_grid.known_rows())
    assert len(missing) == 13 and (42, 0.0, 0.1) not in missing
