"""Others are told by a command of the laboratory; whatever becomes of it, the decision stands."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from supcam.errors import SettingError
from supcam.registry.notify import notify
from supcam.registry.store import Registry
from supcam.settings import PromoteSettings, parse_settings
from tests.conftest import Call
from tests.registry.crops import SETTINGS, go
from tests.registry.test_commands import project

__all__ = ["project"]

KEEP = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + '\\n')"


def keeping(file: Path) -> list[str]:
    """A command that appends what it gets to a file."""
    return [sys.executable, "-c", KEEP, str(file)]


def told(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("as_line", [False, True])
def test_the_command_gets_the_event_as_json_without_a_shell(tmp_path: Path, as_line: bool) -> None:
    file = tmp_path / "a file; $HOME.jsonl"
    command: str | list[str] = shlex.join(keeping(file)) if as_line else keeping(file)
    event = {"model": "supcam", "action": "promoted", "reason": "größer" * 40_000}  # longer than a pipe holds
    assert notify(PromoteSettings(notify=command), event) == ""
    assert told(file) == [event]


def test_nothing_is_run_without_a_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert notify(PromoteSettings(), {"action": "promoted"}) == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["no-such-command", "--to", "us"], "cannot be started: No such file or directory"),
        (["/"], "cannot be started: Permission denied"),
        (python("import sys; print('no route', file=sys.stderr); sys.exit(7)"), "ended with exit code 7 (no route)"),
        (python("print('x' * 10_000); raise SystemExit(1)"), "ended with exit code 1 (...xxx"),
        (python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), "was killed by signal 9"),
        (python("import os; os.close(0); raise SystemExit(2)"), "ended with exit code 2"),
    ],
)
def test_a_failing_command_is_one_line_of_warning(
    command: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    warning = notify(PromoteSettings(notify=command), {"action": "refused", "reason": "x" * 200_000})
    out, err = capfd.readouterr()
    assert message in warning and "what was decided stays as recorded" in warning
    assert (out, err) == ("", f"{warning}\n") and "\n" not in warning


def test_what_a_command_prints_does_not_mix_with_the_output(capfd: pytest.CaptureFixture[str]) -> None:
    assert notify(PromoteSettings(notify=python("print('sent')")), {}) == ""
    assert capfd.readouterr() == ("", "")


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """A grandchild that held the pipe kept the command waiting after the timeout."""
    file = tmp_path / "alive"
    grandchild = f"import time, pathlib\nwhile True: pathlib.Path({str(file)!r}).write_text('x'); time.sleep(0.05)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {grandchild!r}]); time.sleep(600)"
    warning = notify(PromoteSettings(notify=python(code), notify_timeout=2.0), {})
    assert "did not end within 2 s and was killed" in warning
    file.unlink(missing_ok=True)
    time.sleep(0.5)
    assert not file.exists()


def test_a_process_left_in_the_background_is_not_waited_for() -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'])"
    started = time.monotonic()
    assert notify(PromoteSettings(notify=python(code), notify_timeout=15.0), {}) == ""
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("value", ["", "   ", [], [""], "echo 'open", 7])
def test_what_is_not_a_command_is_refused(value: object) -> None:
    with pytest.raises(SettingError, match=r"promote\.notify"):
        parse_settings({"promote": {"notify": value}})


def test_promotion_and_refusal_are_told_once_and_nothing_else(two_versions: Registry, tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    settings = SETTINGS.model_copy(update={"notify": keeping(file)})
    strict = settings.model_copy(update={"max_latency_ms": 1e-6})
    assert go(two_versions.uri, candidate=1, settings=settings).outcome == "promoted"
    assert go(two_versions.uri, candidate=1, settings=settings).outcome == "nothing to do"
    for _ in range(2):  # the same refusal of a pipeline that runs again is recorded, and told, once
        assert go(two_versions.uri, candidate=2, settings=strict).outcome == "refused"
    events = told(file)
    assert [(event["action"], event["version"], event["number"]) for event in events] == [
        ("promoted", 1, 1),
        ("refused", 2, 2),
    ]
    assert events[0]["model"] == "supcam" and events[0]["who"] and events[0]["when"]
    failed = [rule["name"] for rule in events[1]["decision"]["rules"] if rule["passed"] is False]
    assert "latency" in failed


def test_the_lock_is_free_while_the_command_runs(two_versions: Registry, capfd: pytest.CaptureFixture[str]) -> None:
    """A command may itself ask or change the registry."""
    code = f"from supcam.registry.store import Registry\nwith Registry({two_versions.uri!r}, 'supcam').lock(): pass"
    settings = SETTINGS.model_copy(update={"notify": python(code), "notify_timeout": 300.0})
    assert go(two_versions.uri, candidate=1, settings=settings).outcome == "promoted"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("command", [["no-such-command"], python("raise SystemExit(3)"), python("while True: pass")])
def test_a_failing_command_undoes_no_promotion(two_versions: Registry, command: list[str]) -> None:
    settings = SETTINGS.model_copy(update={"notify": command, "notify_timeout": 0.5})
    assert go(two_versions.uri, candidate=1, settings=settings).outcome == "promoted"
    assert two_versions.aliases()["production"] == 1
    assert [event["action"] for event in two_versions.events()] == ["promoted"]


def test_a_rollback_is_told(project: Path, first_promoted: Registry, call: Call, tmp_path: Path) -> None:
    go(first_promoted.uri, candidate=2)
    file = tmp_path / "told.jsonl"
    with (project / "params.yaml").open("a", encoding="utf-8") as params:
        params.write(f"  notify: {json.dumps(keeping(file))}\n")
    code, out, err = call("rollback", "--reason", "misses crossings")
    assert (code, err) == (0, "") and "production is version 1 again" in out
    (event,) = told(file)
    assert (event["action"], event["version"], event["from"]) == ("rolled back", 1, 2)
    assert event["reason"] == "misses crossings"
