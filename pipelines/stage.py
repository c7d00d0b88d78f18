"""What every stage script shares: settings, where inputs come from, where outputs go, the tracked run, exit codes."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
import typer
import yaml
from rich.console import Console
from rich.markup import escape

from supcam import tracking
from supcam.errors import SupcamError, UsageError, explained
from supcam.processes import processes, rank
from supcam.settings import PROFILES, Settings, load_settings, profile_path, save_settings

OUTPUTS = Path("outputs")
# What DVC versions anyway stays out of the artifacts of a `dvc repro` run.
HEAVY = {".safetensors", ".onnx"}
# Stages whose work several processes of torchrun share.
SHARED = ("pretrain", "finetune")


@dataclass(frozen=True)
class Place:
    """Where the stages of one execution read and write.

    ``outputs`` is ``outputs/`` under DVC and a folder of its own under ``mlflow run``; ``upstream`` are further folders
    in which inputs are looked up, in order.
    """

    root: Path
    settings: Settings
    outputs: Path
    upstream: tuple[Path, ...] = ()
    own_folder: bool = False
    parent: str | None = None  # the run above, which `mlflow run` made
    tags: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()  # settings given for this execution, such as split.seed

    def find(self, relative: str) -> Path | None:
        """An output of an earlier stage, for example ``compose/manifest.csv``; None when there is none yet."""
        found = (folder / relative for folder in (self.outputs, *self.upstream))
        return next((path for path in found if path.exists()), None)


@dataclass(frozen=True)
class Stage:
    """One stage at work: its settings, inputs, output folder and tracked run."""

    name: str
    place: Place
    run: tracking.Run
    inputs: dict[str, Any]

    @property
    def settings(self) -> Settings:
        """All settings of this execution."""
        return self.place.settings

    @property
    def data(self) -> Path:
        """The folder that ``data.dvc`` tracks."""
        return self.place.root / "data"

    @property
    def out(self) -> Path:
        """Folder of this stage's outputs."""
        return self.place.outputs / self.name

    @property
    def report(self) -> Path:
        """Folder for pages that are read and not versioned."""
        reports = self.place.outputs / "reports" if self.place.own_folder else self.place.root / "reports"
        return reports / self.name

    def read(self, relative: str) -> Path:
        """Path of an earlier stage's output.

        Raises:
            UsageError: when no folder has it.
        """
        path = self.place.find(relative)
        if path is None:
            raise UsageError(
                f"stage {self.name} needs {OUTPUTS / relative}, which does not exist. "
                f"Run: dvc repro {Path(relative).parts[0]}"
            )
        return path

    def log_crops(self, name: str, frame: pd.DataFrame, context: str, *, dep: str, source: Path) -> None:
        """Name crops that this stage reads in its run: with a hash, where they lie, and how many of each type.

        Args:
            name: Name of the data set, for example ``crops, train``.
            frame: Rows of a manifest.
            context: Their role: raw, training, validation or test.
            dep: The dependency in ``dvc.yaml`` whose hash decides which crops these are.
            source: Their folder.
        """
        counts = {str(label): int(count) for label, count in frame["type"].value_counts(sort=False).items()}
        digest = self.inputs["deps"].get(dep) or "missing"
        self.run.log_dataset(name, digest, str(source), context, {"crops": len(frame), **counts})

    @property
    def key(self) -> str:
        """Hash of all that determines the result: inputs, code, settings, profile."""
        settings = self.settings.model_dump(mode="json", by_alias=True)
        del settings["runtime"]["progress"]
        fresh = ("compose",) if settings["compose"]["on_the_fly"] else ()
        relevant = {name: settings[name] for name in ("profile", "runtime", "input", "model", *fresh, self.name)}
        text = json.dumps({"deps": self.inputs["deps"], "settings": relevant}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def state(self) -> Path:
        """Folder for checkpoints: the same key resumes, another starts anew, old ones are kept."""
        return self.state_of(self.key)

    def state_of(self, key: str) -> Path:
        """Folder of the checkpoints or study with this key."""
        return self.place.root / "state" / self.name / key


Work = Callable[[Stage], str]


@contextmanager
def _tracked(name: str, place: Place) -> Iterator[Stage]:
    located = _located(place, name)
    inputs = tracking.stage_inputs(place.root, name, located)
    with tracking.stage_run(
        name, place.root, place.settings, parent_run_id=place.parent, tags=place.tags, located=located
    ) as run:
        yield Stage(name, place, run, inputs)


def _located(place: Place, name: str) -> dict[str, Path]:
    """Where the deps and settings of a stage really lie; empty under DVC."""
    if not place.own_folder:
        return {}
    deps = tracking.stage_inputs(place.root, name)["deps"]
    outputs = [dep for dep in deps if dep.startswith(f"{OUTPUTS}/")]
    found = {dep: place.find(dep.removeprefix(f"{OUTPUTS}/")) for dep in outputs}
    settings = {"params.yaml": place.outputs / "params.yaml"}
    return settings | {dep: path for dep, path in found.items() if path is not None}


def execute(name: str, work: Work, place: Place) -> None:
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
        _assist(name, work, place)
        return
    with _tracked(name, place) as stage:
        stage.out.mkdir(parents=True, exist_ok=True)
        try:
            summary = work(stage)
        except BaseException:
            with suppress(OSError):  # it holds something
                stage.out.rmdir()
            raise
        _keep_artifacts(stage)
    Console().print(f"[bold]{name}[/bold]: {escape(summary)}", highlight=False, soft_wrap=True)


def _assist(name: str, work: Work, place: Place) -> None:
    """Do the work without a run of its own, and drop the outputs: they are the first process's to write."""
    with TemporaryDirectory() as folder:
        here = replace(place, outputs=Path(folder), upstream=(place.outputs, *place.upstream))
        inputs = tracking.stage_inputs(place.root, name, _located(place, name))
        stage = Stage(name, here, tracking.UntrackedRun(place.root), inputs)
        stage.out.mkdir()
        try:
            work(stage)
        finally:
            if place.own_folder:
                shutil.rmtree(place.outputs)


def _keep_artifacts(stage: Stage) -> None:
    if stage.place.own_folder:
        stage.run.log_artifacts(stage.out, f"{OUTPUTS}/{stage.name}")
        return
    for path in sorted(stage.out.iterdir()):
        if path.is_file() and path.suffix not in HEAVY:
            stage.run.log_artifact(path, f"{OUTPUTS}/{stage.name}")
    if (stage.out / "pictures").is_dir():
        stage.run.log_artifacts(stage.out / "pictures", f"{OUTPUTS}/{stage.name}/pictures")


def code_hash(root: Path) -> str:
    """Hash of all code that makes a model: the code deps of every stage before promote."""
    files = {
        dep: digest for stage in _stages(root) for dep, digest in tracking.stage_inputs(root, stage)["deps"].items()
    }
    code = {dep: digest for dep, digest in files.items() if dep.startswith(("supcam/", "pipelines/"))}
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()


def upstream_tags(place: Place) -> dict[str, str]:
    """The run above, and deps and params of every stage before promote, one tag a stage, as ``dvc.lock`` has them."""
    tags = {
        f"supcam.upstream/{stage}": json.dumps(tracking.stage_inputs(place.root, stage, _located(place, stage)))
        for stage in _stages(place.root)
    }
    return tags | ({"supcam.run": place.parent} if place.parent else {})


def _stages(root: Path) -> list[str]:
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    return [stage for stage in yaml.safe_load(text)["stages"] if stage != "promote"]


def overrides_from(extra: list[str]) -> dict[str, str]:
    """Read ``--section.key value`` pairs.

    Raises:
        UsageError: for anything else.
    """
    overrides = {}
    for flag, value in zip(extra[::2], [*extra[1::2], ""][: (len(extra) + 1) // 2], strict=True):
        if not flag.startswith("--") or "." not in flag:
            raise UsageError(f"option {flag!r} is unknown; allowed are settings such as --pretrain.epochs 5.")
        overrides[flag.removeprefix("--")] = value
    return overrides


def main(name: str, work: Work) -> None:
    """Entry point of a stage script. Ends with the exit code of the design; a user's mistake shows no traceback."""
    with exit_codes():
        _application(name, work)()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors that users cause into one line on stderr and their exit code."""
    try:
        yield
    except (SupcamError, OSError) as error:
        told = explained(error)
        Console(stderr=True).print(f"error: {told}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(told.exit_code)


def _application(name: str, work: Work) -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(help=(sys.modules[work.__module__].__doc__ or name).strip(), context_settings=EXTRA_OPTIONS)
    def command(
        context: typer.Context,
        own_folder: OwnFolder = False,
        profile: Profile = "",
        device: Device = "",
        from_run: FromRun = "",
    ) -> None:
        root = tracking.project_root()
        execute(name, work, open_place(root, name, own_folder, profile, device, from_run, context.args))

    return app


EXTRA_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
OwnFolder = Annotated[bool, typer.Option(help="Write below runs/ and leave what DVC tracks untouched.")]
Profile = Annotated[str, typer.Option(help=f"{', '.join(PROFILES)}; empty: params.yaml as it is.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; empty: as the settings say.")]
FromRun = Annotated[str, typer.Option(help="Take upstream outputs from this run; empty: the present DVC outputs.")]


def open_place(
    root: Path, label: str, own_folder: bool, profile: str, device: str, from_run: str, extra: list[str]
) -> Place:
    """The place of one execution: settings and overrides, folders, and the run above."""
    tracking.quiet()
    overrides = overrides_from(extra) | ({"runtime.device": device} if device else {})
    parent = tracking.take_parent_run()
    given = tuple(overrides)
    if not own_folder:
        settings = load_settings(root / "params.yaml", overrides)
        return Place(root, settings, root / OUTPUTS, parent=parent, overrides=given)
    outputs = root / "runs" / f"{label}-{parent or os.urandom(8).hex()}"
    settings = load_settings(profile_path(profile) if profile else root / "params.yaml", overrides)
    outputs.mkdir(parents=True)
    upstream: tuple[Path, ...] = (root / OUTPUTS,)
    try:
        save_settings(settings, outputs / "params.yaml")
        if parent:
            tracking.tag_run(root, parent, label, settings)
        if from_run:
            tracking.fetch_outputs(root, from_run, outputs / "upstream")
            upstream = (outputs / "upstream" / OUTPUTS, *upstream)
    except BaseException:
        shutil.rmtree(outputs, ignore_errors=True)
        raise
    tags = {"supcam.from_run": from_run} if from_run else {}
    return Place(root, settings, outputs, upstream, own_folder=True, parent=parent, tags=tags, overrides=given)
