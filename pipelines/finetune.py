"""Stage finetune: cross-entropy fine-tuning of the pre-trained encoder."""

from safetensors.torch import load_file, save_file

from pipelines.crops import part, training_crops
from pipelines.stage import Stage, main
from supcam.training.finetuning import finetune as train


def finetune(stage: Stage) -> str:
    """Train the classifier."""
    encoder = load_file(stage.read("pretrain/encoder.safetensors"))
    result = train(
        training_crops(stage),
        part(stage, "validation"),
        stage.settings,
        encoder,
        state_dir=stage.state,
        log=stage.run.log,
    )
    save_file(result.model_state, stage.out / "model.safetensors")
    result.history.to_csv(stage.out / "history.csv", index=False)
    return result.summary


if __name__ == "__main__":
    main("finetune", finetune)
