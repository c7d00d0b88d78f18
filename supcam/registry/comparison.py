"""Two packages on crops that neither model trained, validated or tuned on, matched by the hashes of the crops."""

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import ClusterType
from supcam.registry.package import read_split
from supcam.registry.rules import Comparison
from supcam.serving.engine import PREDICTIONS_FILE, PROBABILITY_COLUMNS, Engine


def compare_packages(candidate: Path, production: Path, crops: Mapping[str, Path]) -> Comparison | None:
    """Both models on the test crops of either, none of them seen by one of the two; None when none is left.

    Production is run again on every crop that is available; stored predictions stand in for crops that are not.
    ``crops`` holds files by the SHA-256 of their bytes, as far as they are available.
    """
    rows = shared_rows(candidate, production)
    new = _predictions(candidate, rows["sha256"], crops, again=False)
    old = _predictions(production, rows["sha256"], crops, again=True)
    known = ~(np.isnan(new).any(axis=1) | np.isnan(old).any(axis=1))
    if not known.any():
        return None
    types = np.array([int(ClusterType.parse(label)) for label in rows["type"]], dtype=np.int64)
    return Comparison(types[known], new[known], old[known], rows["case"].to_numpy(dtype=str)[known])


def shared_rows(candidate: Path, production: Path) -> pd.DataFrame:
    """Columns ``sha256``, ``type`` and ``case`` of the test crops of either package that neither model has seen.

    Where the two disagree about a crop, what the candidate says is taken: its labels are the later ones. A crop whose
    case neither of them knows is a case of its own.
    """
    tests = [pd.read_csv(folder / PREDICTIONS_FILE, dtype={"sha256": str}) for folder in (candidate, production)]
    rows = pd.concat([test[["sha256", "type"]] for test in tests]).drop_duplicates("sha256")
    splits = pd.concat([read_split(folder) for folder in (candidate, production)])
    # Validation crops count as seen: they chose the epoch, the temperature and the review threshold.
    seen = set(splits.loc[splits["split"] != "test", "sha256"])
    rows = rows[~rows["sha256"].isin(seen)].sort_values("sha256").reset_index(drop=True)
    named = splits[splits["case"] != ""].drop_duplicates("sha256").set_index("sha256")["case"]
    return rows.assign(case=rows["sha256"].map(named).fillna(rows["sha256"]))


def latency_ms(package: Path, repeats: int = 30) -> float:
    """Median time of one crop on one thread, decoding included, milliseconds."""
    engine = Engine(package, threads=1)
    crop = np.full((engine.size, engine.size), 255, dtype=np.uint8)
    crop[engine.size // 4 : engine.size // 2, engine.size // 4 : engine.size // 2] = 90
    times = []
    for _ in range(repeats):
        start = perf_counter()
        engine.predict([crop])
        times.append(perf_counter() - start)
    return float(np.median(times)) * 1000


def _predictions(
    package: Path, hashes: "pd.Series[str]", crops: Mapping[str, Path], *, again: bool
) -> NDArray[np.float32]:
    """Probabilities (N, 4) by hash: stored ones, or computed (``again``: computed wherever the crop is available)."""
    stored = pd.read_csv(package / PREDICTIONS_FILE, dtype={"sha256": str}).drop_duplicates("sha256")
    result: NDArray[np.float32] = (
        stored.set_index("sha256").reindex(hashes)[list(PROBABILITY_COLUMNS)].to_numpy(dtype=np.float32, copy=True)
    )
    to_run = np.flatnonzero(hashes.isin(list(crops)).to_numpy() & (again | np.isnan(result).any(axis=1)))
    if len(to_run):
        answers = Engine(package).predict([crops[digest] for digest in hashes.iloc[to_run]])
        read = [error is None for error in answers.errors]
        result[to_run[read]] = answers.probabilities[read]
    return result
