"""Ways to get a worse model into production, each with real files and a real registry; none may succeed.

Version 1, right about every crop, is in production; version 2 answers 25 % of the crops wrong and is honest about it.
``python -m tests.registry.attacks`` tries them all and prints one JSON object.
"""

import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pandas as pd
from mlflow.tracking._tracking_service import utils
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import SupcamError
from supcam.registry import history, promotion
from supcam.registry.card import load_card
from supcam.registry.evidence import ProjectCrops
from supcam.registry.package import write_checksums
from supcam.registry.promotion import best_candidate
from supcam.registry.reach import open_client
from supcam.registry.record import PENDING_TAG, as_text
from supcam.registry.registration import register_candidate
from supcam.registry.rules import Validation
from supcam.registry.store import PRODUCTION, Registry, Tag
from supcam.serving.engine import PROBABILITY_COLUMNS as COLUMNS
from supcam.serving.engine import content_hash
from tests.registry.crops import DATA, PASSED, SETTINGS, go, project_crops
from tests.registry.small import SIZE, export, make_card, with_card


@dataclass
class Scene:
    """A registry of its own for one attack.

    Attributes:
        registry: Version 1 is in production, version 2 is candidate.
        worse: Folder of the package of version 2, to be forged and registered again.
        good: Folder of a package that would be promoted.
        crops: Those of the project, in a folder of their own.
        arguments: Of the promotion that follows.
    """

    registry: Registry
    worse: Path
    good: Path
    crops: ProjectCrops
    arguments: dict[str, Any]

    def register(self, package: Path, validation: Validation | None = PASSED) -> int:
        """Register a package; its version is the candidate."""
        client = self.registry.client
        run = client.create_run(client.get_experiment_by_name("supcam").experiment_id)  # type: ignore[union-attr]
        uri = self.registry.uri
        return register_candidate(package, run_id=run.info.run_id, tracking_uri=uri, validation=validation).number

    def files(self, number: int) -> Path:
        """The package of a version as it lies in the artifact store."""
        return self.registry.package(self.registry.version(number))

    def set_tag(self, number: int, key: str, value: str) -> None:
        """Change a tag of a version by hand."""
        self.registry.client.set_model_version_tag("supcam", str(number), key, value)


Attack = Callable[[Scene], None]
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    """Add a way to the suite."""
    ATTACKS[function.__name__] = function
    return function


def forged(name: str, change: Callable[[Path], None]) -> None:
    """Add a way: the package of the worse model is changed, with consistent hashes, and registered."""

    def way(scene: Scene) -> None:
        change(scene.worse)
        write_checksums(scene.worse)
        scene.register(scene.worse)

    ATTACKS[name] = way


def swapped(name: str, change: Callable[[Path, Scene], None]) -> None:
    """Add a way: a good model is registered, then its files are changed, with consistent hashes."""

    def way(scene: Scene) -> None:
        package = scene.files(scene.register(scene.good))
        change(package, scene)
        write_checksums(package)

    ATTACKS[name] = way


# The card.


def card(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A change of the card's entries."""

    def edit(package: Path) -> None:
        entries = json.loads((package / "card.json").read_text(encoding="utf-8"))
        change(entries)
        (package / "card.json").write_text(json.dumps(entries), encoding="utf-8")

    return edit


def perfect_card(package: Path) -> None:
    """Metrics of a model that is always right."""
    perfect = {"metrics": make_card().metrics, "sensitivity": make_card().sensitivity}
    (package / "card.json").write_text(load_card(package).model_copy(update=perfect).to_json(), encoding="utf-8")


def no_risk() -> dict[str, Any]:
    """Every type has a threshold and was never answered wrongly."""
    found = {"crops": 10, "answered": 1.0, "risk": 0.0, "low": 0.0, "high": 0.3}
    return {label: {"threshold": 0.0, "crops": 30, "risk": 0.1, "test": found} for label in TYPE_LABELS}


def _metric(kind: str, name: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda entries: entries[kind][name].update(values)


for _name, _change in {
    "says that every metric is 1": None,
    "has no crop of any type": lambda c: [metric.update(crops=0) for metric in c["sensitivity"].values()],
    "has no crop of the worst type": _metric("sensitivity", "touching-overlapping", crops=0, value=0.0),
    "has fewer crops": _metric("metrics", "accuracy", crops=30),
    "has crops null": _metric("metrics", "accuracy", crops=None),
    "has a higher accuracy": _metric("metrics", "accuracy", value=0.99),
    "has a higher macro sensitivity": _metric("metrics", "macro_sensitivity", value=0.99),
    "has a higher sensitivity": _metric("sensitivity", "touching-overlapping", value=0.99),
    "has accuracy NaN": _metric("metrics", "accuracy", value=float("nan")),
    "has accuracy inf": _metric("metrics", "accuracy", value=float("inf")),
    "has sensitivity NaN": _metric("sensitivity", "touching", value=float("nan")),
    "has no metrics": lambda c: c.update(metrics={}),
    "has no sensitivity": lambda c: c.update(sensitivity={}),
    "has a type of its own": lambda c: c["sensitivity"].update(other={"value": 1.0, "crops": 10}),
    "has types empty": lambda c: c.update(types=[]),
    "has types unknown": lambda c: c.update(types=["a", "b", "c", "d"]),
    "has types reordered": lambda c: c.update(types=list(TYPE_LABELS[::-1])),
    "has a type less": lambda c: c.update(types=list(TYPE_LABELS[:3])),
    "has a type twice": lambda c: c.update(types=[*TYPE_LABELS[:3], TYPE_LABELS[0]]),
    "has no parity": lambda c: c.update(parity=None),
    "has parity NaN": lambda c: c["parity"].update(difference=float("nan")),
    "has parity of no crop": lambda c: c["parity"].update(crops=0),
    "has no calibration error": lambda c: c["calibration"].update(error=None),
    "has calibration NaN": lambda c: c["calibration"].update(error=float("nan")),
    "has no review risk": lambda c: c["review"].update(risk=None),
    "has a review threshold NaN": lambda c: c["review"].update(threshold=float("nan")),
    "has no licence": lambda c: c.update(licence=""),
    "has an unknown entry": lambda c: c.update(promote=True),
    "has another format": lambda c: c.update(format=3),
    "has another input size": lambda c: c["input"].update(size=64),
    "is of other data": lambda c: c["data"].update(manifest_hash="0" * 64),
    "is of another split": lambda c: c["data"].update(split_hash="0" * 64),
    "has no code hash": lambda c: c.update(code_hash=""),
    "has types in capitals": lambda c: c.update(types=[label.upper() for label in TYPE_LABELS]),
    "has types in other letters": lambda c: c.update(types=[label.replace("o", "\u043e") for label in TYPE_LABELS]),
    "says that every risk of review is 0": lambda c: c["review"].update(by_type=no_risk(), threshold=0.0),
    "names its data in capitals": lambda c: c["data"].update(manifest_hash=c["data"]["manifest_hash"].upper()),
}.items():
    forged(f"card {_name}", card(_change) if _change else perfect_card)


for _name, _text in {
    "card is no JSON": b"{",
    "card is nested too deep": b'{"a":' * 100_000,
    "card is not UTF-8": b"\xff\xfe{}",
    "card is a list": b"[]",
}.items():
    swapped(_name, lambda package, scene, text=_text: (package / "card.json").write_bytes(text))  # type: ignore[misc]


@attack
def forged_review_of_a_good_model(scene: Scene) -> None:
    """Everything is answered, and the card says that nothing is answered wrongly; the model is good else."""
    change = card(lambda c: c["review"].update(by_type=no_risk(), threshold=0.0))
    change(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)
    scene.arguments["settings"] = SETTINGS.model_copy(update={"margin": 1.0})
    scene.arguments["force"] = "the metrics do not matter"


# The stored answers and the split.


def tables(
    change: Callable[[pd.DataFrame, pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]], *, card_too: bool = True
) -> Callable[[Path], None]:
    """A change of the answers and the split; the card then says what the answers give, or that all is right."""

    def edit(package: Path) -> None:
        paths = package / "test_predictions.csv", package / "split.csv"
        answers, split = change(*(pd.read_csv(path, dtype={"sha256": str}) for path in paths))
        answers.to_csv(paths[0], index=False)
        split.to_csv(paths[1], index=False)
        if card_too:
            perfect_card(package)

    return edit


def _right(answers: pd.DataFrame) -> "pd.Series[bool]":
    return answers[list(COLUMNS)].to_numpy().argmax(axis=1) == answers["type"].map(TYPE_LABELS.index)


def _sure(answers: pd.DataFrame, types: "pd.Series[str]") -> pd.DataFrame:
    """Answers that give these types with certainty."""
    certain = np.eye(4)[types.map(TYPE_LABELS.index)]
    return answers.assign(**dict(zip(COLUMNS, certain.T, strict=True)))


def _moved(answers: pd.DataFrame, split: pd.DataFrame, chosen: Any, part: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The chosen test crops belong to another part, and have no answer."""
    gone = answers["sha256"][chosen]
    return answers[~chosen], split.assign(split=split["split"].mask(split["sha256"].isin(gone), part))


def _made_up(count: int) -> pd.DataFrame:
    names = [f"{index:064x}" for index in range(count)]
    types = pd.Series([TYPE_LABELS[index % 4] for index in range(count)])
    return _sure(pd.DataFrame({"sha256": names, "type": types}), types)


def _with_made_up(answers: pd.DataFrame, split: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = _made_up(400)
    more = pd.DataFrame({"sha256": rows["sha256"], "split": "test", "case": ""})
    return pd.concat([answers, rows]), pd.concat([split, more])


def _training_crops_tested(answers: pd.DataFrame, split: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    trained = split.loc[split["split"] == "train", "sha256"]
    types = trained.map(project_crops().types)
    answered = _sure(pd.DataFrame({"sha256": trained, "type": types}), types)
    return answered, split.assign(split=split["split"].map({"train": "test", "test": "train"}))


def _nan_where_wrong(answers: pd.DataFrame, split: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    answers.loc[~_right(answers), list(COLUMNS)] = np.nan
    return answers, split


def _forgotten_where_wrong(answers: pd.DataFrame, split: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    right = _right(answers)
    return answers[right], split[~split["sha256"].isin(answers["sha256"][~right])]


def _only_made_up(answers: pd.DataFrame, split: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return _with_made_up(answers[:0], split[split["split"] != "test"])


def _types_as_answered(answers: pd.DataFrame, split: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    best = answers[list(COLUMNS)].to_numpy().argmax(axis=1)
    return answers.assign(type=[TYPE_LABELS[index] for index in best]), split


def _negative(answers: pd.DataFrame, split: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return answers.assign(**dict(zip(COLUMNS, (-1.0, 2.0, 0.0, 0.0), strict=True))), split


def _column_twice(answers: pd.DataFrame, split: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Which of both is read depends on the reader."""
    return pd.concat([_sure(answers, answers["type"]), answers[list(COLUMNS)]], axis=1), split


for _name, _tables in {
    "are all right": lambda a, s: (_sure(a, a["type"]), s),
    "are NaN": lambda a, s: (a.assign(**dict.fromkeys(COLUMNS, np.nan)), s),
    "are NaN where they are wrong": _nan_where_wrong,
    "are left out where they are wrong": lambda a, s: (a[_right(a)], s),
    "are the only test crops where they are right": lambda a, s: _moved(a, s, ~_right(a), "train"),
    "are in validation where they are wrong": lambda a, s: _moved(a, s, ~_right(a), "validation"),
    "are forgotten by the split where they are wrong": _forgotten_where_wrong,
    "are none, as all crops trained": lambda a, s: _moved(a, s, a["type"].notna(), "train"),
    "are of the training crops": _training_crops_tested,
    "are more, of crops nobody has": _with_made_up,
    "are only of crops nobody has": _only_made_up,
    "are counted ten times where they are right": lambda a, s: (pd.concat([a, *[a[_right(a)]] * 9]), s),
    "define the types": _types_as_answered,
    "have every type at once": lambda a, s: (pd.concat([a, *(a.assign(type=label) for label in TYPE_LABELS)]), s),
    "have an unknown type": lambda a, s: (a.assign(type="other"), s),
    "sum to 4": lambda a, s: (a.assign(**dict.fromkeys(COLUMNS, 1.0)), s),
    "are negative": _negative,
    "are words": lambda a, s: (a.assign(p_instance="high"), s),
    "have no rows": lambda a, s: (a[:0], s),
    "lack a column": lambda a, s: (a.drop(columns="p_touching"), s),
    "come with a split in unknown parts": lambda a, s: (_sure(a, a["type"]), s.assign(split="other")),
    "come with crops in two parts": lambda a, s: (_sure(a, a["type"]), pd.concat([s, s.assign(split="train")])),
    "come with a split without rows": lambda a, s: (_sure(a, a["type"]), s[:0]),
    "have a type with a space behind it": lambda a, s: (_sure(a, a["type"]).assign(type=a["type"] + " "), s),
    "have types in capitals": lambda a, s: (_sure(a, a["type"]).assign(type=a["type"].str.title()), s),
    "have hashes in capitals": lambda a, s: (_sure(a, a["type"]).assign(sha256=a["sha256"].str.upper()), s),
    "have hashes with an invisible letter": lambda a, s: (
        _sure(a, a["type"]).assign(sha256=a["sha256"] + "\u200b"),
        s.assign(sha256=s["sha256"] + "\u200b"),
    ),
    "are right in rows put beside": lambda a, s: (pd.concat([_sure(a, a["type"]), a]), s),
    "are inf": lambda a, s: (a.assign(p_instance=np.inf), s),
    "have a column twice": _column_twice,
    "are right where the same rows of the split are twice": lambda a, s: (_sure(a, a["type"]), pd.concat([s, s])),
    "come with a split whose parts have spaces": lambda a, s: (_sure(a, a["type"]), s.assign(split=s["split"] + " ")),
    "come with a split whose parts are in capitals": lambda a, s: (a, s.assign(split=s["split"].str.upper())),
    "come with a split that is NaN": lambda a, s: (_sure(a, a["type"]), s.assign(split=np.nan)),
    "come with a split where all are test crops": lambda a, s: (_sure(a, a["type"]), s.assign(split="test")),
    "come with a split of other crops too": lambda a, s: (a, pd.concat([s, s.tail(1).assign(sha256="f" * 64)])),
}.items():
    forged(f"answers {_name}", tables(_tables))


@attack
def answers_are_missing(scene: Scene) -> None:
    """No stored answer, and no line for it in the list of hashes."""
    (scene.worse / "test_predictions.csv").unlink()
    perfect_card(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)


@attack
def split_is_missing(scene: Scene) -> None:
    """No split."""
    (scene.worse / "split.csv").unlink()
    write_checksums(scene.worse)
    scene.register(scene.worse)


# The graph.


def graph(
    bias: list[float],
    *,
    size: int = SIZE,
    kind: int = TensorProto.UINT8,
    dark: float = 0.0,
    random: bool = False,
    elsewhere: str = "",
) -> bytes:
    """An ONNX graph that answers the same for every crop.

    With ``dark`` it answers NaN for crops less dark than that, with ``random`` another type each time, and with
    ``elsewhere`` it looks for the answer in another file.
    """
    shape = ["N", 1, size, size]
    nodes = [
        helper.make_node("Cast", ["image"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["grey", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Sub", ["limit", "column"], ["below"]),
        helper.make_node("Sqrt", ["below"], ["root"]),
        helper.make_node("Mul", ["root", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "bias"], ["probabilities" if not random else "even"]),
    ]
    if random:
        nodes.append(helper.make_node("RandomUniformLike", ["even"], ["noise"], high=20.0))
        nodes.append(helper.make_node("Softmax", ["noise"], ["probabilities"]))
    constants = {
        "axes": np.array([1, 2, 3], dtype=np.int64),
        "last": np.array([1], dtype=np.int64),
        "limit": np.array([255.0 * (1 - dark) if dark else 1e9], dtype=np.float32),
        "zero": np.zeros(1, dtype=np.float32),
        "bias": np.array([bias], dtype=np.float32),
    }
    made = helper.make_graph(
        nodes,
        "forged",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(bias)])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    if elsewhere:
        answer = made.initializer[-1]
        set_external_data(answer, elsewhere, length=4 * len(bias))
        answer.ClearField("raw_data")
    content: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return content


def other_graph(content: bytes) -> Callable[[Path], None]:
    """Another graph under a perfect card and perfect answers."""

    def edit(package: Path) -> None:
        tables(lambda a, s: (_sure(a, a["type"]), s))(package)
        (package / "model.onnx").write_bytes(content)

    return edit


for _name, _content in {
    "answers NaN": graph([float("nan")] * 4),
    "answers NaN for some": graph([1.0, 0.0, 0.0, 0.0], dark=0.2),
    "answers inf": graph([float("inf")] * 4),
    "answers zeros": graph([0.0] * 4),
    "answers negative numbers": graph([2.0, -1.0, 0.0, 0.0]),
    "is sure of one type": graph([1.0, 0.0, 0.0, 0.0]),
    "is undecided": graph([0.25] * 4),
    "answers three types": graph([1.0, 0.0, 0.0]),
    "answers five types": graph([1.0, 0.0, 0.0, 0.0, 0.0]),
    "takes other squares": graph([0.25] * 4, size=64),
    "takes floats": graph([0.25] * 4, kind=TensorProto.FLOAT),
    "is no graph": b"graph",
    "is empty": b"",
    "is cut off": graph([0.25] * 4)[:-40],
    "answers at random": graph([0.25] * 4, random=True),
    "takes its numbers from another file": graph([0.25] * 4, elsewhere="numbers.bin"),
    "takes its numbers from outside the package": graph([0.25] * 4, elsewhere="../../../numbers.bin"),
    "takes its numbers from a file of the system": graph([0.25] * 4, elsewhere="/etc/hostname"),
}.items():
    forged(f"graph {_name}", other_graph(_content))


for _name, _bytes in {"is no archive": b"PK", "is a pickle": pickle.dumps([1])}.items():
    forged(f"novelty.npz {_name}", lambda package, found=_bytes: (package / "novelty.npz").write_bytes(found))  # type: ignore[misc]


@attack
def graph_is_missing(scene: Scene) -> None:
    """The registered version has lost its graph."""
    (scene.files(2) / "model.onnx").unlink()


# Files changed after registration.


def _worse_file(name: str) -> Callable[[Path, Scene], None]:
    def change(package: Path, scene: Scene) -> None:
        shutil.copy(scene.worse / name, package / name)

    return change


for _file in ("model.onnx", "card.json", "test_predictions.csv", "weights.safetensors"):
    swapped(f"{_file} changed after registration", _worse_file(_file))


def _every_file(package: Path, scene: Scene) -> None:
    shutil.copytree(scene.worse, package, dirs_exist_ok=True)


def _metadata_too(package: Path, scene: Scene) -> None:
    _every_file(package, scene)
    _edit(package.parents[1] / "MLmodel", "supcam.content:", "other:")


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} holds no {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def _code(package: Path, scene: Scene) -> None:
    _edit(next((package.parents[1] / "code").rglob("engine.py")), "argmax", "argmin")


def _module_beside(package: Path, scene: Scene) -> None:
    (package.parents[1] / "code" / "PIL.py").write_text("", encoding="utf-8")


def _loader(package: Path, scene: Scene) -> None:
    _edit(package.parents[1] / "MLmodel", "serving.served", "serving.other")


def _requirements(package: Path, scene: Scene) -> None:
    _edit(package.parents[1] / "requirements.txt", "pillow", "pillov")


def _validated_instead(package: Path, scene: Scene) -> None:
    _edit(package / "split.csv", ",train,", ",validation,")


def _beside_the_code(name: str) -> Callable[[Path, Scene], None]:
    def add(package: Path, scene: Scene) -> None:
        library = next((package.parents[1] / "code").iterdir())
        (library / name).write_bytes(b"\x7fELF")

    return add


def _in_text(name: str, old: str, new: str) -> Callable[[Path, Scene], None]:
    return lambda package, scene: _edit(package.parents[1] / name, old, new)


def _other_flavour(package: Path, scene: Scene) -> None:
    _edit(package.parents[1] / "MLmodel", "flavors:", "flavors:\n  sklearn:\n    pickled_model: model.pkl")


def _linked(package: Path, scene: Scene) -> None:
    (package / "model.onnx").unlink()
    (package / "model.onnx").symlink_to(scene.worse / "model.onnx")


def _package_linked(package: Path, scene: Scene) -> None:
    shutil.rmtree(package)
    package.symlink_to(scene.worse, target_is_directory=True)


def _moved_up(package: Path, scene: Scene) -> None:
    """The files of the worse model lie where those of a network without code would."""
    shutil.copytree(scene.worse, package.parents[1], dirs_exist_ok=True)
    shutil.rmtree(package.parent)


for _name, _swap in {
    "another flavour": _other_flavour,
    "another conda environment": _in_text("conda.yaml", "pillow", "pillov"),
    "another conda channel": _in_text("conda.yaml", "conda-forge", "forge-conda"),
    "another Python environment": _in_text("python_env.yaml", "-r requirements.txt", "-r requirement.txt"),
    "another tool of installation": _in_text("python_env.yaml", "- wheel", "- whee1"),
    "MLmodel nested too deep": lambda package, scene: (package.parents[1] / "MLmodel").write_text("[" * 20_000),
    "a compiled module beside the engine": _beside_the_code("serving/engine.so"),
    "a search path beside the code": _beside_the_code("more.pth"),
    "the graph as a link to another": _linked,
}.items():
    swapped(_name, _swap)
for _name, _swap in {
    "a file that no list names": lambda package, scene: (package / "numbers.bin").write_bytes(b"1"),
    "a hidden file that no list names": lambda package, scene: (package / ".numbers").write_bytes(b"1"),
    "a folder that no list names": lambda package, scene: (package / "numbers").mkdir(),
    "the package as a link to another": _package_linked,
    "the files moved where no code is": _moved_up,
}.items():
    ATTACKS[_name] = lambda scene, swap=_swap: swap(scene.files(scene.register(scene.good)), scene)  # type: ignore[misc]

for _name, _swap in {
    "split.csv changed after registration": _validated_instead,
    "every file changed after registration": _every_file,
    "every file and MLmodel changed after registration": _metadata_too,
    "the code changed after registration": _code,
    "a module put beside the code": _module_beside,
    "another loader": _loader,
    "other requirements": _requirements,
}.items():
    swapped(_name, _swap)


@attack
def list_of_hashes_is_missing(scene: Scene) -> None:
    """Nothing to check the files with."""
    package = scene.files(scene.register(scene.good))
    shutil.copy(scene.worse / "model.onnx", package)
    (package / "SHA256SUMS").unlink()


def listed(name: str, change: Callable[[list[str]], list[str]]) -> None:
    """Add a way: the graph of a good model is swapped, and the list of hashes is written in a way of its own."""

    def way(scene: Scene) -> None:
        package = scene.files(scene.register(scene.good))
        before = (package / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        shutil.copy(scene.worse / "model.onnx", package)
        write_checksums(package)
        after = (package / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        lines = change(before) if name.endswith("as before") else [*change(before), *after]
        (package / "SHA256SUMS").write_text("\n".join(lines), encoding="utf-8")

    ATTACKS[f"list of hashes {name}"] = way


listed("names every file twice", lambda lines: lines)
listed("is as before", lambda lines: lines)
listed("in capitals as before", lambda lines: [line.upper() for line in lines])
listed("of names in capitals, and as it is", lambda lines: [line.replace("model", "MODEL") for line in lines])
listed("of a folder above, and as it is", lambda lines: [line.replace("  ", "  ../package/") for line in lines])
listed("without hashes as before", lambda lines: [line[64:] for line in lines])


@attack
def list_of_hashes_is_a_pipe(scene: Scene) -> None:
    """Whoever opens it waits."""
    package = scene.files(scene.register(scene.good))
    (package / "SHA256SUMS").unlink()
    os.mkfifo(package / "SHA256SUMS")


def _numbers_in_a_file(package: Path) -> None:
    """The same graph with its numbers in a file of their own."""
    graph_of_it = onnx.load(package / "model.onnx")
    (package / "model.onnx").unlink()
    onnx.save_model(
        graph_of_it, package / "model.onnx", save_as_external_data=True, location="numbers.bin", size_threshold=0
    )
    write_checksums(package)


@attack
def numbers_of_the_graph_are_in_no_list(scene: Scene) -> None:
    """What a good graph answers could be exchanged at any time."""
    _numbers_in_a_file(scene.good)
    lines = (scene.good / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if "numbers.bin" not in line]
    assert len(kept) < len(lines)
    (scene.good / "SHA256SUMS").write_text("\n".join(kept), encoding="utf-8")
    scene.register(scene.good)


@attack
def numbers_of_the_graph_changed_after_registration(scene: Scene) -> None:
    """The good graph itself stays as it is."""
    _numbers_in_a_file(scene.good)
    package = scene.files(scene.register(scene.good))
    numbers = bytearray((package / "numbers.bin").read_bytes())
    numbers[:16] = np.zeros(4, dtype=np.float32).tobytes()
    (package / "numbers.bin").write_bytes(numbers)
    write_checksums(package)


@attack
def numbers_of_the_graph_are_cut_off(scene: Scene) -> None:
    """Half of them."""
    (scene.worse / "model.onnx").write_bytes(graph([0.25] * 4, elsewhere="numbers.bin"))
    (scene.worse / "numbers.bin").write_bytes(b"\0" * 8)
    write_checksums(scene.worse)
    scene.register(scene.worse)


@attack
def files_change_back_and_forth(scene: Scene) -> None:
    """The worse model is judged by the graph of the good one, which is put there while it is judged."""
    package = scene.files(2)
    shutil.copy(scene.good / "model.onnx", package)
    write_checksums(package)
    scene.arguments["during"] = lambda: _every_file(package, scene)


@attack
def the_hash_changes_with_the_files_while_they_are_judged(scene: Scene) -> None:
    """The tag names the files that lie there at the end."""
    number = scene.register(scene.good)
    package, tags = scene.files(number), scene.registry.version(2).tags

    def change() -> None:
        _every_file(package, scene)
        scene.set_tag(number, Tag.CONTENT, tags[Tag.CONTENT])

    scene.arguments["during"] = change


@attack
def the_lock_is_deleted_while_it_is_held(scene: Scene) -> None:
    """Whoever has lost the lock moves nothing, be the model good or not."""
    scene.register(scene.good)
    scene.arguments["during"] = lambda: scene.registry.client.delete_registered_model("supcam.promotion-lock")


@attack
def another_promotion_while_one_is_judged(scene: Scene) -> None:
    """The second one is forced."""
    scene.arguments["during"] = lambda: go(scene.registry.uri, candidate=2, force="at the same time")


@attack
def list_of_hashes_leaves_out_the_graph(scene: Scene) -> None:
    """A swapped graph that no line names."""
    package = scene.files(scene.register(scene.good))
    shutil.copy(scene.worse / "model.onnx", package)
    lines = (package / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    (package / "SHA256SUMS").write_text("\n".join(line for line in lines if "model.onnx" not in line), encoding="utf-8")


@attack
def files_change_while_they_are_judged(scene: Scene) -> None:
    """A good model passes every rule; its files are another's before the alias moves."""
    package = scene.files(scene.register(scene.good))
    scene.arguments["during"] = lambda: _every_file(package, scene)


# The crops of the project.


@attack
def crops_are_deleted(scene: Scene) -> None:
    """Only the stored answers are left, and they are perfect."""
    tables(lambda a, s: (_sure(a, a["type"]), s))(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)
    shutil.rmtree(scene.crops.root)


@attack
def crops_are_deleted_where_the_answers_are_wrong(scene: Scene) -> None:
    """What cannot be run again is right as stored."""
    answers = pd.read_csv(scene.worse / "test_predictions.csv")
    for digest in answers["sha256"][~_right(answers)]:
        scene.crops.paths[digest].unlink()
    tables(lambda a, s: (_sure(a, a["type"]).where(~_right(a), a), s))(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)


@attack
def no_project(scene: Scene) -> None:
    """No manifest and no crops at all."""
    tables(lambda a, s: (_sure(a, a["type"]), s))(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)
    scene.arguments["crops"] = None


@attack
def no_split_in_the_project(scene: Scene) -> None:
    """The split cannot be compared, and the package calls its mistakes training crops."""
    tables(lambda a, s: _moved(a, s, ~_right(a), "train"))(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)
    scene.arguments["crops"] = ProjectCrops(scene.crops.manifest.drop(columns="split"), scene.crops.root)


@attack
def crops_are_pipes(scene: Scene) -> None:
    """Whoever opens them waits; the stored answers are perfect."""
    tables(lambda a, s: (_sure(a, a["type"]), s))(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)
    for path in scene.crops.paths.values():
        path.unlink()
        os.mkfifo(path)


@attack
def crops_are_links_to_others(scene: Scene) -> None:
    """Each name leads to the same picture."""
    first, *others = scene.crops.paths.values()
    for path in others:
        path.unlink()
        path.symlink_to(first)
    tables(lambda a, s: (_sure(a, a["type"]), s))(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)


@attack
def crops_are_replaced(scene: Scene) -> None:
    """Other pictures, which the worse model gets right, under the names of test crops."""
    answers = pd.read_csv(scene.worse / "test_predictions.csv")
    for label in TYPE_LABELS:
        rows = answers[answers["type"] == label]
        right = rows["sha256"][_right(rows)]
        for digest in rows["sha256"][~_right(rows)]:
            shutil.copy(scene.crops.paths[right.iloc[0]], scene.crops.paths[digest])
    tables(lambda a, s: (_sure(a, a["type"]), s))(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)


# The registry.


@attack
def nothing_is_forged(scene: Scene) -> None:
    """The worse model as it is."""


@attack
def production_alias_is_deleted(scene: Scene) -> None:
    """Compared with nothing, it would be the first."""
    scene.registry.client.delete_registered_model_alias("supcam", PRODUCTION)


@attack
def production_version_is_deleted(scene: Scene) -> None:
    """The version and its alias are gone."""
    scene.registry.client.delete_model_version("supcam", "1")


@attack
def production_files_are_deleted(scene: Scene) -> None:
    """The version is there, its files are not."""
    shutil.rmtree(scene.files(1).parents[1])


@attack
def production_graph_is_damaged(scene: Scene) -> None:
    """Production answers nothing any more."""
    (scene.files(1) / "model.onnx").write_bytes(b"damaged")


@attack
def production_is_made_worse(scene: Scene) -> None:
    """Production's graph answers one type only, with consistent hashes."""
    package = scene.files(1)
    (package / "model.onnx").write_bytes(graph([1.0, 0.0, 0.0, 0.0]))
    write_checksums(package)


@attack
def production_answers_are_made_worse(scene: Scene) -> None:
    """Production's stored answers are wrong, and its crops are gone."""
    package = scene.files(1)
    tables(lambda a, s: (_sure(a, pd.Series("instance", index=a.index)), s), card_too=False)(package)
    write_checksums(package)
    shutil.rmtree(scene.crops.root)


@attack
def production_has_lost_its_hash(scene: Scene) -> None:
    """The tag that names its content was deleted, and its graph exchanged."""
    package = scene.files(1)
    scene.registry.client.delete_model_version_tag("supcam", "1", Tag.CONTENT)
    (package / "model.onnx").write_bytes(graph([1.0, 0.0, 0.0, 0.0]))
    write_checksums(package)


@attack
def record_is_deleted(scene: Scene) -> None:
    """No alias, no event: the registry looks as if nothing was ever promoted."""
    scene.registry.client.delete_registered_model_alias("supcam", PRODUCTION)
    for key in scene.registry.client.get_registered_model("supcam").tags:
        scene.registry.client.delete_registered_model_tag("supcam", key)


@attack
def record_is_damaged(scene: Scene) -> None:
    """No alias, and events that cannot be read."""
    scene.registry.client.delete_registered_model_alias("supcam", PRODUCTION)
    for key in scene.registry.client.get_registered_model("supcam").tags:
        scene.registry.client.set_registered_model_tag("supcam", key, '{"number": "x"')


@attack
def candidate_has_lost_its_hash(scene: Scene) -> None:
    """Nothing to compare its files with."""
    scene.registry.client.delete_model_version_tag("supcam", "2", Tag.CONTENT)


@attack
def candidate_has_the_hash_of_production(scene: Scene) -> None:
    """As if it were the same model."""
    scene.set_tag(2, Tag.CONTENT, scene.registry.version(1).tags[Tag.CONTENT])


@attack
def candidate_has_the_hash_of_lost_production(scene: Scene) -> None:
    """As if it were the model whose files are gone."""
    production_files_are_deleted(scene)
    candidate_has_the_hash_of_production(scene)


@attack
def candidate_was_registered_by_an_earlier_version(scene: Scene) -> None:
    """Its hash leaves out card and answers, which are perfect."""
    from supcam.registry.card import content_hash_of_earlier_versions
    from supcam.serving.engine import verify_package

    package = scene.files(2)
    tables(lambda a, s: (_sure(a, a["type"]), s))(package)
    write_checksums(package)
    shipped = scene.registry.version(2).tags[Tag.SHIPPED]
    found = content_hash_of_earlier_versions(load_card(package), verify_package(package), shipped)
    scene.set_tag(2, Tag.CONTENT, found)


def _validated(name: str, text: str | None) -> None:
    def way(scene: Scene) -> None:
        package = with_card(scene.good, scene.good.parent / "fresh", make_card(code="code-9"))
        number = scene.register(package, validation=None)
        if text is not None:
            scene.set_tag(number, Tag.VALIDATION, text)

    ATTACKS[name] = way


_validated("no data validation", None)
_validated("data validation failed", json.dumps({"passed": False, "manifest_hash": DATA}))
_validated("data validation of other data", json.dumps({"passed": True, "manifest_hash": "0"}))
_validated("data validation says yes", json.dumps({"passed": "yes", "manifest_hash": DATA}))
_validated("data validation says no as a word", json.dumps({"passed": "false", "manifest_hash": DATA}))
_validated("data validation is damaged", '{"passed": tr')
_validated("data validation says 1", json.dumps({"passed": 1, "manifest_hash": DATA}))
_validated("data validation of no data", json.dumps({"passed": True, "manifest_hash": None}))
_validated("data validation is a list", json.dumps([True, DATA]))
_validated("data validation is nested deep", "[" * 4000)


@attack
def a_move_is_announced_by_hand(scene: Scene) -> None:
    """As if a promotion of version 2 had been interrupted."""
    event = {"number": 2, "action": "promoted", "version": 2, "from": 1, "reason": "", "when": "now", "who": "x"}
    scene.registry.client.set_registered_model_tag("supcam", PENDING_TAG, as_text({"to": 2, "from": 1, "event": event}))


@attack
def an_announced_move_is_damaged(scene: Scene) -> None:
    """A tag of a move that says nothing."""
    scene.registry.client.set_registered_model_tag("supcam", PENDING_TAG, '{"to": 2}')


@attack
def an_announced_move_is_nested_deep(scene: Scene) -> None:
    """A tag that no reader can follow."""
    scene.registry.client.set_registered_model_tag("supcam", PENDING_TAG, "[" * 4000)


@attack
def a_promotion_is_recorded_by_hand(scene: Scene) -> None:
    """As if version 2 had been in production, and a rollback follows."""
    event = {"number": 2, "action": "promoted", "version": 2, "from": 1, "reason": "", "when": "now", "who": "x"}
    scene.registry.client.set_registered_model_tag("supcam", "supcam.event.000002", as_text(event))
    history.rollback(scene.registry)


@attack
def previous_is_set_by_hand(scene: Scene) -> None:
    """The alias names version 2, and a rollback follows."""
    scene.registry.client.set_registered_model_alias("supcam", "previous", "2")
    history.rollback(scene.registry)


@attack
def previous_is_set_by_hand_and_production_deleted(scene: Scene) -> None:
    """No alias production, no record, and a rollback follows."""
    record_is_deleted(scene)
    scene.registry.client.set_registered_model_alias("supcam", "previous", "2")
    history.rollback(scene.registry)


@attack
def the_code_of_the_candidate_has_lost_its_hash(scene: Scene) -> None:
    """As if no code travelled with it."""
    package = scene.files(scene.register(scene.good))
    number = scene.registry.aliases()["candidate"]
    scene.set_tag(number, Tag.SHIPPED, "")
    scene.set_tag(number, Tag.CONTENT, content_hash(package))
    _code(package, scene)


@attack
def the_hash_is_in_capitals(scene: Scene) -> None:
    """The tag of the version."""
    scene.set_tag(2, Tag.CONTENT, scene.registry.version(2).tags[Tag.CONTENT].upper())


@attack
def the_logged_model_is_that_of_production(scene: Scene) -> None:
    """Registering version 2 again would write its files over those of production."""
    scene.set_tag(2, Tag.LOGGED, scene.registry.version(1).tags[Tag.LOGGED])
    (scene.files(2) / "model.onnx").write_bytes(b"damaged")
    scene.register(scene.worse)


def _made_by_hand(name: str, source: Callable[[Scene], str]) -> None:
    def way(scene: Scene) -> None:
        tags = scene.registry.version(scene.register(scene.good)).tags
        kept = {key: value for key, value in tags.items() if key not in (Tag.LOGGED,)}
        made = scene.registry.client.create_model_version("supcam", source(scene), tags=kept)
        scene.arguments["candidate"] = int(made.version)

    ATTACKS[f"a version made by hand {name}"] = way


_made_by_hand("of the files of another", lambda scene: scene.files(2).parents[1].as_uri())
_made_by_hand("of a bare package", lambda scene: scene.worse.as_uri())
_made_by_hand("of nothing", lambda scene: (scene.worse / "nothing").as_uri())

for _name in ("\u00b2", "-1", "0", "9" * 30, "", "2 ", "\u0662", "candid\u0430te"):

    def _named(scene: Scene, name: str = _name) -> None:
        scene.register(scene.good)
        scene.arguments["candidate"] = name

    ATTACKS[f"candidate named {_name!a}"] = _named


@attack
def validation_metric_is_damaged(scene: Scene) -> None:
    """The best candidate by a metric that is no number."""
    for number, value in ((1, "high"), (2, "nan")):
        scene.set_tag(number, f"{Tag.METRIC}macro_sensitivity", value)
    scene.arguments["candidate"] = best_candidate(scene.registry, "macro_sensitivity", data_hash=DATA).number


@attack
def the_lock_of_a_living_process(scene: Scene) -> None:
    """It has been held for longer than a holder elsewhere may be silent."""
    lock = scene.registry.lock()
    lock.__enter__()
    tags = scene.registry.client.get_registered_model("supcam.promotion-lock").tags
    held = {**json.loads(tags["supcam.holder"]), "since": time.time() - 10_000}
    scene.registry.client.set_registered_model_tag("supcam.promotion-lock", "supcam.holder", json.dumps(held))
    scene.arguments["after"] = lambda: lock.__exit__(None, None, None)


@attack
def force_against_a_lie(scene: Scene) -> None:
    """A reason does not make the card true."""
    perfect_card(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)
    scene.arguments["force"] = "urgent"


@attack
def force_without_a_reason(scene: Scene) -> None:
    """Blanks."""
    scene.arguments["force"] = " \t"


def forced(name: str, change: Callable[[Path, Scene], None]) -> None:
    """Add a way: files change after registration, and a reason is given."""

    def way(scene: Scene) -> None:
        change(scene.files(2), scene)
        scene.arguments["force"] = "urgent"

    ATTACKS[f"force against {name}"] = way


forced("a file that no list names", lambda package, scene: (package / "numbers.bin").write_bytes(b"1"))
forced("a graph of NaN", lambda package, scene: (package / "model.onnx").write_bytes(graph([float("nan")] * 4)))
forced("code that changed", _code)
forced("no answers", lambda package, scene: (package / "test_predictions.csv").unlink())


@attack
def what_was_rolled_back_comes_again(scene: Scene) -> None:
    """A rollback took version 2 out."""
    go(scene.registry.uri, candidate=2, force="a try")
    history.rollback(scene.registry, "misses crossings")


@attack
def what_was_rolled_back_comes_by_a_second_rollback(scene: Scene) -> None:
    """The alias previous names the withdrawn version."""
    what_was_rolled_back_comes_again(scene)
    history.rollback(scene.registry)


@attack
def a_version_that_never_served_by_a_rollback(scene: Scene) -> None:
    """Past the gate."""
    history.rollback(scene.registry, to=2)


@attack
def floors_count_what_was_answered(scene: Scene) -> None:
    """The first model of a registry, with floors above what it reaches, and a card that says otherwise."""
    scene.registry.client.delete_registered_model("supcam")
    perfect_card(scene.worse)
    write_checksums(scene.worse)
    scene.register(scene.worse)
    scene.arguments["settings"] = SETTINGS.model_copy(update={"min_sensitivity": 0.95})


def prepare(folder: Path) -> None:
    """The registry and the packages that every attack starts from, below ``folder``."""
    uri = f"sqlite:///{folder / 'project' / 'mlflow.db'}"
    (folder / "project").mkdir(parents=True)
    client = open_client(uri, create=True)
    location = (folder / "project" / "mlartifacts").as_uri()
    experiment = client.create_experiment("supcam", artifact_location=location)
    for name, seed, shift in (("good", 1, 0.0), ("worse", 2, 0.4)):
        exported = export(folder / f"{name} exported", seed, shift)
        with_card(exported, folder / "project" / name, make_card(code=f"code-{seed}"))
        run = client.create_run(experiment).info.run_id
        register_candidate(folder / "project" / name, run_id=run, tracking_uri=uri, validation=PASSED)
    assert go(uri, candidate=1).outcome == "promoted"
    with_card(folder / "good exported", folder / "project" / "better", make_card(code="code-3"))


def copied(base: Path, folder: Path) -> Path:
    """A copy of the project, of which this process knows no other places."""
    # MLflow keeps where the artifacts of a run or model lie; each copy has the same runs and models.
    utils._artifact_repos_cache.clear()
    return Path(shutil.copytree(base / "project", folder / "project"))


def attempt(name: str, base: Path, folder: Path) -> str:
    """Try one way in a copy of the project; returns what became of it.

    Raises:
        AssertionError: when production is not version 1 any more, or an error is not one that a user can read.
    """
    project = copied(base, folder)
    data = Path(shutil.copytree(project_crops().root, folder / "data"))
    registry = Registry(f"sqlite:///{project / 'mlflow.db'}")
    crops = ProjectCrops(project_crops().manifest, data)
    scene = Scene(registry, project / "worse", project / "better", crops, {"crops": crops})
    try:
        ATTACKS[name](scene)
        during, after = scene.arguments.pop("during", None), scene.arguments.pop("after", None)
        with mock.patch.object(promotion, "latency_ms", _then(promotion.latency_ms, during)):
            decision = go(registry.uri, **scene.arguments)
            said = f"{decision.outcome}: {decision.reason}"
        if after:
            after()
    except SupcamError as error:
        said = f"{type(error).__name__}: {error}"
        assert "\n" not in said, said
    aliases = registry.aliases()
    assert aliases.get(PRODUCTION) in (None, 1), f"{name}: version {aliases[PRODUCTION]} is in production ({said})"
    assert not said.startswith("promoted"), f"{name}: {said}"
    return said


def _then(measure: Callable[[Path], float], during: Callable[[], None] | None) -> Callable[[Path], float]:
    """The measurement, and what happens meanwhile."""

    def both(package: Path) -> float:
        found = measure(package)
        if during is not None:
            during()
        return found

    return both


def control(base: Path, folder: Path) -> None:
    """Assert that the gate promotes the good model that the attacks change: their refusals mean something."""
    project = copied(base, folder)
    registry = Registry(f"sqlite:///{project / 'mlflow.db'}")
    number = Scene(registry, project / "worse", project / "better", project_crops(), {}).register(project / "better")
    decision = go(registry.uri)
    assert (decision.outcome, registry.aliases()[PRODUCTION]) == ("promoted", number), decision.reason


def main() -> int:
    """Try every way; prints how many there are and which succeeded."""
    failures: list[str] = []
    with TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        prepare(base)
        control(base, Path(scratch) / "control")
        for number, name in enumerate(ATTACKS):
            try:
                said = attempt(name, base, Path(scratch) / str(number))
            except Exception as error:  # every way is tried, and all that is unforeseen is a failure
                failures.append(f"{name}: {type(error).__name__}: {error}"[:300])
                said = f"FAILED: {failures[-1]}"
            if "-v" in sys.argv:
                print(f"{name}: {said[:250]}", file=sys.stderr, flush=True)
    promoted = sum("in production" in one or "promoted" in one for one in failures)
    print(json.dumps({"cases": len(ATTACKS), "promoted": promoted, "failures": failures}))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
