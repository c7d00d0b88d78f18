"""The Optuna study that finds margin and temperature. Optuna itself is imported only when a study is opened."""

from supcam.tuning.objective import Objective, Point, TrainingObjective, Watch
from supcam.tuning.result import TuneResult
from supcam.tuning.study import study_key, tune

__all__ = [
    "Objective",
    "Point",
    "TrainingObjective",
    "TuneResult",
    "Watch",
    "study_key",
    "tune",
]
