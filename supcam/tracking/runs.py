"""A tracked run on an explicit MLflow client: no global state, one true final status."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from supcam.errors import SupcamError
from supcam.settings import Settings
from supcam.tracking.project import tracking_uri
from supcam.tracking.provenance import all_versions, git_state, run_tags
from supcam.tracking.sender import Answer, Sender, chunks
from supcam.tracking.store import experiment_of, open_client, project_experiment

_MAX_TAG = 5000  # characters that MLflow takes
_RANDOM_NAME = re.compile(r"[a-z]+-[a-z]+-[0-9]+")  # what MLflow makes up, such as gaudy-ant-23
_TERMINATED = 128 + signal.SIGTERM


def take_parent_run(environ: "os._Environ[str] | dict[str, str]" = os.environ) -> str | None:
    """Take ``MLFLOW_RUN_ID`` out of the environment: left there, MLflow would reopen that run and end it too early."""
    return environ.pop("MLFLOW_RUN_ID", None) or None


class Run:
    """One run of the tracking store. Nothing here waits for a store that went away after the start.

    Attributes:
        run_id: Its id.
        experiment_id: The experiment it is in.
        client: The ``MlflowClient`` for what this class does not do.
        root: The project root.
        status: How it ended; None before.
    """

    def __init__(self, client: Any, run_id: str, experiment_id: str, root: Path, sender: Sender | None = None) -> None:
        self.client, self.run_id, self.experiment_id, self.root = client, run_id, experiment_id, root
        self.status: str | None = None
        self._sender = sender or Sender(client, tracking_uri(root))

    @classmethod
    def attach(cls, root: Path, run_id: str, experiment_id: str | None = None) -> "Run":
        """Write to a run that exists and that someone else ends, such as the one ``mlflow run`` made.

        Args:
            root: The project root.
            run_id: The run.
            experiment_id: Its experiment; where it is given, the server is not asked and may be away.

        Raises:
            SupcamError: when the server has to be asked and does not answer.
        """
        client = open_client(root, ask=experiment_id is None)
        return cls(client, run_id, experiment_id or client.get_run(run_id).info.experiment_id, root)

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Metrics of one step; they are collected and sent in the background.

        Raises:
            MlflowException: for a name of an earlier call that MLflow does not take.
        """
        self._sender.log(self.run_id, metrics, step)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Parameters; nested mappings become dotted names.

        Raises:
            MlflowException: for a parameter that has another value already.
        """
        from mlflow.entities import Param

        items = [Param(name, _text(value)) for name, value in flat(params).items() if value != {}]
        for chunk in chunks(items, 100):
            self._send("log_batch", params=chunk)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Tags, values as text, cut to what MLflow takes."""
        from mlflow.entities import RunTag

        for chunk in chunks([RunTag(name, _text(value)) for name, value in tags.items()], 100):
            self._send("log_batch", tags=chunk)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """One file, or all files of a folder, below ``folder`` of the run's artifacts.

        Raises:
            SupcamError: when there is no such file or folder.
        """
        if not path.exists():
            raise SupcamError(f"artifact {path} does not exist; a run can log only what was written.")
        self._send("log_artifacts" if path.is_dir() else "log_artifact", str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        """A text as the artifact ``name``."""

        def log() -> None:
            # Not by the client's own log_text: a patch may hold bytes that are no UTF-8.
            with TemporaryDirectory() as scratch:
                file = Path(scratch) / Path(name).name
                file.write_text(text, encoding="utf-8", errors="surrogateescape")
                parent = Path(name).parent.as_posix()
                self.client.log_artifact(self.run_id, str(file), None if parent == "." else parent)

        self._sender.send(log)

    def log_dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, object]) -> None:
        """A data set the run read.

        Args:
            name: Its name.
            digest: Hash of its content, of which MLflow keeps 36 characters.
            source: Where it lies.
            context: Its role: raw, training, validation or test.
            profile: Its counts.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        uri = json.dumps({"uri": source})
        dataset = Dataset(name, digest[:36], source_type="local", source=uri, profile=json.dumps(dict(profile)))
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        self._send("log_inputs", inputs)

    def ask(self, question: Callable[[Any], Answer]) -> Answer | None:
        """What the client answers to a question; None while the store is away."""
        return self._sender.ask(lambda: question(self.client))

    def flush(self) -> None:
        """Send collected metrics now."""
        self._sender.flush()

    def close(self) -> None:
        """Send what is left, for the last time; without it, metrics of a run that was attached to may be missing."""
        self._sender.close()

    def finish(self, status: str = "FINISHED", error: str | None = None) -> None:
        """End the run: FINISHED, FAILED or KILLED, with the error as a tag. Only the first call counts."""
        if self.status is None:
            self.status = status
            if error is not None:
                self.set_tags({"supcam.error": error})
            now = int(time.time() * 1000)
            self._send("set_terminated", status, now)

    def sibling(self, run_id: str) -> "Run":
        """Another run of the same experiment that exists, to write to."""
        return Run(self.client, run_id, self.experiment_id, self.root, self._sender)

    @contextmanager
    def child(self, name: str, tags: Mapping[str, object] | None = None) -> Iterator["Run"]:
        """A run below this one, ended as ``stage_run`` ends its run; an ``UntrackedRun`` while the store is away."""
        run_id = self.ask(lambda client: _create(client, self.experiment_id, name, tags or {}, self.run_id))
        with _ended(self.sibling(run_id) if run_id else UntrackedRun(self.root)) as run:
            yield run

    def _send(self, method: str, *values: object, **named: object) -> None:
        self._sender.send(lambda: getattr(self.client, method)(self.run_id, *values, **named))


class UntrackedRun(Run):
    """A run of which nothing is kept, for processes that share the work of another one. Its ``run_id`` is empty."""

    def __init__(self, root: Path) -> None:
        super().__init__(None, "", "", root, Sender(None, ""))


@contextmanager
def stage_run(
    stage: str,
    root: Path,
    settings: Settings,
    *,
    parent_run_id: str | None = None,
    tags: Mapping[str, object] | None = None,
    located: Mapping[str, Path] | None = None,
) -> Iterator[Run]:
    """The run of one stage, with everything that made it as tags, its settings as parameters and the diff as artifact.

    Args:
        stage: Name of the stage, and of the run.
        root: Project root.
        settings: All settings; the section of the stage becomes parameters.
        parent_run_id: The run above; default is the one of ``mlflow run`` (``MLFLOW_RUN_ID``), if any.
        tags: Further tags.
        located: Where dependencies really lie, see ``stage_inputs``.

    The status is FINISHED at the end of the block, KILLED after Ctrl-C or SIGTERM, else FAILED with the error as tag.

    Raises:
        SupcamError: when the tracking store cannot be reached at the start.
    """
    parent = parent_run_id or take_parent_run()
    client = open_client(root)
    experiment = experiment_of(client, parent) if parent else project_experiment(client, root)
    all_tags = {**run_tags(root, stage, settings, located), **(tags or {})}
    run = Run(client, _create(client, experiment, stage, all_tags, parent), experiment, root)
    try:
        with _ended(run):
            run.log_params(_stage_params(stage, settings))
            run.log_text(json.dumps(settings.model_dump(mode="json", by_alias=True), indent=1), "settings.json")
            run.log_text(all_versions(), "packages.txt")
            state = git_state(root)
            if state.dirty:
                run.log_text(state.diff, "changes.patch")
            yield run
    finally:
        run.close()


def _stage_params(stage: str, settings: Settings) -> dict[str, Any]:
    values = settings.model_dump(mode="json", by_alias=True)
    sections = ("runtime", "input", "model", stage) if stage in values else tuple(values)
    return {name: values[name] for name in sections if isinstance(values[name], dict)}


def tag_run(root: Path, run_id: str, stage: str, settings: Settings, overrides: Mapping[str, str]) -> None:
    """Give a run that ``mlflow run`` made the tags of a stage's run, and its name: the stage and what was overridden.

    A name that the user gave stays.

    Raises:
        UsageError: when the store has no such run.
    """
    client = open_client(root)
    experiment_of(client, run_id)
    if _RANDOM_NAME.fullmatch(client.get_run(run_id).info.run_name or ""):
        given = [f"{name}={value}" for name, value in overrides.items()]
        client.update_run(run_id, name=" ".join([stage, *given])[:250])
    for name, value in run_tags(root, stage, settings).items():
        if not name.startswith("mlflow."):  # those of its own say what started it
            client.set_tag(run_id, name, value)


def _create(client: Any, experiment: str, name: str, tags: Mapping[str, object], parent: str | None) -> str:
    texts = {key: _text(value) for key, value in tags.items()}
    if parent is not None:
        texts["mlflow.parentRunId"] = parent
    return str(client.create_run(experiment, int(time.time() * 1000), texts, name).info.run_id)


@contextmanager
def _ended(run: Run) -> Iterator[Run]:
    try:
        with _sigterm_raises():
            yield run
    except KeyboardInterrupt:
        run.finish("KILLED", "interrupted")
        raise
    except SystemExit as error:
        # Lightning turns Ctrl-C into an exit.
        killed = error.code == _TERMINATED or isinstance(error.__context__, KeyboardInterrupt)
        run.finish("KILLED" if killed else "FAILED" if error.code else "FINISHED", f"exit {error.code}")
        raise
    except BaseException as error:
        run.finish("FAILED", f"{type(error).__name__}: {error}")
        raise
    run.finish()


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that the run ends as killed; only where nobody else handles it."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    if ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted name; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return found


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return text[:_MAX_TAG]
