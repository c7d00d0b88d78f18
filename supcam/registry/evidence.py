"""What the gate finds out about a candidate by itself: its graph on the test crops, and what its package claims."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.cluster_type import TYPE_LABELS, ClusterType
from supcam.data.manifest import manifest_hash
from supcam.data.split_report import PARTS, split_hash
from supcam.registry.card import ModelCard
from supcam.registry.package import SPLIT_FILE, read_split
from supcam.registry.rules import Evidence
from supcam.serving.engine import PREDICTIONS_FILE, PROBABILITY_COLUMNS, Engine, PackageError

Answers = dict[str, NDArray[np.float32]]
_BATCH = 256
_AGAIN = "Package the model again: dvc repro"


@dataclass(frozen=True)
class ProjectCrops:
    """The crops of a project: its manifest, with the column ``split`` where they are divided, and their folder."""

    manifest: pd.DataFrame
    root: Path

    @cached_property
    def hash(self) -> str:
        """The hash by which cards and data validation name a manifest."""
        return manifest_hash(self.manifest)

    @cached_property
    def split_hash(self) -> str | None:
        """The hash by which cards name a split; None where the crops are not divided."""
        return split_hash(self.manifest) if "split" in self.manifest else None

    @cached_property
    def types(self) -> dict[str, str]:
        """Type of every crop by the SHA-256 of its bytes."""
        return dict(zip(self.manifest["sha256"], self.manifest["type"], strict=True))

    @cached_property
    def paths(self) -> dict[str, Path]:
        """File of every crop by the SHA-256 of its bytes, whether it is there or not."""
        return {
            digest: self.root / path
            for digest, path in zip(self.manifest["sha256"], self.manifest["path"], strict=True)
        }


def computed_answers(package: Path, digests: Iterable[str], crops: ProjectCrops | None) -> Answers:
    """Probabilities (4,) by hash of those crops that are available: the graph is run on their files now.

    A file whose bytes are not those of its hash, or that cannot be read, counts as not available.

    Raises:
        PackageError: when the graph does not answer with probabilities.
    """
    wanted = [digest for digest in dict.fromkeys(digests) if crops is not None and digest in crops.paths]
    engine, answers = Engine(package), Answers()
    for start in range(0, len(wanted), _BATCH):
        batch = [
            (digest, content)
            for digest in wanted[start : start + _BATCH]
            if crops is not None and (content := _content(crops.paths[digest], digest)) is not None
        ]
        found = engine.predict([content for _, content in batch])
        for (digest, _), row, error in zip(batch, found.probabilities, found.errors, strict=True):
            if error is None:
                answers[digest] = row
    return answers


def evidence_of(package: Path, card: ModelCard, crops: ProjectCrops | None, computed: Answers) -> Evidence:
    """The candidate's answers to its test crops, and what in its package contradicts the project.

    Raises:
        PackageError: when ``test_predictions.csv`` or ``split.csv`` is incomplete or contradicts itself.
    """
    answers, split = stored_answers(package), checked_split(package)
    tested = sorted(split.loc[split["split"] == "test", "sha256"].unique())
    if tested != sorted(answers["sha256"].unique()):
        raise PackageError(
            f"{package / PREDICTIONS_FILE} answers other crops than the test crops of {SPLIT_FILE}. {_AGAIN}"
        )
    stored = answers[list(PROBABILITY_COLUMNS)].to_numpy(dtype=np.float32)
    run = answers["sha256"].isin(list(computed)).to_numpy()
    probabilities = stored.copy()
    for row, digest in enumerate(answers["sha256"]):
        if run[row]:
            probabilities[row] = computed[digest]
    contradiction, unknown = _against_project(answers, split, card, crops)
    return Evidence(
        types=np.array([int(ClusterType.parse(label)) for label in answers["type"]], dtype=np.int64),
        probabilities=probabilities,
        computed=run,
        difference=float(np.abs(probabilities - stored)[run].max(initial=0.0)),
        contradiction=contradiction,
        unknown=unknown,
    )


def stored_answers(package: Path) -> pd.DataFrame:
    """``test_predictions.csv`` of a package: ``sha256``, ``type`` and four probabilities of at least one crop.

    Raises:
        PackageError: when it is missing, has no row, or holds anything else than such answers.
    """
    path = package / PREDICTIONS_FILE
    frame = _table(path, ["sha256", "type", *PROBABILITY_COLUMNS])
    try:
        values = frame[list(PROBABILITY_COLUMNS)].astype(np.float64)
    except ValueError as error:
        raise PackageError(f"{path} holds an answer that is not a number: {error}. {_AGAIN}") from None
    # Not "an answer below 0 or a sum that differs": a comparison with NaN is false.
    sound = ((values.sum(axis=1, skipna=False) - 1).abs() <= 1e-3).all() and (values >= 0).all(axis=None)
    wrong = {
        "no row": frame.empty,
        "an unknown type": not frame["type"].isin(TYPE_LABELS).all(),
        "a crop with two types": bool(frame.groupby("sha256")["type"].nunique().gt(1).any()),
        "an answer that is not four probabilities": not sound,
    }
    for what, found in wrong.items():
        if found:
            raise PackageError(f"{path} holds {what}. {_AGAIN}")
    return frame.assign(**{name: values[name] for name in PROBABILITY_COLUMNS})


def checked_split(package: Path) -> pd.DataFrame:
    """``split.csv`` of a package, see :func:`supcam.registry.package.read_split`.

    Raises:
        PackageError: when it is missing, or has an unknown part or a crop in two parts.
    """
    path = package / SPLIT_FILE
    _table(path, ["sha256", "split"])
    frame = read_split(package)
    if unknown := sorted(set(frame["split"]) - set(PARTS)):
        raise PackageError(f"{path} holds the part {unknown[0]!r}; allowed are {', '.join(PARTS)}. {_AGAIN}")
    if frame.groupby("sha256")["split"].nunique().gt(1).any():
        raise PackageError(f"{path} has a crop in two parts. Divide the crops again: supcam data resplit, dvc repro")
    return frame


def _against_project(
    answers: pd.DataFrame, split: pd.DataFrame, card: ModelCard, crops: ProjectCrops | None
) -> tuple[str, str]:
    """What in a package contradicts the data and the split of the project, and why that cannot be compared."""
    if crops is None or crops.hash != card.data.manifest_hash:
        return "", "the model is of other data than those of this project"
    counts = crops.manifest["sha256"].value_counts()
    if set(split["sha256"]) != set(counts.index):
        return "split.csv does not hold exactly the crops of the data", ""
    found = answers["sha256"].value_counts()
    if not answers["type"].eq(answers["sha256"].map(crops.types)).all() or found.gt(counts[found.index]).any():
        return "test_predictions.csv has other types than the data, or crops more often", ""
    if crops.split_hash is None:
        return "", "there is no split to compare with; run: dvc repro split"
    if crops.split_hash != card.data.split_hash:
        return "", "the model is of another split than that of this project"
    parts = dict(zip(crops.manifest["sha256"], crops.manifest["split"], strict=True))
    if not split["split"].eq(split["sha256"].map(parts)).all():
        return "split.csv has crops in other parts than the split", ""
    missing = counts[[digest for digest, part in parts.items() if part == "test"]].sum() != len(answers)
    return ("test_predictions.csv does not answer every test crop", "") if missing else ("", "")


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise PackageError(f"model package {path.parent} lacks {path.name}. {_AGAIN}") from None
    except (OSError, ValueError) as error:  # pandas' own errors of parsing are ValueErrors
        raise PackageError(f"{path} is not a table: {error}. {_AGAIN}") from None
    if missing := [name for name in columns if name not in frame]:
        raise PackageError(f"{path} lacks the column {missing[0]}. {_AGAIN}")
    return frame


def _content(path: Path, digest: str) -> bytes | None:
    try:
        content = path.read_bytes() if path.is_file() else b""  # a pipe would be waited for
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None
