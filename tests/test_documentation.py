"""The documentation says what the code does: the reference is complete, links lead somewhere."""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from docs import reference
from supcam.cli.app import app
from supcam.cli.described import described_settings
from supcam.settings import Settings
from tests.support.imports import ROOT
from tests.support.project import succeed

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", reference.pages(), ids=lambda page: page.name)
def test_the_reference_is_what_the_code_says(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == reference.pages()[page], "run: python -m docs.reference"


def test_every_setting_has_a_meaning_and_no_meaning_is_left_over() -> None:
    described = list(described_settings())
    assert [setting.name for setting in described if not setting.meaning] == [], "add them to supcam/meanings.yaml"
    meanings = yaml.safe_load((ROOT / "supcam/meanings.yaml").read_text(encoding="utf-8"))
    names = {setting.name for setting in described}
    assert set(_names(meanings)) - names == set()
    # Settings that are mappings themselves, such as weights of relations, are single settings.
    values = set(_names(Settings().model_dump(mode="json", by_alias=True)))
    assert {name for name in values if not any(name.startswith(f"{whole}.") for whole in names)} - names == {"profile"}


def _names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_every_command_and_option_is_in_the_reference() -> None:
    text = (reference.FOLDER / "commands.md").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for below, inner in getattr(command, "commands", {"": command}).items():
            section = text.partition(f"## supcam {name} {below}".rstrip() + "\n")[2].partition("\n## ")[0]
            assert section, f"supcam {name} {below}"
            for option in inner.params:
                assert option.opts[0].upper() in section.upper(), f"{option.opts} of supcam {name} {below}"
                assert option.help, f"{option.opts} of supcam {name} {below} has no help"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose)
    missing = [name for name in targets if "://" not in name and not (page.parent / name).exists()]
    assert missing == []


def test_paths_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:docs|supcam|benchmarks|pipelines|tests)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_site_builds_without_a_dead_link(tmp_path: Path) -> None:
    if shutil.which("mkdocs") is None:
        pytest.skip("mkdocs is not installed")
    said = succeed(ROOT, "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site"), NO_MKDOCS_2_WARNING="1")
    assert (tmp_path / "site" / "reference" / "settings" / "index.html").is_file(), said
