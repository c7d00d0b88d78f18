"""Packaging and registering: same bytes, no pickle, no second version, loads where nothing of ours is installed."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file

from supcam.errors import GateRefused, UsageError
from supcam.registry import registration
from supcam.registry.card import ReviewCard, load_card
from supcam.registry.client import load_production
from supcam.registry.comparison import shared_rows
from supcam.registry.package import WEIGHTS_FILE, package_model, read_split, write_checksums
from supcam.registry.registration import register_candidate, save_served, shipped_code
from supcam.registry.store import Registry
from supcam.serving.engine import ANSWER_COLUMNS, Engine, PackageError, content_hash
from supcam.serving.images import letterbox
from tests.registry.conftest import MakePackage, SmallModel, crop_rows, drawn_crops, make_card, new_run
from tests.registry.crops import PASSED, go
from tests.support.drawing import encode
from tests.support.imports import all_imports, module_path


def test_same_model_gives_the_same_bytes(package: Path, make_package: MakePackage) -> None:
    again = make_package(again=True)
    assert {path.name: path.read_bytes() for path in package.iterdir()} == {
        path.name: path.read_bytes() for path in again.iterdir()
    }


def test_graph_holds_no_path_of_the_checkout(package: Path, project_root: Path) -> None:
    content = (package / "model.onnx").read_bytes()
    assert b"conftest" not in content
    assert str(project_root).encode() not in content
    assert b".py" not in content


def test_graph_and_weights_agree_with_torch(package: Path) -> None:
    import torch

    crops = drawn_crops(9, 5)
    module, engine = SmallModel(1), Engine(package)
    squares = np.stack([letterbox(crop, engine.size) for crop in crops])[:, np.newaxis]
    with torch.inference_mode():
        expected = module(torch.from_numpy(squares)).numpy()
    got, errors, *_ = engine.predict(list(crops))
    assert errors == [None] * 9
    assert np.abs(got - expected).max() < 1e-4
    weights = load_file(package / WEIGHTS_FILE)
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tuple(tensor.shape) for name, tensor in module.state_dict().items()
    }
    assert load_card(package).parity is not None


def test_a_graph_that_differs_is_not_packaged(tmp_path: Path) -> None:
    rows = crop_rows(4, 0)
    with pytest.raises(GateRefused, match="differs from torch"):
        package_model(
            SmallModel(1),
            make_card(),
            tmp_path / "model",
            split=rows.assign(split="test"),
            test=rows,
            canvases=drawn_crops(4, 0)[:, np.newaxis],
            tolerance=-1.0,
        )
    assert list(tmp_path.iterdir()) == []


def test_canvases_must_belong_to_the_rows(tmp_path: Path) -> None:
    rows = crop_rows(4, 0)
    with pytest.raises(UsageError, match="do not fit 4 test crops"):
        package_model(
            SmallModel(1), make_card(), tmp_path / "model", split=rows, test=rows, canvases=drawn_crops(3, 0)[:, None]
        )


@pytest.mark.parametrize("name", ["model.onnx", "card.json", "split.csv", "weights.safetensors"])
def test_a_changed_file_is_found(package: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(PackageError, match=f"{name} was changed"):
        Engine(copy)
    (copy / name).unlink()
    with pytest.raises(PackageError, match=f"lacks {name}"):
        Engine(copy)


def test_same_content_is_registered_once(
    package: Path, make_package: MakePackage, registry_uri: str, run_id: str, tmp_path: Path
) -> None:
    first = register_candidate(package, run_id=run_id, tracking_uri=registry_uri)
    other_run = new_run(registry_uri, tmp_path)
    again = register_candidate(make_package(again=True), run_id=other_run, tracking_uri=registry_uri)
    assert again.number == first.number == 1
    other_data = make_package(card=make_card(data="data-2"))
    second = register_candidate(other_data, run_id=other_run, tracking_uri=registry_uri)
    registry = Registry(registry_uri)
    assert second.number == 2
    assert registry.aliases() == {"candidate": 2}
    assert [version.number for version in registry.versions()] == [2, 1]
    register_candidate(package, run_id=other_run, tracking_uri=registry_uri)
    assert registry.aliases() == {"candidate": 1}


def test_content_is_that_of_every_file(package: Path, make_package: MakePackage) -> None:
    def content(folder: Path) -> str:
        return content_hash(folder, "code")

    folders = [package, make_package(2), make_package(card=make_card(data="other"))]
    assert len({content(folder) for folder in folders}) == 3
    review = make_card().model_copy(update={"review": ReviewCard(threshold=0.5, risk=0.1)})
    assert content(make_package(card=review)) != content(package)
    assert content(make_package()) == content(package)


def test_a_model_with_broken_shipped_code_was_never_replaced(
    package: Path, registry_uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that ships with a model was not part of its identity: corrected, it met "nothing to do"."""
    broken = {"serving/engine.py": "raise ImportError('a module is missing')\n"}
    with monkeypatch.context() as patch:
        patch.setattr(registration, "shipped_code", partial(lambda whole: {**whole, **broken}, shipped_code()))
        register_candidate(package, run_id=run_id, tracking_uri=registry_uri, validation=PASSED)
    go(registry_uri)
    for _ in range(2):
        corrected = register_candidate(package, run_id=run_id, tracking_uri=registry_uri)
        assert corrected.number == 2
    go(registry_uri, validation=PASSED)
    assert Registry(registry_uri).aliases() == {"production": 2, "previous": 1, "candidate": 2}
    registry = Registry(registry_uri)
    codes = [registry.package(registry.version(number)).parents[1] / "code" for number in (1, 2)]
    engines = [next(code.rglob("serving/engine.py")).read_text(encoding="utf-8") for code in codes]
    assert engines[0] == broken["serving/engine.py"] and "class Engine" in engines[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry_uri)
    assert load_production().origin == "supcam version 2"


def test_every_module_that_a_served_model_imports_ships_with_it(project_root: Path) -> None:
    """A module that the list did not name broke each model that was packaged, and only where supcam is missing."""
    served = project_root / "supcam/serving/served.py"
    reached = [path for name in all_imports(served) if (path := module_path(name)) and path.name != "__init__.py"]
    needed = {str(path.relative_to(project_root / "supcam")) for path in (served, *reached)}
    assert set(shipped_code()) - {"serving/__init__.py"} == needed


def test_shipped_code_names_no_module_of_supcam() -> None:
    """In the model its package has another name: an absolute import would find another supcam, or none."""
    for path, source in shipped_code().items():
        assert not re.search(r"^\s*(from|import) supcam\b", source, flags=re.MULTILINE), path


def test_two_models_of_other_code_in_one_process_use_their_own(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    code, models = shipped_code(), []
    for version, label in enumerate(("confidence", "certainty")):
        served = code["serving/engine.py"].replace('"confidence": np.where', f'"{label}": np.where')
        monkeypatch.setattr(registration, "shipped_code", partial(dict, {**code, "serving/engine.py": served}))
        models.append(mlflow.pyfunc.load_model(str(save_served(package, tmp_path / str(version)))))
    crop = encode(drawn_crops(1, 2)[0])
    names = [list(model.predict(pd.DataFrame({"image": [crop]}))) for model in models]
    assert [columns[1] for columns in names] == ["confidence", "certainty"]


def test_saving_a_model_runs_nothing_of_it(package: Path, tmp_path: Path) -> None:
    """MLflow's way of a model from code imports it when it is saved: modules stayed behind, of a deleted folder."""
    before = set(sys.modules)
    save_served(package, tmp_path / "model")
    assert not [name for name in set(sys.modules) - before if "supcam_model" in name or "code_model" in name]


def test_a_model_of_an_earlier_version_is_found(package: Path, tmp_path: Path) -> None:
    """They keep the package below artifacts/, and their split.csv has no column case."""
    inner = Path(shutil.copytree(package, tmp_path / "model" / "artifacts" / "package"))
    read_split(inner).drop(columns="case").to_csv(inner / "split.csv", index=False)
    write_checksums(inner)
    assert load_production(str(tmp_path / "model")).package == inner
    assert set(read_split(inner)["case"]) == {""}
    assert len(shared_rows(inner, package)) == 40


def test_a_package_names_cases_by_their_hash(tmp_path: Path) -> None:
    rows = crop_rows(4, 0).assign(split="test", source="clinic", case_id=["Doe, Jane", "Doe, Jane", "Roe", ""])
    package_model(
        SmallModel(1), make_card(), tmp_path / "model", split=rows, test=rows, canvases=drawn_crops(4, 0)[:, None]
    )
    written = read_split(tmp_path / "model").set_index("sha256").loc[rows["sha256"], "case"].tolist()
    assert written[0] == written[1] != written[2] and written[3] == ""
    assert "Doe" not in (tmp_path / "model" / "split.csv").read_text(encoding="utf-8")
    shared = shared_rows(tmp_path / "model", tmp_path / "model").set_index("sha256")["case"]
    assert shared[rows["sha256"]].tolist() == [*written[:3], rows["sha256"][3]]


def test_signature_names_every_column(package: Path, tmp_path: Path) -> None:
    described = yaml.safe_load((save_served(package, tmp_path / "model") / "MLmodel").read_text(encoding="utf-8"))
    columns = {side: json.loads(described["signature"][side]) for side in ("inputs", "outputs")}
    assert [(column["name"], column["type"]) for column in columns["inputs"]] == [("image", "binary")]
    assert [(column["name"], column["type"]) for column in columns["outputs"]] == [
        ("type", "string"),
        *((name, "double") for name in ANSWER_COLUMNS[1:-2]),
        ("needs_review", "boolean"),
        ("reason", "string"),
    ]


def test_no_pickle_in_the_registered_model(package: Path, registry_uri: str, run_id: str) -> None:
    registry = Registry(registry_uri, create=True)
    version = register_candidate(package, run_id=run_id, tracking_uri=registry_uri)
    model = registry.package(version).parents[1]
    names = {path.suffix for path in model.rglob("*") if path.is_file()}
    assert names <= {"", ".py", ".txt", ".yaml", ".yml", ".onnx", ".json", ".csv", ".safetensors"}
    assert "torch" not in (model / "requirements.txt").read_text()


def test_plain_mlflow_served_a_graph_swapped_with_its_hash(
    package: Path, make_package: MakePackage, registry_uri: str, run_id: str
) -> None:
    import mlflow

    version = register_candidate(package, run_id=run_id, tracking_uri=registry_uri)
    held = Registry(registry_uri).package(version)
    model = held.parents[1]
    assert mlflow.pyfunc.load_model(str(model)) is not None
    for name in ("model.onnx", "card.json", "test_predictions.csv"):
        original = (held / name).read_bytes()
        (held / name).write_bytes((make_package(2, shift=0.4) / name).read_bytes())
        write_checksums(held)
        with pytest.raises(Exception, match="are not those that were registered"):  # of the module in the model
            mlflow.pyfunc.load_model(str(model))
        (held / name).write_bytes(original)


BARE = """
import io, os, sys
import mlflow, pandas as pd, numpy as np
from PIL import Image
model = mlflow.pyfunc.load_model("models:/supcam@candidate")
crop = np.full((30, 20), 255, np.uint8); crop[5:20, 5:10] = 90
buffer = io.BytesIO(); Image.fromarray(crop).save(buffer, "PNG")
answer = model.predict(pd.DataFrame({"image": [buffer.getvalue()] * 3}))
assert list(answer.columns)[:2] == ["type", "confidence"] and len(answer) == 3, answer
assert "torch" not in sys.modules
assert not any(name == "supcam" or name.startswith("supcam.") for name in sys.modules)
try:
    model.predict(pd.DataFrame({"image": [b"no image"]}))
except mlflow.exceptions.MlflowException as error:
    assert error.get_http_status_code() == 400 and "row 0" in str(error), error
else:
    raise AssertionError("a bad image was answered")
print(answer.to_json())
"""


def test_loads_with_bare_mlflow_without_pickle_and_without_supcam(
    package: Path, registry_uri: str, run_id: str, tmp_path: Path
) -> None:
    register_candidate(package, run_id=run_id, tracking_uri=registry_uri)
    # An import hook would prove less: the name supcam is made to fail for good.
    blocked = tmp_path / "blocked" / "supcam"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('supcam is not installed here')\n")
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": registry_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": str(blocked.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", BARE], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "p_touching_overlapping" in done.stdout
