"""Rebuild a run from what it recorded: the commands, or the refusal when that is not enough."""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from supcam.errors import GateRefused, SupcamError, UsageError
from supcam.files import write_text
from supcam.settings import parse_settings
from supcam.tracking.comparison import Difference, compare_folders
from supcam.tracking.project import state_folder
from supcam.tracking.provenance import device_name, package_versions
from supcam.tracking.store import get_run, open_client

# Stages after this one only touch the registry.
_LAST = "evaluate"


@dataclass
class Reproduction:
    """How to rebuild one run.

    Attributes:
        run_id: The run.
        stage: Its stage (of a promotion: the evaluation it rests on).
        folder: Where the project is rebuilt, a git worktree of its own with a store of its own.
        commands: What to type, in order, from the project root.
        warnings: Why results may differ: other packages, another device, several workers.
        artifacts: Copies of the outputs that the run kept; None when it kept none.
    """

    run_id: str
    stage: str
    folder: Path
    commands: list[list[str]]
    warnings: list[str] = field(default_factory=list)
    artifacts: Path | None = None

    @property
    def text(self) -> str:
        """The commands as lines for a shell."""
        return "\n".join(shlex.join(command) for command in self.commands)

    def execute(self, root: Path) -> list[Difference]:
        """Run the commands, then compare every artifact of the stage with the rebuilt file.

        Raises:
            SupcamError: when a command fails; the folder is kept to look at.
        """
        for command in self.commands:
            done = subprocess.run(command, cwd=root, check=False)
            if done.returncode != 0:
                raise SupcamError(
                    f"rebuilding run {self.run_id} stopped: `{shlex.join(command)}` ended {done.returncode}. "
                    f"See {self.folder}; remove it with: git worktree remove --force {self.folder}"
                )
        if self.artifacts is None:
            return []
        return compare_folders(self.artifacts, self.folder / "outputs" / self.stage)


def reproduction(root: Path, run_id: str, folder: Path) -> Reproduction:
    """Plan to rebuild a run into ``folder``, which must not exist.

    Raises:
        UsageError: for an unknown run or a folder that exists.
        GateRefused: when the run did not record enough, or what it needs is gone; the message says what.
    """
    if folder.exists():
        raise UsageError(f"folder {folder} exists; a run is rebuilt into a new one. Name another with --into.")
    client = open_client(root)
    run, target = _stage_run(client, get_run(client, run_id))
    run_id, tags = run.info.run_id, run.data.tags
    commit = _commit(root, run_id, tags, target)
    kept = state_folder(root) / "reproduce" / run_id
    kept.mkdir(parents=True, exist_ok=True)
    settings = _settings(client, run_id, kept)
    commands = [["git", "worktree", "add", "--detach", str(folder), commit]]
    if tags.get("supcam.git.dirty") == "true":
        commands.append(["git", "-C", str(folder), "apply", str(_patch(client, run_id, kept))])
    write_text(kept / "params.yaml", yaml.safe_dump(settings, sort_keys=False))
    if _differs(root, commit, settings):
        commands.append(["cp", str(kept / "params.yaml"), str(folder / "params.yaml")])
    commands += _data_commands(root, folder, commit, tags, run_id, kept)
    # Forced: taken from the shared cache, outputs would always be equal. Never into this project's store.
    repro = [sys.executable, "-m", "dvc", "--cd", str(folder), "repro", "--force", target]
    commands.append(["env", "-u", "MLFLOW_TRACKING_URI", "-u", "MLFLOW_RUN_ID", *repro])
    outputs = _download(client, run_id, f"outputs/{target}", kept)
    return Reproduction(run_id, target, folder, commands, _warnings(tags, settings), outputs)


def _stage_run(client: Any, run: Any) -> tuple[Any, str]:
    """The run with the record of a stage, and the stage: of the run that ``mlflow run`` made, the one below it."""
    stage = run.data.tags.get("supcam.stage", "")
    target = _LAST if stage in ("promote", "main") else stage
    if "mlflow.project.entryPoint" not in run.data.tags or not target:
        return run, target
    below = f"tags.`mlflow.parentRunId` = '{run.info.run_id}' and tags.`supcam.stage` = '{target}'"
    found = client.search_runs([run.info.experiment_id], below)
    return (found[0] if found else run), target


def _commit(root: Path, run_id: str, tags: dict[str, str], target: str) -> str:
    if not tags.get("supcam.stage"):
        raise GateRefused(f"run {run_id} cannot be rebuilt: it is not the run of a stage. Name one that is.")
    if tags.get("supcam.from_run"):
        raise GateRefused(
            f"run {run_id} cannot be rebuilt alone: it took its inputs from run {tags['supcam.from_run']}. "
            f"Rebuild that one, then: mlflow run . -e {tags['supcam.stage']} -P from_run={tags['supcam.from_run']}"
        )
    commit = tags.get("supcam.git.commit")
    if commit is None:
        raise GateRefused(f"run {run_id} cannot be rebuilt: it ran outside of git, so its code is not known.")
    known = subprocess.run(
        ["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=root, capture_output=True, check=False
    )
    if known.returncode != 0:
        raise GateRefused(
            f"run {run_id} cannot be rebuilt: its commit {commit} is not in this repository. Fetch it: git fetch --all"
        )
    stages = yaml.safe_load(_shown(root, commit, "dvc.yaml") or "{}").get("stages", {})
    if target not in stages:
        raise GateRefused(
            f"run {run_id} cannot be rebuilt: {target} is not a stage of dvc.yaml at {commit[:12]}. Check that commit "
            f"out and run it again with the settings of the run: mlflow run . --env-manager local -e {target}"
        )
    return commit


def _shown(root: Path, commit: str, name: str) -> bytes:
    """A file as a commit has it; nothing when it has none."""
    return subprocess.run(["git", "show", f"{commit}:{name}"], cwd=root, capture_output=True, check=False).stdout


def _patch(client: Any, run_id: str, kept: Path) -> Path:
    path = _download(client, run_id, "changes.patch", kept)
    if path is None or not path.stat().st_size:
        raise GateRefused(
            f"run {run_id} cannot be rebuilt: the code had changes that were not committed and are not kept with "
            "the run (they are kept up to 5 MB). Commit before a run that has to be rebuilt."
        )
    return path


def _settings(client: Any, run_id: str, kept: Path) -> dict[str, Any]:
    """As they were recorded: the run's code may have had other settings than today's. Its study starts from scratch."""
    path = _download(client, run_id, "settings.json", kept)
    if path is None:
        raise GateRefused(f"run {run_id} cannot be rebuilt: its artifact settings.json is gone.")
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "tune" in settings:
        settings["tune"] |= {"storage": None}
    return settings


def _differs(root: Path, commit: str, settings: dict[str, Any]) -> bool:
    """Whether the run had other settings than ``params.yaml`` of its commit (an override, a profile, a change)."""
    shown = _shown(root, commit, "params.yaml")
    try:
        return not shown or parse_settings(yaml.safe_load(shown)) != parse_settings(settings)
    except UsageError:
        return True


def _data_commands(
    root: Path, folder: Path, commit: str, tags: dict[str, str], run_id: str, kept: Path
) -> list[list[str]]:
    wanted = tags.get("supcam.dep/data")
    text = _shown(root, commit, "data.dvc")
    if wanted is None or not text:
        return []
    dvc = [sys.executable, "-m", "dvc"]
    commands = [[*dvc, "--cd", str(folder), "config", "--local", "cache.dir", str(root / ".dvc" / "cache")]]
    if yaml.safe_load(text)["outs"][0].get("md5") != wanted:
        if not (root / ".dvc" / "cache" / "files" / "md5" / wanted[:2] / wanted[2:]).is_file():
            raise GateRefused(
                f"run {run_id} cannot be rebuilt: its data (hash {wanted}) is neither that of data.dvc at "
                f"{commit[:12]} nor in the DVC cache. Record data that a run is to be rebuilt from: supcam import."
            )
        # Without size and count, which DVC does not need to check data out.
        write_text(kept / "data.dvc", yaml.safe_dump({"outs": [{"md5": wanted, "hash": "md5", "path": "data"}]}))
        commands.append(["cp", str(kept / "data.dvc"), str(folder / "data.dvc")])
    commands.append([*dvc, "--cd", str(folder), "pull", "--allow-missing", "data.dvc"])
    return commands


def _download(client: Any, run_id: str, name: str, kept: Path) -> Path | None:
    try:
        path = Path(client.download_artifacts(run_id, name, str(kept)))
    except Exception:
        return None
    return path if path.exists() else None


def _warnings(tags: dict[str, str], settings: dict[str, Any]) -> list[str]:
    recorded = json.loads(tags.get("supcam.versions", "{}"))
    here = package_versions()
    found = [
        f"{name} was {version}, here it is {here.get(name, 'missing')}"
        for name, version in recorded.items()
        if here.get(name) != version
    ]
    device = device_name(settings["runtime"]["device"])
    if tags.get("supcam.device") != device:
        found.append(f"the run was on {tags.get('supcam.device')}, this machine has {device}")
    workers = settings.get("tune", {}).get("workers", 1)
    if workers > 1:
        found.append(f"the study had {workers} workers, and a point depends on which trials had ended")
    return [f"results may differ: {text}" for text in found]
