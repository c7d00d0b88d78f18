"""Stage compose: make category-variant composites from the training crops."""

from supcam.composition.dataset import compose_set
from supcam.progress import progress_bar
from supcam.stages.command import main
from supcam.stages.crops import StageCrops
from supcam.stages.stage import Stage


def compose(stage: Stage) -> str:
    """Write the composed set."""
    with progress_bar("composites") as progress:
        report = compose_set(StageCrops(stage).part("train"), stage.settings.compose, stage.out, progress=progress)
    stage.run.log({"composed": report.composed, **report.losses()})
    return "\n".join(report.lines())


if __name__ == "__main__":
    main("compose", compose)
