"""Stage pretrain: supervised contrastive pre-training with the self-margin loss."""

from shutil import copytree

import pandas as pd
from safetensors.torch import save_file

from supcam.stages.command import main
from supcam.stages.crops import StageCrops
from supcam.stages.stage import Stage
from supcam.training.pretraining import pretrain as train

PLOTTED = ("epoch", "loss", "knn_sensitivity", "probe_sensitivity")


def pretrain(stage: Stage) -> str:
    """Train the encoder with the tuned margin and temperature."""
    crops = StageCrops(stage)
    # Beside the checkpoints, since a resumed run does not draw again what it drew before it was cut off.
    pictures = stage.state / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    result = train(
        crops.training(),
        crops.part("validation"),
        stage.workspace.tuned_settings(),
        state_dir=stage.state,
        log=stage.run.log,
        pictures=pictures,
    )
    copytree(pictures, stage.out / "pictures", dirs_exist_ok=True)
    save_file(result.encoder_state, stage.out / "encoder.safetensors")
    # DVC cannot plot a table without rows, which no epochs leave.
    history = pd.DataFrame([dict.fromkeys(PLOTTED)]) if result.history.empty else result.history
    history.to_csv(stage.out / "history.csv", index=False)
    return result.summary


if __name__ == "__main__":
    main("pretrain", pretrain)
