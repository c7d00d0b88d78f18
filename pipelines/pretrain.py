"""Stage pretrain: supervised contrastive pre-training with the self-margin loss."""

from safetensors.torch import save_file

from pipelines.crops import part, training_crops
from pipelines.stage import Stage, main
from supcam.settings import with_best_params
from supcam.training.pretraining import pretrain as train


def pretrain(stage: Stage) -> str:
    """Train the encoder with the tuned margin and temperature."""
    settings = with_best_params(stage.settings, stage.read("tune/best_params.yaml"))
    result = train(training_crops(stage), part(stage, "validation"), settings, state_dir=stage.state, log=stage.run.log)
    save_file(result.encoder_state, stage.out / "encoder.safetensors")
    result.history.to_csv(stage.out / "history.csv", index=False)
    return result.summary


if __name__ == "__main__":
    main("pretrain", pretrain)
