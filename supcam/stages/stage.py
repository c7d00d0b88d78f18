"""One stage at work: its inputs, output folder and tracked run, and what determines its result."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape

from supcam import tracking
from supcam.errors import UsageError
from supcam.identity import identity, key_of
from supcam.processes import processes, rank
from supcam.settings import Settings
from supcam.stages.workspace import OUTPUTS, Workspace
from supcam.tracking.hashes import stage_names

# What DVC versions anyway stays out of the artifacts of a `dvc repro` run.
HEAVY = {".safetensors", ".onnx"}
# Stages whose work several processes of torchrun share.
SHARED = ("pretrain", "finetune")


@dataclass(frozen=True)
class Stage:
    """One stage at work.

    Attributes:
        name: Its name in ``dvc.yaml``.
        workspace: Where it reads and writes.
        run: Its tracked run.
        inputs: Hashes of its deps and its params, see ``tracking.stage_inputs``.
    """

    name: str
    workspace: Workspace
    run: tracking.Run
    inputs: dict[str, Any]

    @property
    def settings(self) -> Settings:
        """All settings of this execution."""
        return self.workspace.settings

    @property
    def data(self) -> Path:
        """The folder that ``data.dvc`` tracks."""
        return self.workspace.root / "data"

    @property
    def out(self) -> Path:
        """Folder of this stage's outputs."""
        return self.workspace.outputs / self.name

    @property
    def report(self) -> Path:
        """Folder for pages that are read and not versioned."""
        above = self.workspace.outputs if self.workspace.own_folder else self.workspace.root
        return above / "reports" / self.name

    def read(self, relative: str) -> Path:
        """Path of an earlier stage's output.

        Raises:
            UsageError: when no folder has it.
        """
        path = self.workspace.find(relative)
        if path is None:
            raise UsageError(
                f"stage {self.name} needs {OUTPUTS / relative}, which does not exist. "
                f"Run: dvc repro {Path(relative).parts[0]}"
            )
        return path

    def log_crops(self, name: str, frame: pd.DataFrame, context: str, *, dep: str, source: Path) -> None:
        """Name crops (rows of a manifest) that this stage reads in its run: hash, folder and how many of each type.

        ``context`` is their role: raw, training, validation or test; the hash of ``dep`` in ``dvc.yaml`` decides which
        crops these are.
        """
        counts = {str(label): int(count) for label, count in frame["type"].value_counts(sort=False).items()}
        digest = self.inputs["deps"].get(dep) or "missing"
        self.run.log_dataset(name, digest, str(source), context, {"crops": len(frame), **counts})

    @property
    def state(self) -> Path:
        """Folder for checkpoints: the same inputs, code and settings resume, others start from scratch."""
        return self.state_of(key_of(identity(self.settings, self.name, self.inputs["deps"]))[:16])

    def state_of(self, key: str) -> Path:
        """Folder of the checkpoints or study with this key."""
        return self.workspace.root / "state" / self.name / key


Work = Callable[[Stage], str]


def execute(name: str, work: Work, workspace: Workspace) -> None:
    """Do one stage: run its work, keep its outputs as artifacts, print its summary line.

    Of several processes of torchrun the first does so; the others take part in the work alone.

    Raises:
        UsageError: for several processes of a stage that they cannot share.
    """
    if processes() > 1 and name not in SHARED:
        raise UsageError(
            f"stage {name} runs in one process, not in {processes()}; torchrun may start {' and '.join(SHARED)}. "
            f"Run: python -m pipelines.{name}"
        )
    if rank() > 0:
        _assist(name, work, workspace)
        return
    with _tracked(name, workspace) as stage:
        stage.out.mkdir(parents=True, exist_ok=True)
        try:
            summary = work(stage)
        except BaseException:
            with suppress(OSError):  # it holds something
                stage.out.rmdir()
            raise
        _keep_artifacts(stage)
        stage.run.set_tags({"mlflow.note.content": summary})
    Console().print(f"[bold]{name}[/bold]: {escape(summary)}", highlight=False, soft_wrap=True)


@contextmanager
def _tracked(name: str, workspace: Workspace) -> Iterator[Stage]:
    root, located = workspace.root, workspace.located(name)
    inputs = tracking.stage_inputs(root, name, located)
    with tracking.stage_run(
        name, root, workspace.settings, parent_run_id=workspace.parent, tags=workspace.tags, located=located
    ) as run:
        yield Stage(name, workspace, run, inputs)


def _assist(name: str, work: Work, workspace: Workspace) -> None:
    """Do the work without a run of its own, and drop the outputs: they are the first process's to write."""
    with TemporaryDirectory() as folder:
        here = replace(workspace, outputs=Path(folder), upstream=(workspace.outputs, *workspace.upstream))
        inputs = tracking.stage_inputs(workspace.root, name, workspace.located(name))
        stage = Stage(name, here, tracking.UntrackedRun(workspace.root), inputs)
        stage.out.mkdir()
        try:
            work(stage)
        finally:
            if workspace.own_folder:
                shutil.rmtree(workspace.outputs)


def _keep_artifacts(stage: Stage) -> None:
    if stage.workspace.own_folder:
        stage.run.log_artifact(stage.out, f"{OUTPUTS}/{stage.name}")
        return
    for path in sorted(stage.out.iterdir()):
        if path.is_file() and path.suffix not in HEAVY:
            stage.run.log_artifact(path, f"{OUTPUTS}/{stage.name}")
    if (stage.out / "pictures").is_dir():
        stage.run.log_artifact(stage.out / "pictures", f"{OUTPUTS}/{stage.name}/pictures")


def code_hash(root: Path) -> str:
    """Hash of all code that makes a model: the code deps of every stage before promote."""
    deps = [inputs["deps"] for inputs in _upstream_inputs(root, {}).values()]
    code = {
        name: digest for each in deps for name, digest in each.items() if name.startswith(("supcam/", "pipelines/"))
    }
    return key_of(code)


def upstream_inputs(workspace: Workspace) -> dict[str, Any]:
    """Deps and params of every stage before promote, as ``dvc.lock`` has them."""
    return _upstream_inputs(workspace.root, {stage: workspace.located(stage) for stage in stage_names(workspace.root)})


def _upstream_inputs(root: Path, located: Mapping[str, Mapping[str, Path]]) -> dict[str, Any]:
    known: dict[Path, str | None] = {}  # what several stages read is hashed once
    stages = [stage for stage in stage_names(root) if stage != "promote"]
    return {stage: tracking.stage_inputs(root, stage, located.get(stage), known) for stage in stages}
