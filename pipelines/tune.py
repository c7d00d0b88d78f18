"""Stage tune: find margin and temperature with Optuna."""

from supcam.stages.command import main
from supcam.stages.crops import StageCrops
from supcam.stages.stage import Stage
from supcam.tuning.study import study_key
from supcam.tuning.study import tune as search


def tune(stage: Stage) -> str:
    """Run the study, or go on with it."""
    key = study_key(stage.inputs["deps"], stage.settings)
    state, crops = stage.state_of(key), StageCrops(stage)
    result = search(
        crops.training(),
        crops.part("validation"),
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
