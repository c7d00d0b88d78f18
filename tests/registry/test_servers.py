"""The model behind real servers on the loopback, and in an environment of its own that has no torch."""

import base64
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from supcam.registry.client import load_production, pull
from supcam.registry.history import rollback
from supcam.registry.lock import Busy
from supcam.registry.reach import open_client
from supcam.registry.registration import register_candidate, save_served
from supcam.registry.store import Registry
from tests.registry.conftest import MakePackage, drawn_crops, make_card
from tests.registry.crops import PASSED, go
from tests.support.drawing import encode
from tests.support.scoring import load_server, request_body, serve_command, server


def post(address: str, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address + "/invocations", content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def tracking_server(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    command = ["server", "--backend-store-uri", store, "--artifacts-destination", str(folder), "--workers", "1"]
    with server(command, "/health", folder / "server.log") as (address, _):
        yield address


@pytest.mark.stress
def test_everything_over_http(
    tracking_server: str, make_package: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_client(tracking_server)
    run = client.create_run(client.create_experiment("tests")).info.run_id
    for seed in (1, 2):
        card = make_card(code=f"code-{seed}")
        version = register_candidate(
            make_package(seed, card=card),
            run_id=run,
            tracking_uri=tracking_server,
            validation=PASSED,
        )
        assert version.number == seed
        go(tracking_server, candidate=seed)
    registry = Registry(tracking_server)
    assert registry.aliases() == {"production": 2, "previous": 1, "candidate": 2}
    with registry.lock(), pytest.raises(Busy):
        rollback(registry)
    rollback(registry, "over http")
    assert registry.aliases()["production"] == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_server)
    crop = drawn_crops(1, 2)[0]
    expected = load_production(str(make_package(1, card=make_card(code="code-1")))).predict(crop)
    assert load_production().predict(crop).equals(expected)
    assert load_production(str(pull(tmp_path / "kept"))).predict(crop).equals(expected)


@pytest.fixture(scope="module")
def served(make_package: MakePackage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int, Path]]:
    """The scoring server of a model: address, process id and the package it serves."""
    folder = tmp_path_factory.mktemp("served")
    package = make_package(1)
    model = save_served(package, folder / "model")
    environment = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "OMP_NUM_THREADS": "1"}
    with server(serve_command(str(model)), "/ping", folder / "log", **environment) as (address, pid):
        yield address, pid, package


MALFORMED: list[tuple[Any, str]] = [
    (b"{", "JSON"),
    (b"[]", "list"),
    ({"rows": []}, "dataframe_split"),
    ({"dataframe_split": {"columns": ["picture"], "data": [["aaaa"]]}}, "image"),
    ({"dataframe_split": {"columns": ["image"], "data": [["bm8gaW1hZ2U="]]}}, "row 0"),
    ({"dataframe_split": {"columns": ["image"], "data": [[7]]}}, "image"),
    ({"dataframe_split": {"columns": ["image"], "data": [[None]]}}, "image"),
]


def test_served_model_answers_many_at_once_and_refuses_with_a_reason(served: tuple[str, int, Path]) -> None:
    """280 requests from four at once, every eighth of them malformed, of seven kinds in turn."""
    address, _, package = served
    crops = [encode(crop) for crop in drawn_crops(40, 8)]
    expected = load_production(str(package)).predict(crops)
    requests: list[tuple[Any, int | str]] = []
    for number in range(280):
        kind, malformed = divmod(number, 8)
        row = number % len(crops)
        good = (request_body(crops[row]).encode(), row)
        requests.append(MALFORMED[kind % len(MALFORMED)] if malformed == 7 else good)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda item: post(address, item[0]), requests))
    for (body, wanted), (status, answer) in zip(requests, answers, strict=True):
        if isinstance(wanted, str):
            assert 400 <= status < 500 and wanted in answer, (body, status, answer)
        else:
            assert status == 200, answer
            got = answer["predictions"][0]
            assert got["type"] == expected["type"][wanted]
            assert got["confidence"] == pytest.approx(expected["confidence"][wanted], abs=1e-5)
    assert post(address, b"<xml/>", "text/xml")[0] == 415


def test_a_request_cannot_read_files_of_the_server(served: tuple[str, int, Path], tmp_path: Path) -> None:
    """A text in CSV was opened as a path: whoever reached the server could try which files it has."""
    (tmp_path / "secret.png").write_bytes(encode(drawn_crops(1, 1)[0]))
    status, text = post(served[0], f"image\n{tmp_path / 'secret.png'}\n".encode(), "text/csv")
    assert status == 400 and "row 0: image is given as str; send encoded bytes" in text


def test_production_is_served_from_the_registry(first_promoted: Registry, tmp_path: Path) -> None:
    crops = drawn_crops(3, 8)
    command = serve_command("models:/supcam@production")
    with server(command, "/ping", tmp_path / "log", MLFLOW_TRACKING_URI=first_promoted.uri) as (address, _):
        rows = [[base64.b64encode(encode(crop)).decode()] for crop in crops]
        status, answer = post(address, {"dataframe_split": {"columns": ["image"], "data": rows}})
    assert status == 200
    expected = load_production(str(first_promoted.package(first_promoted.version(1)))).predict(list(crops))
    assert [row["type"] for row in answer["predictions"]] == list(expected["type"])
    assert [row["confidence"] for row in answer["predictions"]] == pytest.approx(list(expected["confidence"]))


@pytest.mark.stress
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")
def test_a_hundred_thousand_requests(served: tuple[str, int, Path], tmp_path: Path) -> None:
    address, pid, _ = served
    crops = [encode(crop) for crop in drawn_crops(64, 5)]
    load = load_server(address, pid, crops, tmp_path, requests=100_000, seconds=3600)
    assert load.requests >= 100_000 and load.errors == 0
    assert load.memory_growth < 0.05, load.memory_mb


LIGHT = """
import sys, importlib.util
import numpy as np, supcam
assert importlib.util.find_spec("torch") is None
crop = np.full((30, 30), 255, np.uint8); crop[5:20, 8:14] = 90
for uri in sys.argv[1:]:
    answer = supcam.load_production(None if uri == "-" else uri).predict(crop)
    assert abs(answer.filter(like="p_").sum(axis=1)[0] - 1) < 1e-4, answer
    print(uri, answer["type"][0])
"""


@pytest.mark.stress
def test_light_install_has_no_torch_and_predicts(
    first_promoted: Registry, tracking_server: str, make_package: MakePackage, light_python: Path, tmp_path: Path
) -> None:
    """From the default sqlite store of a project, from a server, and from a pulled folder, in a new environment."""
    client = open_client(tracking_server)
    run = client.create_run(client.create_experiment("tests")).info.run_id
    passed = PASSED
    register_candidate(make_package(1), run_id=run, tracking_uri=tracking_server, validation=passed)
    go(tracking_server)
    folder = pull(tmp_path / "kept", tracking_uri=first_promoted.uri)
    (tmp_path / "dvc.yaml").write_text(
        "stages: {}\n", encoding="utf-8"
    )  # first_promoted is where a project has its store
    for store, wanted in (("", "-"), (tracking_server, "-"), ("http://127.0.0.1:9", str(folder))):
        done = subprocess.run(
            [light_python, "-c", LIGHT, wanted],
            env={**os.environ, "MLFLOW_TRACKING_URI": store},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.stress
def test_commands_of_the_light_install(both_promoted: Registry, light_python: Path, tmp_path: Path) -> None:
    """Predict, route, pull and the registry, the way back too; what draws or trains names the extra."""
    for index, crop in enumerate(drawn_crops(4, 6)):
        Image.fromarray(crop).save(tmp_path / f"{index}.png")
    for words, code, said in (
        ("predict 0.png 1.png", 0, "confidence"),
        ("route 0.png 1.png --into sorted", 0, "review"),
        ("pull --into kept", 0, "production is now in kept"),
        ("predict 0.png --model kept --output -", 0, "p_touching_overlapping"),
        ("models", 0, "candidate"),
        ("rollback --reason light", 0, "production is version 1 again"),
        ("history", 0, "rolled back"),
        ("diff 1 2", 0, "code_hash"),
        ("explain 0.png", 2, "pip install"),
    ):
        done = subprocess.run(
            [light_python.with_name("supcam"), *words.split()],
            env={**os.environ, "MLFLOW_TRACKING_URI": both_promoted.uri},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code and said in done.stdout + done.stderr, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
