"""The main job of `mlflow run .`: every stage from validate to evaluate, then the registry."""

from typing import Annotated

import typer

from pipelines import compose, evaluate, finetune, pretrain, promote, split, tune, validate, validate_composed
from supcam import tracking
from supcam.errors import UsageError
from supcam.stages.command import EXTRA_OPTIONS, Device, FromRun, OwnFolder, Profile, exit_codes
from supcam.stages.stage import Work, execute
from supcam.stages.workspace import open_workspace

STAGES: dict[str, Work] = {
    "validate": validate.validate,
    "split": split.split,
    "compose": compose.compose,
    "validate_composed": validate_composed.validate_composed,
    "tune": tune.tune,
    "pretrain": pretrain.pretrain,
    "finetune": finetune.finetune,
    "evaluate": evaluate.evaluate,
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings=EXTRA_OPTIONS)
def main(
    context: typer.Context,
    own_folder: OwnFolder = True,
    profile: Profile = "",
    device: Device = "",
    from_run: FromRun = "",
    through_gate: Annotated[str, typer.Option("--promote", help="true: go through the promotion gate.")] = "false",
) -> None:
    """Run all stages into one folder and register the model as candidate, or promote it."""
    if through_gate not in ("true", "false"):
        raise UsageError(f"promote = {through_gate!r} is not allowed; allowed are true and false.")
    root = tracking.project_root()
    last = promote.promote if through_gate == "true" else promote.register
    workspace = open_workspace(root, "main", own_folder, profile, device, from_run, context.args)
    for name, work in (STAGES | {"promote": last}).items():
        execute(name, work, workspace)


if __name__ == "__main__":
    with exit_codes():
        app()
