"""Where the stages of one execution read and write, and the settings they have in common."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supcam import tracking
from supcam.errors import UsageError
from supcam.settings import Settings, load_settings, profile_path, save_settings, with_best_params

OUTPUTS = Path("outputs")
BEST_PARAMS = "tune/best_params.yaml"


@dataclass(frozen=True)
class Workspace:
    """The folders, settings and run above of one execution.

    Attributes:
        root: The project.
        settings: All settings of this execution.
        outputs: ``outputs/`` under DVC, a folder of its own under ``mlflow run``.
        upstream: Further folders in which inputs are looked up, in order.
        own_folder: Whether ``outputs`` is a folder of its own, so that what DVC tracks stays untouched.
        parent: The run above, which ``mlflow run`` made.
        tags: Tags of every run of this execution.
        overrides: Names of the settings given for this execution, such as ``split.seed``.
    """

    root: Path
    settings: Settings
    outputs: Path
    upstream: tuple[Path, ...] = ()
    own_folder: bool = False
    parent: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    def find(self, relative: str) -> Path | None:
        """An output of an earlier stage, for example ``compose/manifest.csv``; None when there is none yet."""
        found = (folder / relative for folder in (self.outputs, *self.upstream))
        return next((path for path in found if path.exists()), None)

    def tuned_settings(self) -> Settings:
        """The settings with the margin, temperature and whatever else the study found.

        Raises:
            UsageError: when no study has finished.
        """
        return with_best_params(self.settings, self.find(BEST_PARAMS) or self.outputs / BEST_PARAMS)

    def located(self, stage: str) -> dict[str, Path]:
        """Where the deps and settings of a stage really lie; empty under DVC."""
        if not self.own_folder:
            return {}
        deps = tracking.stage_inputs(self.root, stage)["deps"]
        outputs = [dep for dep in deps if dep.startswith(f"{OUTPUTS}/")]
        found = {dep: self.find(dep.removeprefix(f"{OUTPUTS}/")) for dep in outputs}
        settings = {"params.yaml": self.outputs / "params.yaml"}
        return settings | {dep: path for dep, path in found.items() if path is not None}


def open_workspace(
    root: Path, label: str, own_folder: bool, profile: str, device: str, from_run: str, extra: list[str]
) -> Workspace:
    """The workspace of one execution, from the options of its command line (see ``command``); ``label`` names it.

    Raises:
        UsageError: for an option that is not a setting, a wrong setting, or a run that is not there.
    """
    tracking.quiet()
    overrides = overrides_from(extra) | ({"runtime.device": device} if device else {})
    parent = tracking.take_parent_run()
    given = tuple(overrides)
    if not own_folder:
        settings = load_settings(root / "params.yaml", overrides)
        return Workspace(root, settings, root / OUTPUTS, parent=parent, overrides=given)
    outputs = root / "runs" / f"{label}-{parent or os.urandom(8).hex()}"
    settings = load_settings(profile_path(profile) if profile else root / "params.yaml", overrides)
    outputs.mkdir(parents=True)
    upstream: tuple[Path, ...] = (root / OUTPUTS,)
    try:
        save_settings(settings, outputs / "params.yaml")
        if parent:
            tracking.tag_run(root, parent, label, settings, overrides)
        if from_run:
            tracking.fetch_outputs(root, from_run, outputs / "upstream")
            upstream = (outputs / "upstream" / OUTPUTS, *upstream)
    except BaseException:
        shutil.rmtree(outputs, ignore_errors=True)
        raise
    tags = {"supcam.from_run": from_run} if from_run else {}
    return Workspace(root, settings, outputs, upstream, own_folder=True, parent=parent, tags=tags, overrides=given)


def overrides_from(extra: list[str]) -> dict[str, str]:
    """Read ``--section.key value`` pairs; a flag without a value has an empty one.

    Raises:
        UsageError: for anything else.
    """
    overrides = {}
    for flag, value in zip(extra[::2], [*extra[1::2], ""][: (len(extra) + 1) // 2], strict=True):
        if not flag.startswith("--") or "." not in flag:
            raise UsageError(f"option {flag!r} is unknown; allowed are settings such as --pretrain.epochs 5.")
        overrides[flag.removeprefix("--")] = value
    return overrides
