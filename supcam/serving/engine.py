"""The ONNX graph of a model package and what stands around it: decoding, batches, and the answer's columns.

It ships with every model, so it needs numpy, Pillow and ONNX Runtime only.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..cluster_type import TYPE_LABELS
from ..errors import SupcamError
from .images import ImageError, decode_crop, letterbox, native_canvas

CARD_FORMAT: Literal[2] = 2  # 2: canvases hold the foreground, not its frame
CARD_FILE = "card.json"
GRAPH_FILE = "model.onnx"
CHECKSUM_FILE = "SHA256SUMS"
PREDICTIONS_FILE = "test_predictions.csv"
PROBABILITY_COLUMNS: tuple[str, ...] = tuple("p_" + label.replace("-", "_") for label in TYPE_LABELS)
REMEDY = "Register the model again with this version, or install the supcam that made it."
ANSWER_COLUMNS: tuple[str, ...] = ("type", "confidence", *PROBABILITY_COLUMNS, "needs_review")

CropInput = bytes | bytearray | memoryview | str | Path | NDArray[Any]


class PackageError(SupcamError):
    """A model package is incomplete, was changed, or is of a format this version cannot read."""


class Engine:
    """A model package ready to predict; one instance serves many threads.

    Attributes:
        folder: where the package is.
        card: the content of ``card.json``.
        size: side of the square the graph takes, pixels.
        threshold: confidence below which a crop goes to review, 0-1.
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
            self._square = native_canvas if self.card["input"]["scale"] == "native" else letterbox
        except (KeyError, TypeError, ValueError) as error:
            raise PackageError(f"{folder / CARD_FILE} lacks a usable entry: {error}. {REMEDY}") from None
        self.batch_size = batch_size
        self._session = open_session(folder / GRAPH_FILE, threads)
        self._input = self._session.get_inputs()[0].name
        self._decoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="supcam-decode")

    def canvas(self, source: CropInput) -> NDArray[np.uint8]:
        """Turn one encoded crop, path or array into the graph's input, (1, S, S); ImageError says why it cannot."""
        return self._square(decode_crop(_as_encoded(source)), self.size)[np.newaxis]

    def probabilities(self, canvases: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the graph on (N, 1, S, S) uint8; returns (N, 4), each row sums to 1."""
        return np.asarray(self._session.run(None, {self._input: canvases})[0])

    def predict(
        self, sources: Sequence[CropInput], *, strict: bool = False
    ) -> tuple[NDArray[np.float32], list[str | None]]:
        """Predict many crops; a bad one costs only itself, or stops everything when ``strict``.

        Returns:
            Probabilities (N, 4), rows of NaN where a crop could not be read, and N error texts or None.

        Raises:
            ImageError: for the first crop that cannot be read, when ``strict``.
        """
        result = np.full((len(sources), len(TYPE_LABELS)), np.nan, dtype=np.float32)
        errors: list[str | None] = [None] * len(sources)
        for start, batch in self._decoded(sources):
            for row, item in enumerate(batch, start):
                if isinstance(item, ImageError):
                    if strict:
                        raise item
                    errors[row] = str(item)
            good = {row: item for row, item in enumerate(batch, start) if not isinstance(item, ImageError)}
            if good:
                result[list(good)] = self.probabilities(np.stack(list(good.values())))
        return result, errors

    def answer(self, probabilities: NDArray[np.float32]) -> dict[str, list[Any]]:
        """Columns of the answer for (N, 4) probabilities; a row of NaN has type ``""`` and needs review."""
        read: NDArray[np.bool_] = np.atleast_1d(~np.isnan(probabilities).any(axis=1))
        best = np.where(read, np.nan_to_num(probabilities).argmax(axis=1), 0)
        confidence = np.where(read, probabilities[np.arange(len(best)), best], np.nan).astype(np.float64)
        columns: dict[str, list[Any]] = {
            "type": [TYPE_LABELS[index] if ok else "" for index, ok in zip(best, read, strict=True)],
            "confidence": confidence.tolist(),
        }
        columns |= dict(zip(PROBABILITY_COLUMNS, probabilities.T.astype(np.float64).tolist(), strict=True))
        columns["needs_review"] = (~read | (confidence < self.threshold)).tolist()
        return columns

    def _decoded(self, sources: Sequence[CropInput]) -> Iterator[tuple[int, list[NDArray[np.uint8] | ImageError]]]:
        """Decode one batch ahead of the graph, so that both cores work."""
        size = self.batch_size
        if len(sources) <= size:  # nothing to do ahead, and another thread would only cost time
            yield 0, self._decode(sources)
            return
        ahead = self._decoders.submit(self._decode, sources[:size])
        for start in range(0, len(sources), size):
            batch = ahead.result()
            ahead = self._decoders.submit(self._decode, sources[start + size : start + 2 * size])
            yield start, batch

    def _decode(self, sources: Iterable[CropInput]) -> list[NDArray[np.uint8] | ImageError]:
        batch: list[NDArray[np.uint8] | ImageError] = []
        for source in sources:
            try:
                batch.append(self.canvas(source))
            except ImageError as error:
                batch.append(error)
        return batch


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
        raise PackageError(f"{graph} cannot be loaded: {error}. Pull or register the model again.") from None


def read_card(folder: Path) -> dict[str, Any]:
    """``card.json`` of a package; PackageError when it is missing, not JSON, or of another format."""
    path = folder / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise PackageError(f"{folder} is not a model package: {CARD_FILE} is missing. Run: supcam pull") from None
    except ValueError as error:
        raise PackageError(f"{path} is not JSON: {error}. Pull or register the model again.") from None
    found = card.get("format") if isinstance(card, dict) else None
    if found != CARD_FORMAT:
        remedy = "Install a newer supcam." if isinstance(found, int) and found > CARD_FORMAT else REMEDY
        raise PackageError(f"{path} has card format {found!r}; this version reads format {CARD_FORMAT}. {remedy}")
    return dict(card)


def verify_package(folder: Path) -> dict[str, str]:
    """Compare every file with ``SHA256SUMS``; returns the hashes by file name.

    Raises:
        PackageError: for a missing list, a list without graph and card, or a missing or changed file.
    """
    listing = folder / CHECKSUM_FILE
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise PackageError(f"{folder} is not a model package: {CHECKSUM_FILE} is missing. Run: supcam pull") from None
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if GRAPH_FILE not in expected or CARD_FILE not in expected:
        raise PackageError(f"{listing} does not list {GRAPH_FILE} and {CARD_FILE}. Pull the model again.")
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise PackageError(f"model package {folder} lacks {name}. Pull the model again.")
        if file_hash(path) != digest:
            raise PackageError(f"{path} was changed: its SHA-256 is not the one in {CHECKSUM_FILE}. Pull it again.")
    return expected


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _as_encoded(source: CropInput) -> bytes | str | Path:
    if isinstance(source, (str, Path, bytes)):
        return source
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if not isinstance(source, np.ndarray):
        raise ImageError(f"a crop is given as {type(source).__name__}; allowed are a path, encoded bytes or an array.")
    buffer = io.BytesIO()
    try:
        # Arrays take the way of files, so that a file and its pixels get the same answer.
        Image.fromarray(source).save(buffer, "TIFF" if source.dtype.kind == "f" else "PNG", compress_level=0)
    except Exception as error:  # Pillow raises many types for shapes and dtypes it cannot hold
        raise ImageError(
            f"array of shape {source.shape} and type {source.dtype} is not a crop: {error}. "
            "Allowed are (H, W) or (H, W, 3) uint8, and (H, W) uint16 or float32."
        ) from None
    return buffer.getvalue()
