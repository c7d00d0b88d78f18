"""`supcam ui`: the server it starts ends with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

# Stands for MLflow: a process that starts another one, which listens.
SERVER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(600)
"""
UI = """
import signal, sys
from pathlib import Path
from supcam.cli.server import serve
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
sys.exit(serve([sys.executable, "-c", sys.argv[1]], Path.cwd()))
"""


def below(pid: int) -> list[psutil.Process]:
    return [one for one in psutil.Process(pid).children(recursive=True) if "time.sleep(600)" in " ".join(one.cmdline())]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_command_left_its_server_listening(how: signal.Signals, tmp_path: Path) -> None:
    command = subprocess.Popen([sys.executable, "-c", UI, SERVER], cwd=tmp_path, start_new_session=True)
    until = time.monotonic() + 300
    while len(found := below(command.pid)) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert len(found) == 2
    os.kill(command.pid, how)
    command.wait(timeout=300)
    assert psutil.wait_procs(found, timeout=300)[1] == []


def test_the_exit_code_of_the_server_is_that_of_the_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", UI, "raise SystemExit(5)"], cwd=tmp_path, check=False)
    assert done.returncode == 5
