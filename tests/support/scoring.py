"""Servers of the ``mlflow`` command on the loopback, and the load that wrk puts on them."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.support.servers import free_port

ROUND_SECONDS = 20
START_SECONDS = 180

# Every crop in turn; what wrk counted goes out as one line of JSON.
SCRIPT = """
local bodies, sent = {}, 0
for line in io.lines(%(bodies)s) do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
request = function()
  sent = sent + 1
  return wrk.format(nil, nil, nil, bodies[sent %% #bodies + 1])
end
done = function(summary, latency, requests)
  local errors = summary.errors
  local count = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('{"requests": %%d, "seconds": %%f, "errors": %%d, "p50": %%f, "p99": %%f}\\n',
    summary.requests, summary.duration / 1e6, count, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass
class Load:
    """What a server did under load, in rounds of wrk.

    Attributes:
        requests: Answers with status 200.
        seconds: Time they took, without the pauses between rounds.
        errors: Broken connections, time-outs and other status codes.
        p50_ms: Median latency of each round, milliseconds.
        p99_ms: 99th percentile of each round, milliseconds.
        memory_mb: Resident memory of all processes of the server after each round.
        cpu_seconds: Processor time of the server.
    """

    requests: int = 0
    seconds: float = 0.0
    errors: int = 0
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    @property
    def memory_growth(self) -> float:
        """Growth of the memory from the first tenth of the rounds (the warm-up) to the last tenth, as a share."""
        tenth = max(1, len(self.memory_mb) // 10)
        start = median(self.memory_mb[tenth - 1 : 2 * tenth])
        return median(self.memory_mb[-tenth:]) / start - 1


@contextmanager
def server(
    command: Sequence[str], health: str, log: Path, *, python: Path = Path(sys.executable), **environment: str
) -> Iterator[tuple[str, int]]:
    """A server of the ``mlflow`` command on a free port, ready to answer: its address and process id.

    Args:
        command: Arguments of ``mlflow``, host and port left out.
        health: Path that answers when it is ready.
        log: File for its output.
        python: Interpreter that has MLflow.
        environment: Variables beside those of this process.

    Raises:
        RuntimeError: when it ends, or does not answer within three minutes; with the end of its log.
    """
    port = str(free_port())
    # The serving command looks for uvicorn on the path.
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(python), "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", port],
            env={**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address + health, process, log)
        yield address, process.pid
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def serve_command(model: str, workers: int = 1) -> list[str]:
    """Arguments of ``mlflow`` that serve a model address or folder in the present environment."""
    return ["models", "serve", "-m", model, "--env-manager", "local", "--workers", str(workers)]


def request_body(crop: bytes) -> str:
    """The JSON of a request for one encoded crop."""
    return json.dumps({"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(crop).decode()]]}})


def load_server(
    address: str,
    pid: int,
    crops: Sequence[bytes],
    scratch: Path,
    *,
    requests: int,
    seconds: float,
    connections: int = 4,
    round_seconds: int = ROUND_SECONDS,
) -> Load:
    """Send single crops over kept-alive connections until enough were answered or the time is over.

    Raises:
        FileNotFoundError: when wrk is not installed.
    """
    bodies, script = scratch / "bodies.jsonl", scratch / "requests.lua"
    bodies.write_text("".join(request_body(crop) + "\n" for crop in crops), encoding="utf-8")
    script.write_text(SCRIPT % {"bodies": json.dumps(str(bodies))}, encoding="utf-8")
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{round_seconds}s"]
    command += ["--timeout", "30s", "--script", str(script), f"{address}/invocations"]
    load = Load()
    before = _usage(pid)[1]
    while load.requests < requests and load.seconds < seconds:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        answered = json.loads(done.stdout.splitlines()[-1])
        load.requests += answered["requests"]
        load.seconds += answered["seconds"]
        load.errors += answered["errors"]
        load.p50_ms.append(answered["p50"])
        load.p99_ms.append(answered["p99"])
        load.memory_mb.append(_usage(pid)[0])
    load.cpu_seconds = _usage(pid)[1] - before
    return load


def _usage(pid: int) -> tuple[float, float]:
    """Resident memory (MB) and processor time (s) of a process and all below it."""
    import psutil

    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    times = [member.cpu_times() for member in family]
    return sum(member.memory_info().rss for member in family) / 2**20, sum(t.user + t.system for t in times)


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"the server did not start: {log.read_text()[-3000:]}")
