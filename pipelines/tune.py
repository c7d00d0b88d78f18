"""Stage tune: find margin and temperature with Optuna."""

from pipelines.crops import part, training_crops
from pipelines.stage import Stage, main
from supcam.tuning import study_key
from supcam.tuning import tune as search


def tune(stage: Stage) -> str:
    """Run the study, or go on with it."""
    key = study_key(stage.inputs["deps"], stage.settings)
    state = stage.state_of(key)
    result = search(
        training_crops(stage),
        part(stage, "validation"),
        stage.settings,
        storage=stage.settings.tune.storage or f"sqlite:///{state / 'study.db'}",
        study_name=key,
        state_dir=state,
        run=stage.run,
    )
    result.write(stage.out)
    return result.summary


if __name__ == "__main__":
    main("tune", tune)
