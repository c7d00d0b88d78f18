"""What a study found: the best point, the trials and the pictures, without time or run ids."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from supcam.errors import SupcamError
from supcam.files import replaced_file, write_text
from supcam.tuning.objective import Point
from supcam.tuning.slots import decided
from supcam.tuning.tracked import STATES

_HEADER = "# Found by the stage tune; later stages use these instead of pretrain.margin and pretrain.temperature.\n"
PICTURES = ("history", "importances", "slice", "contour")


@dataclass(frozen=True)
class TuneResult:
    """The outcome of a study.

    Attributes:
        best: The best finished point; among equal values the earliest.
        value: Its validation macro sensitivity.
        baseline: Value of margin 0 and the default temperature; None if that trial failed.
        trials: One row per trial: ``trial, state``, the coordinates by name, ``value, reports, error``.
        study: The Optuna study.
    """

    best: Point
    value: float
    baseline: float | None
    trials: pd.DataFrame
    study: Any

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        counts = self.trials["state"].value_counts()
        ends = ", ".join(f"{counts.get(state, 0)} {state}" for state, _ in STATES.values())
        base = "failed" if self.baseline is None else f"{self.baseline:.4f}"
        point = ", ".join(f"{name} {_shown(value)}" for name, value in self.best.values.items())
        return (
            f"{point}: validation macro sensitivity {self.value:.4f}, baseline {base}; "
            f"{len(self.trials)} trials ({ends}) of study {self.study.study_name}"
        )

    def write(self, out: Path) -> None:
        """Write ``best_params.yaml``, ``trials.csv`` and the pictures, the same bytes for the same trials."""
        best = {name: round(value, 6) for name, value in self.best.values.items()}  # a whole number stays one
        write_text(out / "best_params.yaml", _HEADER + yaml.safe_dump(best, sort_keys=False))
        write_text(out / "trials.csv", self.trials.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
        shown = _decided_only(self.study, int(self.trials["trial"].max()) + 1)
        for name in PICTURES:
            _draw(shown, name, out / f"{name}.png")


def collect(study: Any, target: int) -> TuneResult:
    """Read the decided trials of a study.

    Raises:
        SupcamError: when none is finished.
    """
    names = space_of(study)
    rows = [
        {
            "trial": trial.user_attrs["slot"],
            "state": STATES[trial.state.name][0],
            **{name: trial.user_attrs[name] for name in names},
            "value": trial.value if trial.state.name == "COMPLETE" else None,
            "reports": len(trial.intermediate_values),
            "error": trial.user_attrs.get("error", "").partition("\n")[0],
        }
        for trial in decided(study, target)
    ]
    trials = pd.DataFrame(rows).astype({"value": "float64"}) if rows else pd.DataFrame({"state": []})
    finished = trials[trials["state"] == "finished"]
    if finished.empty:
        reasons = "; ".join(sorted(set(trials.get("error", [])) - {""})) or "no trial was run"
        raise SupcamError(
            f"none of {target} trials of study {study.study_name!r} finished: {reasons}. "
            "Correct the cause, then name a new study (tune.study) or change a setting, and run again."
        )
    values = finished.set_index("trial")["value"]
    best = {name: finished[name].iloc[int(values.to_numpy().argmax())].item() for name in names}
    point = Point(best.pop("margin"), best.pop("temperature"), best)
    return TuneResult(point, float(values.max()), values.get(0), trials, study)


def _decided_only(study: Any, target: int) -> Any:
    """A copy of a study in memory, without lost attempts: they would shift the numbers that the pictures show."""
    from optuna import create_study

    copy = create_study(study_name=study.study_name, direction=study.direction)
    copy.set_user_attr("space", study.user_attrs["space"])
    copy.add_trials(decided(study, target))
    return copy


def space_of(study: Any) -> list[str]:
    """Names of what a study searches: margin, temperature, then the others."""
    known = json.loads(study.user_attrs["space"])
    return ["margin", "temperature", *(name for name in known if name not in ("margin", "temperature"))]


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _draw(study: Any, name: str, path: Path) -> None:
    import warnings

    import matplotlib.pyplot as plt
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as pictures

    names = space_of(study)
    evaluator: Any = FanovaImportanceEvaluator(seed=0)
    draw: dict[str, Any] = {
        "history": lambda: pictures.plot_optimization_history(study),
        "importances": lambda: pictures.plot_param_importances(study, evaluator, params=names),
        "slice": lambda: pictures.plot_slice(study, names),
        "contour": lambda: pictures.plot_contour(study, ["margin", "temperature"]),
    }
    plt.switch_backend("agg")
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    inside = [trial for trial in complete if len(trial.params) == len(names)]
    # Importances of equal values do not exist: Optuna raises for them.
    varied = len({tuple(t.params.values()) for t in inside}) >= 2 and len({t.value for t in inside}) >= 2
    # Optuna sets a style for good, which would be that of every later picture of the process.
    with warnings.catch_warnings(), plt.rc_context():
        warnings.simplefilter("ignore")
        if name == "history" or varied:
            axes = draw[name]()
            figure: Any = (axes.flat[0] if hasattr(axes, "flat") else axes).figure
        else:
            figure, axes = plt.subplots()
            axes.text(0.5, 0.5, "needs two finished trials at different points", ha="center")
            axes.set_axis_off()
        figure.set_size_inches(10 if name == "slice" else 7, 4.5)
        with replaced_file(path) as fresh:
            figure.savefig(fresh, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
