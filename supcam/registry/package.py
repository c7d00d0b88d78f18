"""Turn a trained model into a package: ONNX graph, safetensors weights, card, hash lists. No pickle anywhere."""

import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from supcam.data.crops import CropSet
from supcam.errors import GateRefused, UsageError
from supcam.files import replaced_folder
from supcam.registry.card import ModelCard, ParityCard
from supcam.serving.engine import (
    CARD_FILE,
    CHECKSUM_FILE,
    GRAPH_FILE,
    PREDICTIONS_FILE,
    PROBABILITY_COLUMNS,
    Engine,
    file_hash,
    open_session,
)
from supcam.serving.novelty import Novelty

if TYPE_CHECKING:
    import onnx
    from torch import nn

WEIGHTS_FILE = "weights.safetensors"
SPLIT_FILE = "split.csv"
PARITY_TOLERANCE = 1e-4
_PARITY_CROPS = 256
_OPSET = 18
_INPUT = "image"
_BATCH = 64
REFERENCE_FILE = "reference.csv"
REFERENCE_COLUMNS = ("type", "confidence", "needs_review", "reason")


def package_model(
    module: "nn.Module",
    card: ModelCard,
    out: Path,
    *,
    split: pd.DataFrame,
    test: pd.DataFrame,
    canvases: NDArray[np.uint8],
    novelty: Novelty | None = None,
    validation: CropSet | None = None,
    tolerance: float = PARITY_TOLERANCE,
) -> Path:
    """Write the package of a model into ``out``, replacing what was there; the same model gives the same bytes.

    Args:
        module: (B, 1, S, S) uint8 to probabilities (B, 4), everything from inversion to calibration inside.
        card: Its parity is measured here.
        out: Folder of the package.
        split: ``sha256`` and ``split`` of every crop that trained, tuned or judged the model, and ``source`` and
            ``case_id`` where they are known.
        test: ``sha256`` and ``type`` of the test crops.
        canvases: The test crops as the graph takes them, (N, 1, S, S), in the same order.
        novelty: What recognises crops unlike the training crops; None leaves that out.
        validation: Crops whose answers ``supcam watch`` compares those of production with; None leaves that out.
        tolerance: Largest allowed difference of probabilities between ONNX and torch.

    Raises:
        UsageError: when rows and canvases do not belong together.
        GateRefused: when ONNX and torch differ by more than ``tolerance``.
    """
    from safetensors.torch import save_file

    if not len(test) or canvases.shape != (len(test), 1, card.input.size, card.input.size):
        raise UsageError(
            f"canvases of shape {canvases.shape} do not fit {len(test)} test crops of {card.input.size} pixels; "
            "give one (1, size, size) canvas for each of at least one test crop."
        )
    with replaced_folder(out) as folder:
        _export_onnx(module, card.input.size, folder / GRAPH_FILE)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE)
        probabilities = _run_graph(folder / GRAPH_FILE, canvases)
        parity = _parity(module, probabilities, canvases)
        if not parity.difference <= tolerance:
            raise GateRefused(
                f"the ONNX graph differs from torch by {parity.difference:.2g} in probability; allowed: {tolerance:g}. "
                "The model was not packaged: check its layers against the exporter."
            )
        if novelty is not None:
            novelty.write(folder)
        rows = split[["sha256", "split"]].assign(case=_case_hashes(split)).drop_duplicates(["sha256", "split"])
        _write_rows(rows, folder / SPLIT_FILE)
        answers = dict(zip(PROBABILITY_COLUMNS, probabilities.T, strict=True))
        _write_rows(test[["sha256", "type"]].assign(**answers), folder / PREDICTIONS_FILE)
        (folder / CARD_FILE).write_text(card.model_copy(update={"parity": parity}).to_json(), encoding="utf-8")
        write_checksums(folder)
        if validation is not None and len(validation):
            _write_reference(folder, validation)
            write_checksums(folder)
    return out


def _write_reference(folder: Path, validation: CropSet) -> None:
    """The answers of the packaged model to validation crops, each with the hash of its case."""
    engine = Engine(folder)
    answers = pd.DataFrame(engine.answer(engine.predict(validation.sources, strict=True)))
    rows = answers[list(REFERENCE_COLUMNS)].assign(case=_case_hashes(validation.frame))
    rows.sort_values(["case", "confidence"]).to_csv(
        folder / REFERENCE_FILE, index=False, lineterminator="\n", float_format="%.7g"
    )


def _export_onnx(module: "nn.Module", size: int, path: Path) -> None:
    """Export with a dynamic batch, weights inside, and nothing in it that depends on where the code lies."""
    import onnx
    import torch

    module.eval()
    example = torch.full((2, 1, size, size), 255, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=[_INPUT],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65_536)},),
            verbose=False,
        )
    assert program is not None  # the dynamo exporter returns one
    model = program.model_proto
    _clear_traces(model)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _clear_traces(model: "onnx.ModelProto") -> None:
    """Take out the notes of the exporter, which name its version and the files of the code."""
    model.producer_version = ""
    graphs = [model.graph, *model.functions]
    nodes = [node for graph in graphs for node in graph.node]
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]
    for noted in (model, *graphs, *nodes, *values):
        noted.doc_string = ""
        del noted.metadata_props[:]


def _run_graph(graph: Path, canvases: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = open_session(graph)
    return np.concatenate([session.run(None, {_INPUT: batch})[0] for batch in _batches(canvases)])


def _parity(module: "nn.Module", probabilities: NDArray[np.float32], canvases: NDArray[np.uint8]) -> ParityCard:
    """Compare the graph's probabilities (N, 4) with torch's on the first crops."""
    import torch

    checked = canvases[:_PARITY_CROPS]
    with torch.inference_mode():
        expected = np.concatenate([module(torch.from_numpy(batch)).cpu().numpy() for batch in _batches(checked)])
    difference = np.abs(expected - probabilities[: len(checked)]).max()
    return ParityCard(difference=float(f"{difference:.3g}"), crops=len(checked))


def _batches(canvases: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return np.split(canvases, range(_BATCH, len(canvases), _BATCH))


def _case_hashes(frame: pd.DataFrame) -> list[str]:
    """Names (N,) of the crops' cases: hashes of source and case id, so that no patient is named; "" where unknown."""
    if not {"source", "case_id"} <= set(frame.columns):
        return [""] * len(frame)
    pairs = zip(frame["source"], frame["case_id"].fillna(""), strict=True)
    return [hashlib.sha256(f"{source}/{case}".encode()).hexdigest()[:16] if case else "" for source, case in pairs]


def _write_rows(frame: pd.DataFrame, path: Path) -> None:
    """Rows in order of their hash, so that the file does not show the order of the manifest."""
    frame.sort_values(list(frame.columns[:2])).to_csv(path, index=False, lineterminator="\n", float_format="%.7g")


def read_split(folder: Path) -> pd.DataFrame:
    """Columns ``sha256``, ``split`` and ``case`` of a package's crops, all text; ``case`` is "" where unknown."""
    rows = pd.read_csv(folder / SPLIT_FILE, dtype=str, keep_default_na=False)
    # Packages of earlier versions have no column case.
    return rows if "case" in rows else rows.assign(case="")


def write_checksums(folder: Path) -> None:
    """List the SHA-256 of every file of ``folder``, in the format of ``sha256sum``."""
    names = sorted(path.name for path in folder.iterdir() if path.name != CHECKSUM_FILE)
    lines = [f"{file_hash(folder / name)}  {name}\n" for name in names]
    (folder / CHECKSUM_FILE).write_text("".join(lines), encoding="utf-8")
