"""Stage compose: make category-variant composites from the training crops."""

from supcam.composition.dataset import compose_set
from supcam.progress import progress_bar
from supcam.stages.command import main
from supcam.stages.crops import StageCrops
from supcam.stages.stage import Stage
from supcam.synthetic.singles import draw_singles


def compose(stage: Stage) -> str:
    """Write the composed set."""
    settings, crops = stage.settings.compose, StageCrops(stage).part("train")
    if settings.drawn.looks:
        crops = crops.concat(draw_singles(settings.drawn, settings.workers))
    with progress_bar("composites") as progress:
        report = compose_set(crops, settings, stage.out, progress=progress)
    stage.run.log({"composed": report.composed, **report.losses()})
    return "\n".join(report.lines())


if __name__ == "__main__":
    main("compose", compose)
