"""Notifying others: a command that gets every promotion, refusal and rollback, and whose failure changes nothing."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

from supcam.registry.record import as_text
from supcam.settings import PromoteSettings

_LONGEST = 200  # characters of what the command printed, in a warning


def notify(settings: PromoteSettings, event: Mapping[str, Any]) -> str:
    """Run ``promote.notify``, without a shell, with an event of the record as JSON on its standard input.

    What is recorded is recorded: a command that is missing, fails, or has not ended after ``promote.notify_timeout``
    seconds (then it is killed, with the processes that it started) is a warning on standard error.

    Returns:
        The warning, in one line; "" where all went well or there is nothing to run.
    """
    command = shlex.split(settings.notify) if isinstance(settings.notify, str) else settings.notify
    trouble = _run(command, as_text(dict(event)), settings.notify_timeout) if command else ""
    if not trouble:
        return ""
    warning = f"warning: promote.notify {shlex.join(command or [])!r} {trouble}; what was decided stays as recorded"
    sys.stderr.write(f"{warning}\n")
    return warning


def _run(command: Sequence[str], text: str, timeout: float) -> str:
    """What went wrong, in words; "" for nothing."""
    # Files instead of pipes: a command that never reads does not block us, nor does a process that it leaves behind.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
        given.write(text.encode())
        given.seek(0)
        try:
            process = subprocess.Popen(command, stdin=given, stdout=said, stderr=said, start_new_session=True)
        except (OSError, ValueError) as error:  # a ValueError: a NUL in a word
            return f"cannot be started: {getattr(error, 'strerror', None) or error}"
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return f"did not end within {timeout:g} s and was killed"
        finally:
            if process.poll() is None:  # out of time, or interrupted from the keyboard
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if not code:
            return ""
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"{ended}{_words(said)}"


def _words(said: IO[bytes]) -> str:
    said.seek(0)
    words = " ".join(said.read(64_000).decode(errors="replace").split())
    return f" ({words if len(words) <= _LONGEST else '...' + words[-_LONGEST:]})" if words else ""
