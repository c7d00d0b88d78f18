"""Real servers on the loopback: PostgreSQL from Debian's package, and MLflow's tracking server."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Address, without a database, of a PostgreSQL server of our own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed, so PostgreSQL cannot be reached")
    if not _POSTGRES:
        pytest.skip("no PostgreSQL server: Debian's package postgresql is not installed")
    folder = Path(tempfile.mkdtemp(prefix="supcam-postgres-"))  # pytest's own folders are closed to other users
    data, user = folder / "data", []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    port, tools = free_port(), _POSTGRES[-1].parent
    initdb = [*user, str(tools / "initdb"), "-D", str(data), "-U", "supcam", "--auth=trust", "-N"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = [*user, str(tools / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], check=True, cwd=folder)
    try:
        yield f"postgresql+psycopg://supcam@127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres(postgres_server: str) -> str:
    """Address of a database for studies."""
    return database(postgres_server, "optuna")


def database(server: str, name: str) -> str:
    """Make a database; Optuna and MLflow need one each, since both keep a table alembic_version."""
    import psycopg

    with psycopg.connect(f"{server.replace('+psycopg', '')}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server}/{name}"


class MlflowServer:
    """A real MLflow server with an artifact store, which can be killed and started again on the same port.

    Args:
        folder: Where artifacts and the log go.
        store: Address of its database; default an sqlite file in the folder.
    """

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.folder, self.store = folder, store or f"sqlite:///{folder}/server.db"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def uri(self) -> str:
        """Address for MLFLOW_TRACKING_URI."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        places = ["--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "artifacts")]
        command = [sys.executable, "-m", "mlflow", "server", *places, "--workers", "1", "--port", str(self.port)]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=self.folder)
        until = time.monotonic() + 180
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        self.kill()
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """End it as a machine that loses power would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
