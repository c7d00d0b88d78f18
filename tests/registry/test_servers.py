"""The model behind real servers on the loopback, and in an environment of its own that has no torch."""

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from supcam.registry.client import load_production, pull
from supcam.registry.history import rollback
from supcam.registry.promotion import promote
from supcam.registry.registration import register_candidate
from supcam.registry.rules import Validation
from supcam.registry.store import Busy, Registry, open_client
from supcam.settings import PromoteSettings
from tests.registry.conftest import MakePackage, drawn_crops, make_card

pytestmark = pytest.mark.stress

FLOORS_ONLY = PromoteSettings(min_test_crops_per_type=1000)


@contextmanager
def server(command: list[str], health: str, environment: dict[str, str], log: Path) -> Iterator[str]:
    """A server on a free port, ready to answer; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", str(port)],
            # The serving command looks for uvicorn on the path.
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address + health, process, log)
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text()[-3000:])


def post(address: str, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address + "/invocations", content, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def as_text(crop: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def tracking_server(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    command = ["server", "--backend-store-uri", store, "--artifacts-destination", str(folder), "--workers", "1"]
    with server(command, "/health", {}, folder / "server.log") as address:
        yield address


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
            validation=Validation(True, "data-1"),
        )
        assert version.number == seed
        promote(tracking_uri=tracking_server, settings=FLOORS_ONLY, candidate=seed)
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


def test_models_serve_answers_and_refuses_with_a_reason(two_versions: Registry, tmp_path: Path) -> None:
    promote(tracking_uri=two_versions.uri, settings=FLOORS_ONLY, candidate=1)
    crops = drawn_crops(3, 8)
    command = ["models", "serve", "-m", "models:/supcam@production", "--env-manager", "local"]
    environment = {"MLFLOW_TRACKING_URI": two_versions.uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    with server(command, "/ping", environment, tmp_path / "serve.log") as address:
        body = {"dataframe_split": {"columns": ["image"], "data": [[as_text(crop)] for crop in crops]}}
        status, answer = post(address, body)
        assert status == 200
        expected = load_production(str(two_versions.package(two_versions.version(1)))).predict(list(crops))
        assert [row["type"] for row in answer["predictions"]] == list(expected["type"])
        assert [row["confidence"] for row in answer["predictions"]] == pytest.approx(list(expected["confidence"]))
        for wrong, reason in (
            (b"{", "JSON"),
            (b"[]", "list"),
            ({"rows": []}, "dataframe_split"),
            ({"dataframe_split": {"columns": ["picture"], "data": [["aaaa"]]}}, "image"),
            ({"dataframe_split": {"columns": ["image"], "data": [["bm8gaW1hZ2U="]]}}, "row 0"),
            ({"dataframe_split": {"columns": ["image"], "data": [[7]]}}, "image"),
        ):
            status, text = post(address, wrong)
            assert 400 <= status < 500, (wrong, status, text)
            assert reason in text, (wrong, text)
        assert post(address, b"<xml/>", "text/xml")[0] == 415
        assert post(address, body)[0] == 200


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


def test_light_install_has_no_torch_and_predicts(
    two_versions: Registry, tracking_server: str, make_package: MakePackage, project_root: Path, tmp_path: Path
) -> None:
    """From the sqlite store, from a server, and from a pulled folder, in a new environment."""
    promote(tracking_uri=two_versions.uri, settings=FLOORS_ONLY, candidate=1)
    client = open_client(tracking_server)
    run = client.create_run(client.create_experiment("tests")).info.run_id
    passed = Validation(True, "data-1")
    register_candidate(make_package(1), run_id=run, tracking_uri=tracking_server, validation=passed)
    promote(tracking_uri=tracking_server, settings=FLOORS_ONLY)
    folder = pull(tmp_path / "kept", tracking_uri=two_versions.uri)
    sources = tmp_path / "sources"
    for name in ("supcam", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (project_root / name).is_dir() else shutil.copy
        sources.mkdir(exist_ok=True)
        copy(project_root / name, sources / name)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "light")], check=True)
    python = tmp_path / "light" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", str(sources)], check=True)
    for store, wanted in ((two_versions.uri, "-"), (tracking_server, "-"), ("http://127.0.0.1:9", str(folder))):
        done = subprocess.run(
            [python, "-c", LIGHT, wanted],
            env={**os.environ, "MLFLOW_TRACKING_URI": store},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
