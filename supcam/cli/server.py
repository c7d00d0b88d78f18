"""A server in the foreground that ends with the command that started it, however that ends."""

import subprocess
import sys
from pathlib import Path

# It reads until the command is gone, even by SIGKILL, and ends the server and all that it started.
_WATCH = """
import os, signal, sys
sys.stdin.read()
try:
    os.killpg(int(sys.argv[1]), signal.SIGTERM)
except ProcessLookupError:
    pass
"""


def serve(command: list[str], folder: Path) -> int:
    """Run a server in ``folder`` until it ends or Ctrl-C; returns its exit code."""
    server = subprocess.Popen(command, cwd=folder, start_new_session=True)
    watcher = subprocess.Popen(
        [sys.executable, "-c", _WATCH, str(server.pid)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        watcher.communicate()  # closes what it reads
        server.wait()
