"""Stage finetune: cross-entropy fine-tuning of the pre-trained encoder, or joint training with the contrastive loss."""

from safetensors.torch import load_file, save_file

from supcam.stages.command import main
from supcam.stages.crops import StageCrops
from supcam.stages.stage import Stage
from supcam.training.finetuning import finetune as train


def finetune(stage: Stage) -> str:
    """Train the classifier."""
    settings, crops = stage.workspace.tuned_settings(), StageCrops(stage)
    weights = stage.read("pretrain/encoder.safetensors")
    result = train(
        crops.training(),
        crops.part("validation"),
        settings,
        load_file(weights) if settings.pretrain.epochs else None,  # random ones need no epochs of the head alone
        state_dir=stage.state,
        log=stage.run.log,
    )
    save_file(result.model_state, stage.out / "model.safetensors")
    result.history.to_csv(stage.out / "history.csv", index=False)
    return result.summary


if __name__ == "__main__":
    main("finetune", finetune)
