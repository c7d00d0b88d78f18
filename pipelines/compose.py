"""Stage compose: make category-variant composites from the training crops."""

from pipelines.crops import part
from pipelines.stage import Stage, main
from supcam.composition.stage import compose_set


def compose(stage: Stage) -> str:
    """Write the composed set."""
    report = compose_set(part(stage, "train"), stage.settings.compose, stage.out)
    return report.summary


if __name__ == "__main__":
    main("compose", compose)
