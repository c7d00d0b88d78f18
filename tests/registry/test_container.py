"""The container recipe: every path and package of it exists, and what it runs works in an environment of its own."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supcam.registry.client import load_production
from supcam.registry.registration import REQUIREMENTS, save_served
from tests.registry.conftest import drawn_crops
from tests.registry.test_servers import post
from tests.support.drawing import encode
from tests.support.scoring import request_body, server

Recipe = list[tuple[str, str]]


@pytest.fixture
def recipe(project_root: Path) -> Recipe:
    """Instructions of the Dockerfile and what follows them, in order."""
    text = (project_root / "examples/serving/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture
def context(package: Path, project_root: Path, tmp_path: Path) -> Path:
    """The folder that is built from, with the model beside the recipe as the README fetches it."""
    folder = Path(shutil.copytree(project_root / "examples/serving", tmp_path / "context"))
    save_served(package, folder / "model")
    return folder


def copied(recipe: Recipe, context: Path, root: Path) -> None:
    for source, target in (rest.split() for name, rest in recipe if name == "COPY"):
        goal = root / target.lstrip("/")
        goal.parent.mkdir(parents=True, exist_ok=True)
        if (context / source).is_dir():
            shutil.copytree(context / source, goal, dirs_exist_ok=True)
        else:
            shutil.copy(context / source, goal)


def command(recipe: Recipe, name: str) -> list[str]:
    """The arguments of CMD or HEALTHCHECK, given in the form that starts no shell."""
    text = next(rest for found, rest in recipe if found == name)
    words: list[str] = json.loads(text[text.index("[") :])
    return words


def environment(recipe: Recipe) -> dict[str, str]:
    pairs = [pair.split("=", 1) for name, rest in recipe if name == "ENV" for pair in shlex.split(rest)]
    return dict(pairs)


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_recipe_names_what_there_is(recipe: Recipe, context: Path, tmp_path: Path) -> None:
    names = [name for name, _ in recipe]
    assert names == ["FROM", "COPY", "RUN", "COPY", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "CMD"]
    said = dict(recipe)
    assert said["FROM"] == "python:3.11-slim" and said["USER"] != "root"
    copied(recipe, context, tmp_path / "root")
    installed = option(shlex.split(said["RUN"]), "--requirement")
    lines = (tmp_path / "root" / installed.lstrip("/")).read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == sorted(REQUIREMENTS)
    serve = command(recipe, "CMD")
    assert serve[:3] == ["mlflow", "models", "serve"]
    assert (tmp_path / "root" / option(serve, "--model-uri").lstrip("/") / "MLmodel").is_file()
    assert option(serve, "--port") == said["EXPOSE"]
    assert f"127.0.0.1:{said['EXPOSE']}/ping" in said["HEALTHCHECK"]


@pytest.mark.stress
def test_recipe_runs_in_an_environment_of_its_own(recipe: Recipe, context: Path, package: Path, tmp_path: Path) -> None:
    """RUN and CMD as they stand, but for the root of the files and the port."""
    root = tmp_path / "root"
    copied(recipe, context, root)
    subprocess.run([sys.executable, "-m", "venv", str(root)], check=True)
    python = root / "bin" / "python"
    for name, rest in recipe:
        if name == "RUN":
            words = [word.replace("/model", f"{root}/model") for word in shlex.split(rest)]
            subprocess.run([root / "bin" / words[0], *words[1:]], check=True)
    serve = command(recipe, "CMD")
    kept = serve[1 : serve.index("--host")]
    assert set(serve[serve.index("--host") :]) == {"--host", "0.0.0.0", "--port", "8080"}
    kept[kept.index("/model")] = str(root / "model")
    crop = encode(drawn_crops(1, 4)[0])
    with server(kept, "/ping", tmp_path / "log", python=python, **environment(recipe)) as (address, _):
        status, answer = post(address, request_body(crop).encode())
        health = [word.replace("http://127.0.0.1:8080", address) for word in command(recipe, "HEALTHCHECK")]
        assert subprocess.run([python, *health[1:]], check=False).returncode == 0
    assert status == 200, answer
    assert answer["predictions"][0]["type"] == load_production(str(package)).predict(crop)["type"][0]
    assert subprocess.run([python, *health[1:]], capture_output=True, check=False).returncode != 0
