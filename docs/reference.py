"""Writes docs/reference/: every command with its options, and every setting; `python -m docs.reference`.

The pages come from typer and pydantic themselves, and a test compares the committed pages with what this writes.
"""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from supcam.cli.app import app
from supcam.cli.described import described_settings
from supcam.files import write_text

FOLDER = Path(__file__).parent / "reference"
_MADE = "<!-- Made by: python -m docs.reference -->\n\n"

_KINDS = {"Path": "path", "int": "whole number", "float": "number"}


def commands_page() -> str:
    """Every command with its arguments and options."""
    parts = [
        f"{_MADE}# Commands\n",
        "`supcam --version` prints the version, `supcam --install-completion` has the shell complete commands and "
        "options, and `supcam COMMAND --help` shows what is below. Exit codes: 0 done, 1 something failed, 2 wrong "
        "usage, 3 a gate refused.\n",
    ]
    for name, command in sorted(_commands(typer.main.get_command(app), "supcam")):
        parts.append(f"## {name}\n\n{inspect.cleandoc(command.help or '')}\n")
        arguments = [item for item in command.params if item.param_type_name == "argument"]
        usage = [item.name.upper() if item.required else f"[{item.name.upper()}]" for item in arguments]
        parts.append(f"```sh\n{' '.join([name, *usage])} [OPTIONS]\n```\n")
        rows = [_parameter(parameter) for parameter in command.params]
        if rows:
            parts.append(_table(["option", "meaning", "allowed", "default"], rows))
    return "\n".join(parts)


def settings_page() -> str:
    """Every setting with its meaning, unit, range and default, a table for each section."""
    parts = [
        f"{_MADE}# Settings\n",
        "Settings stand in `params.yaml`. `supcam profile NAME` replaces all of them, `supcam settings` shows the "
        "present values, and `mlflow run . -P section.key=value` overrides one for one run. The default counts where "
        "`params.yaml` leaves a setting out.\n",
    ]
    rows: dict[str, list[list[str]]] = {}
    for setting in described_settings():
        section, _, key = setting.name.partition(".")
        default = "" if setting.default in (None, [], {}) else f"`{json.dumps(setting.default)}`"
        rows.setdefault(section, []).append([f"`{key}`", setting.meaning, setting.unit, setting.allowed, default])
    for section, lines in rows.items():
        parts += [f"## {section}\n", _table(["setting", "meaning", "unit", "allowed", "default"], lines)]
    return "\n".join(parts)


def pages() -> dict[Path, str]:
    """Content of every page of the reference."""
    return {FOLDER / "commands.md": commands_page(), FOLDER / "settings.md": settings_page()}


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The commands below a group, by their full names."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for part, inner in below.items():
        yield from _commands(inner, f"{name} {part}")


def _parameter(parameter: Any) -> list[str]:
    """Name, meaning, allowed values and default of an argument or option."""
    name = ", ".join(parameter.opts) if parameter.param_type_name == "option" else parameter.name.upper()
    flag, given = getattr(parameter, "is_flag", False), parameter.default not in (None, ())
    default = f"`{parameter.default}`" if given and not flag else "required" if parameter.required else ""
    return [f"`{name}`", parameter.help or "", "" if flag else _allowed(parameter), default]


def _allowed(parameter: Any) -> str:
    words = str(parameter.type_descriptor.annotation)
    kind = next((text for name, text in _KINDS.items() if name in words), "text")
    low, high = parameter.min, parameter.max
    return kind + ("" if low is None else f", {low} or more" if high is None else f", {low} to {high}")


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    escaped = (" | ".join(_escaped(cell) for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in escaped) + "\n"


def _escaped(cell: str) -> str:
    text = cell.replace("|", "\\|").replace("\n", " ")
    return text if "`" in text else text.replace("<", "&lt;")


if __name__ == "__main__":
    for path, text in pages().items():
        write_text(path, text)
        print(path)
