"""Stage compose: make category-variant composites from the training crops."""

from supcam.composition.dataset import compose_set
from supcam.progress import progress_bar
from supcam.stages.command import main
from supcam.stages.crops import StageCrops
from supcam.stages.stage import Stage
from supcam.synthetic.singles import with_drawn


def compose(stage: Stage) -> str:
    """Write the composed set."""
    settings = stage.settings.compose
    crops = with_drawn(StageCrops(stage).part("train"), settings.drawn, settings.workers)
    with progress_bar("composites") as progress:
        report = compose_set(crops, settings, stage.out, progress=progress)
    stage.run.log({"composed": report.composed, **report.losses()})
    return "\n".join(report.lines())


if __name__ == "__main__":
    main("compose", compose)
