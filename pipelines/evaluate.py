"""Stage evaluate: judge the model on the test crops and package it."""

import json

from rich.console import Console
from safetensors.torch import load_file

from pipelines.crops import part
from pipelines.stage import Stage, code_hash, main
from supcam.data.manifest import read_manifest
from supcam.evaluation.report import evaluate as judge
from supcam.registry.candidate import package_candidate
from supcam.settings import with_best_params
from supcam.training.prediction import predict_logits


def evaluate(stage: Stage) -> str:
    """Write metrics, tables, figures and the package that promote registers."""
    settings = with_best_params(stage.settings, stage.read("tune/best_params.yaml"))
    weights = load_file(stage.read("finetune/model.safetensors"))
    validation, test = part(stage, "validation"), part(stage, "test")
    validation_logits = predict_logits(weights, validation, settings)
    evaluation = judge(
        predict_logits(weights, test, settings),
        test.frame,
        settings.evaluate,
        validation_logits=validation_logits,
        validation_labels=validation.labels,
    )
    evaluation.write(stage.out, test.images)
    split = json.loads(stage.read("split/split.json").read_text(encoding="utf-8"))
    package_candidate(
        weights,
        settings,
        stage.out / "package",
        manifest=read_manifest(stage.read("split/manifest.csv")),
        hashes={
            "split": split["split_hash"],
            "composed": stage.inputs["deps"]["outputs/compose"],
            "code": code_hash(stage.place.root),
        },
        metrics=evaluation.metrics,
        test=test,
        validation_logits=validation_logits,
        validation_labels=validation.labels,
    )
    figures = {name: value for name, value in evaluation.metrics.items() if isinstance(value, float)}
    per_type = {f"sensitivity/{name}": row["sensitivity"] for name, row in evaluation.metrics["per_type"].items()}
    stage.run.log(figures | {name: value for name, value in per_type.items() if value is not None})
    Console(width=100).print(evaluation.summary())
    return (
        f"{len(test)} test crops: accuracy {evaluation.metrics['accuracy']:.4f}, "
        f"macro sensitivity {evaluation.metrics['macro_sensitivity']:.4f}"
    )


if __name__ == "__main__":
    main("evaluate", evaluate)
