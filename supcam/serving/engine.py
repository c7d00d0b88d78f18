"""The ONNX graph of a model package and what stands around it: reading, batches, the gate, the answer's columns.

It ships with every model, so it needs numpy, Pillow, tifffile and ONNX Runtime only.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..cluster_type import TYPE_LABELS
from ..errors import SupcamError
from .gate import WITHOUT_TYPE, judged, sure_enough
from .images import ImageError, Reading, Source, read_crop, square_of
from .novelty import NOVELTY_FILE, Novelty, statistics_of
from .reading import Measurements

CARD_FORMAT: Literal[2] = 2  # 2: canvases hold the foreground, not its frame
CARD_FILE = "card.json"
GRAPH_FILE = "model.onnx"
CHECKSUM_FILE = "SHA256SUMS"
PREDICTIONS_FILE = "test_predictions.csv"
_ADDED_BY_MLFLOW = "registered_model_meta"  # when it loads a model from a local store
PROBABILITY_COLUMNS: tuple[str, ...] = tuple("p_" + label.replace("-", "_") for label in TYPE_LABELS)
_SUM_TOLERANCE = 1e-3
REMEDY = "Register the model again with this version, or install the supcam that made it."
ANSWER_COLUMNS: tuple[str, ...] = ("type", "confidence", *PROBABILITY_COLUMNS, "needs_review", "reason")

# A pulled folder is pulled again; `dvc repro` writes the files of a registered version again.
_AGAIN = "A pulled folder: supcam pull again. In the registry: dvc repro, or supcam rollback."

CropInput = Source | Reading


class PackageError(SupcamError):
    """A model package is incomplete, was changed, or is of a format this version cannot read."""


class _Crop(NamedTuple):
    """A read crop: what the graph takes, (1, S, S), what the gate judges, and the statistics (K,) of its novelty."""

    canvas: NDArray[np.uint8]
    measured: Measurements
    statistics: NDArray[np.float64] | None


_Read = _Crop | ImageError


class Predictions(NamedTuple):
    """What the graph says of N sources, and what the gate judges.

    Attributes:
        probabilities: (N, 4), rows of NaN where a source could not be read.
        errors: N texts, None where it was read.
        measured: N measurements of the pictures, None where it was not.
        unlike: (N,) whether a crop is unlike the training crops; False where the package has no reference.
    """

    probabilities: NDArray[np.float32]
    errors: list[str | None]
    measured: list[Measurements | None]
    unlike: NDArray[np.bool_]


class Engine:
    """A model package ready to predict; one instance serves many threads.

    Attributes:
        folder: where the package is.
        card: the content of ``card.json``.
        size: side of the square the graph takes, pixels.
        threshold: confidence below which a crop goes to review, 0-1.
        novelty: recognises crops unlike the training crops; None in older packages.
    """

    def __init__(self, folder: Path, *, threads: int | None = None, batch_size: int = 64) -> None:
        """Check the package in ``folder`` and load its graph.

        Raises:
            PackageError: when a file is missing or changed, or the card is of another format or lacks an entry.
        """
        verify_package(folder)
        self.folder = folder
        self.card = read_card(folder)
        try:
            self.size = int(self.card["input"]["size"])
            self.threshold = float(self.card["review"]["threshold"])
            self._scale = str(self.card["input"]["scale"])
        except (KeyError, TypeError, ValueError) as error:
            raise PackageError(f"{folder / CARD_FILE} lacks a usable entry: {error}. {REMEDY}") from None
        try:
            self.novelty = Novelty.read(folder)
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise PackageError(f"{folder / NOVELTY_FILE} cannot be read: {error}. {REMEDY}") from None
        self.batch_size = batch_size
        _check_types(self.card, folder)
        self._session = open_session(folder / GRAPH_FILE, threads)
        self._input = _input_of(self._session, self.size, folder)
        self._decoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="supcam-decode")

    def canvas(self, source: CropInput, *, page: int | None = None) -> NDArray[np.uint8]:
        """Turn one encoded crop, path or array into the graph's input, (1, S, S); ImageError says why it cannot."""
        return self._read(source, page).canvas

    def probabilities(self, canvases: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the graph on (N, 1, S, S) uint8; returns (N, 4), each row sums to 1.

        Raises:
            PackageError: when an answer of the graph is not that.
        """
        answers = np.asarray(self._session.run(None, {self._input: canvases})[0])
        # Not ``>``: a comparison with NaN is false.
        sound = answers.shape == (len(canvases), len(TYPE_LABELS)) and bool(
            (np.abs(answers.sum(axis=1) - 1) <= _SUM_TOLERANCE).all() and (answers >= -_SUM_TOLERANCE).all()
        )
        if not sound:
            raise PackageError(
                f"{self.folder / GRAPH_FILE} answers what are not {len(TYPE_LABELS)} probabilities that sum to 1. "
                "Train and register a model again, or go back: supcam rollback"
            )
        return answers

    def predict(
        self, sources: Sequence[CropInput | ImageError], *, strict: bool = False, page: int | None = None
    ) -> Predictions:
        """Predict many crops; a bad one costs only itself, or stops everything when ``strict``.

        An error among the sources stands for a refused file. What shows no crop has probabilities here,
        but no type in its :meth:`answer`.

        Raises:
            ImageError: for the first crop that cannot be read, when ``strict``.
        """
        result = np.full((len(sources), len(TYPE_LABELS)), np.nan, dtype=np.float32)
        errors: list[str | None] = [None] * len(sources)
        measured: list[Measurements | None] = [None] * len(sources)
        unlike = np.zeros(len(sources), dtype=bool)
        for start, batch in self._batches(sources, page):
            good: dict[int, _Crop] = {}
            for row, item in enumerate(batch, start):
                if not isinstance(item, ImageError):
                    good[row], measured[row] = item, item.measured
                elif strict:
                    raise item
                else:
                    errors[row] = str(item)
            if good:
                rows, crops = list(good), list(good.values())
                result[rows] = self.probabilities(np.stack([crop.canvas for crop in crops]))
                unlike[rows] = self._unlike(crops)
        return Predictions(result, errors, measured, unlike)

    def answer(self, predictions: Predictions) -> dict[str, list[Any]]:
        """Columns of the answer; what does not show a crop has the type ``""`` and no numbers, see :mod:`.gate`."""
        probabilities = predictions.probabilities.astype(np.float64)
        confidence = probabilities.max(axis=1)
        doubtful = ~sure_enough(probabilities, self.threshold)
        reasons = [
            judged(measured, unlike_training=bool(unlike), low_confidence=bool(low))
            for measured, unlike, low in zip(predictions.measured, predictions.unlike, doubtful, strict=True)
        ]
        typed = np.array([WITHOUT_TYPE.isdisjoint(found) for found in reasons], dtype=bool)
        best = np.where(typed, probabilities.argmax(axis=1), 0)
        columns: dict[str, list[Any]] = {
            "type": [TYPE_LABELS[index] if has_type else "" for index, has_type in zip(best, typed, strict=True)],
            "confidence": np.where(typed, confidence, np.nan).tolist(),
        }
        shown = np.where(typed[:, np.newaxis], probabilities, np.nan)
        columns |= dict(zip(PROBABILITY_COLUMNS, shown.T.tolist(), strict=True))
        columns["needs_review"] = [bool(found) for found in reasons]
        columns["reason"] = ["; ".join(found) for found in reasons]
        return columns

    def _batches(
        self, sources: Sequence[CropInput | ImageError], page: int | None
    ) -> Iterator[tuple[int, list[_Read]]]:
        """Read one batch ahead of the graph, so that both cores work."""
        size = self.batch_size
        if len(sources) <= size:  # nothing to do ahead, and another thread would only cost time
            yield 0, self._read_all(sources, page)
            return
        ahead = self._decoders.submit(self._read_all, sources[:size], page)
        for start in range(0, len(sources), size):
            batch = ahead.result()
            ahead = self._decoders.submit(self._read_all, sources[start + size : start + 2 * size], page)
            yield start, batch

    def _read_all(self, sources: Iterable[CropInput | ImageError], page: int | None) -> list[_Read]:
        batch: list[_Read] = []
        for source in sources:
            try:
                batch.append(source if isinstance(source, ImageError) else self._read(source, page))
            except ImageError as error:
                batch.append(error)
        return batch

    def _read(self, source: CropInput, page: int | None) -> _Crop:
        reading = source if isinstance(source, Reading) else read_crop(source, page=page)
        statistics = statistics_of(reading.image) if self.novelty is not None else None
        return _Crop(square_of(reading.image, self.size, self._scale)[np.newaxis], reading.measurements, statistics)

    def _unlike(self, crops: Sequence[_Crop]) -> NDArray[np.bool_]:
        if self.novelty is None:
            return np.zeros(len(crops), dtype=bool)
        return self.novelty.unlike(np.stack([crop.statistics for crop in crops if crop.statistics is not None]))


def open_session(graph: Path, threads: int | None = None) -> Any:
    """ONNX Runtime session on the CPU, telemetry off; PackageError when the graph cannot be loaded.

    ``threads`` are those of one run; None takes ``OMP_NUM_THREADS``, else the runtime takes every core.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The runtime's own pool does not read OMP_NUM_THREADS; 0 is every core.
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    options.intra_op_num_threads = threads or (int(asked) if asked.isdecimal() else 0)
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has an exception type for each of its own errors
        raise PackageError(f"{graph} cannot be loaded: {error}. {_AGAIN}") from None


def read_card(folder: Path) -> dict[str, Any]:
    """``card.json`` of a package; PackageError when it is missing, not JSON, or of another format."""
    path = folder / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise PackageError(f"{folder} is not a model package: {CARD_FILE} is missing. Run: supcam pull") from None
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{path} is not JSON: {error}. {_AGAIN}") from None
    found = card.get("format") if isinstance(card, dict) else None
    if found != CARD_FORMAT:
        remedy = "Install a newer supcam." if isinstance(found, int) and found > CARD_FORMAT else REMEDY
        raise PackageError(f"{path} has card format {found!r}; this version reads format {CARD_FORMAT}. {remedy}")
    return dict(card)


def verify_package(folder: Path, needed: Sequence[str] = (GRAPH_FILE, CARD_FILE)) -> dict[str, str]:
    """Compare every listed file with ``SHA256SUMS``; returns the hashes by file name.

    Raises:
        PackageError: for a missing list, a list without the ``needed`` files, or a missing or changed file.
    """
    listing = folder / CHECKSUM_FILE
    try:
        # Not whatever can be opened: a pipe would be waited for.
        lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else None
    except (OSError, UnicodeDecodeError):
        lines = None
    if lines is None:
        raise PackageError(f"{folder} is not a model package: {CHECKSUM_FILE} is missing. Run: supcam pull")
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if outside := [name for name in expected if Path(name).name != name]:
        raise PackageError(f"{listing} names {outside[0]!r}, which is not a file of the package. {_AGAIN}")
    if not expected.keys() >= set(needed):
        raise PackageError(f"{listing} does not list {' and '.join(needed)}. {_AGAIN}")
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise PackageError(f"model package {folder} lacks {name}. {_AGAIN}")
        if file_hash(path) != digest:
            raise PackageError(f"{path} was changed: its SHA-256 is not the one in {CHECKSUM_FILE}. {_AGAIN}")
    return expected


def content_hash(folder: Path, shipped: str = "") -> str:
    """SHA-256 that names a registered model: of every file of its package, and of the code that travels with it.

    A network without a card, which is not a classifier, is named in the same way.

    Args:
        folder: The package; a file that its ``SHA256SUMS`` does not list could be changed unnoticed, and is refused.
        shipped: SHA-256 of the code and the requirements, "" where no code travels.

    Raises:
        PackageError: as :func:`verify_package`, and for a file that is not listed.
    """
    files = verify_package(folder, needed=(GRAPH_FILE,))
    if unlisted := sorted({path.name for path in folder.iterdir()} - {*files, CHECKSUM_FILE, _ADDED_BY_MLFLOW}):
        raise PackageError(f"{folder / unlisted[0]} is not listed in {CHECKSUM_FILE}. {_AGAIN}")
    return hashlib.sha256(json.dumps({"files": files, "shipped": shipped}, sort_keys=True).encode()).hexdigest()


def _check_types(card: dict[str, Any], folder: Path) -> None:
    if card.get("types") != list(TYPE_LABELS):
        raise PackageError(
            f"{folder / CARD_FILE} has types {card.get('types')!r}; allowed are {list(TYPE_LABELS)}, in this order. "
            f"{REMEDY}"
        )


def _input_of(session: Any, size: int, folder: Path) -> str:
    """Name of the graph's input; PackageError when it takes other squares, or answers for other than four types."""
    given, answered = session.get_inputs(), session.get_outputs()
    fits = (
        len(given) == 1
        and _fits(given[0].shape, (1, size, size))
        and _fits(answered[0].shape, (len(TYPE_LABELS),))
        and given[0].type == "tensor(uint8)"
    )
    if not fits:
        raise PackageError(
            f"{folder / GRAPH_FILE} takes {given[0].type} {given[0].shape} and answers {answered[0].shape}; its card "
            f"needs uint8 (N, 1, {size}, {size}) and (N, {len(TYPE_LABELS)}). Train and register a model again."
        )
    return str(given[0].name)


def _fits(shape: Sequence[int | str | None], wanted: tuple[int, ...]) -> bool:
    """Whether a graph's shape is N times ``wanted``; a side that is not written into the graph has a name, or None."""
    return len(shape) == len(wanted) + 1 and all(
        side == other or not isinstance(side, int) for side, other in zip(shape[1:], wanted, strict=True)
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
