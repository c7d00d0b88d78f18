"""Stage compose: make category-variant composites from the training crops."""

from pipelines.crops import part
from pipelines.stage import Stage, main
from supcam.composition.dataset import compose_set


def compose(stage: Stage) -> str:
    """Write the composed set."""
    report = compose_set(part(stage, "train"), stage.settings.compose, stage.out)
    stage.run.log({"composed": report.composed})
    return "\n".join(report.lines())


if __name__ == "__main__":
    main("compose", compose)
