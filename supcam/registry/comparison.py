"""Two models on crops that neither trained, validated or tuned on, matched by the hashes of the crops."""

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import ClusterType
from supcam.registry.evidence import Answers, checked_split, stored_answers
from supcam.registry.rules import Comparison
from supcam.serving.engine import PROBABILITY_COLUMNS, Engine


def compare_packages(
    rows: pd.DataFrame, candidate: Answers, production: Answers, stored: tuple[Path, Path] | None = None
) -> Comparison | None:
    """Both models on crops that neither has seen; None when none is left.

    Args:
        rows: The crops, see :func:`shared_rows`.
        candidate: Its answers, computed now, by the SHA-256 of the crops.
        production: Those of production.
        stored: Folders of both packages, whose stored answers stand in for crops that are not available; by default
            such crops do not count.
    """
    digests = rows["sha256"]
    new, old = _table(digests, candidate), _table(digests, production)
    stand_in = 0
    if stored is not None:
        for answers, folder in zip((new, old), stored, strict=True):
            kept = stored_answers(folder).drop_duplicates("sha256").set_index("sha256").reindex(digests)
            missing = np.isnan(answers).any(axis=1)
            answers[missing] = kept[list(PROBABILITY_COLUMNS)].to_numpy(dtype=np.float32)[missing]
            stand_in += int((missing & ~np.isnan(answers).any(axis=1)).sum())
    known = ~(np.isnan(new).any(axis=1) | np.isnan(old).any(axis=1))
    if not known.any():
        return None
    types = np.array([int(ClusterType.parse(label)) for label in rows["type"]], dtype=np.int64)
    cases = rows["case"].to_numpy(dtype=str)
    return Comparison(types[known], new[known], old[known], cases[known], stand_in)


def shared_rows(candidate: Path, production: Path, types: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Columns ``sha256``, ``type`` and ``case`` of the test crops of either package that neither model has seen.

    The type is that of ``types``, by hash, where it is known; else what the candidate says, whose labels are the later
    ones. A crop whose case neither of them knows is a case of its own.
    """
    tests = [stored_answers(folder) for folder in (candidate, production)]
    rows = pd.concat([test[["sha256", "type"]] for test in tests]).drop_duplicates("sha256")
    splits = pd.concat([checked_split(folder) for folder in (candidate, production)])
    # Validation crops count as seen: they chose the epoch, the temperature and the review threshold.
    seen = set(splits.loc[splits["split"] != "test", "sha256"])
    rows = rows[~rows["sha256"].isin(seen)].sort_values("sha256").reset_index(drop=True)
    rows["type"] = rows["sha256"].map(types or {}).fillna(rows["type"])
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


def _table(digests: "pd.Series[str]", answers: Answers) -> NDArray[np.float32]:
    """Probabilities (N, 4) in the order of the hashes, NaN where there is no answer."""
    unknown = np.full(len(PROBABILITY_COLUMNS), np.nan, dtype=np.float32)
    rows = [answers.get(digest, unknown) for digest in digests]
    return np.array(rows, dtype=np.float32).reshape(-1, len(PROBABILITY_COLUMNS))
