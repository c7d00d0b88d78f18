"""Stage evaluate: judge the model on the test crops and package it."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from safetensors.torch import load_file

from supcam.evaluation.report import evaluate as judge
from supcam.files import write_text
from supcam.registry.candidate import licence_notices, package_candidate
from supcam.stages.command import main
from supcam.stages.crops import StageCrops
from supcam.stages.stage import Stage, code_hash
from supcam.training.prediction import load_classifier, predict_each


def evaluate(stage: Stage) -> str:
    """Write metrics, tables, pictures and the package that promote registers."""
    settings, crops = stage.workspace.tuned_settings(), StageCrops(stage)
    classifier = load_classifier(load_file(stage.read("finetune/model.safetensors")), settings)
    validation, test = crops.part("validation"), crops.part("test")
    validation_logits, test_logits = predict_each(classifier, [validation, test], settings)
    evaluation = judge(
        test_logits,
        test.frame,
        settings.evaluate,
        validation_logits=validation_logits,
        validation_labels=validation.labels,
    )
    evaluation.write(stage.out, test.images)
    split = json.loads(stage.read("split/split.json").read_text(encoding="utf-8"))
    package_candidate(
        classifier,
        settings,
        stage.out / "package",
        manifest=crops.manifest,
        hashes={
            "split": split["split_hash"],
            "composed": stage.inputs["deps"]["outputs/compose"],
            "code": code_hash(stage.workspace.root),
        },
        metrics=evaluation.metrics,
        training=crops.part("train"),
        validation=validation,
        test=test,
        validation_logits=validation_logits,
        test_logits=test_logits,
        licences=licence_notices(stage.data),
    )
    write_text(stage.out / "summary.json", json.dumps(headline(evaluation.metrics), indent=1) + "\n")
    level = "confidence"  # of the intervals, no metric
    overall = {name: value for name, value in evaluation.metrics.items() if isinstance(value, float) and name != level}
    per_type = {f"sensitivity/{name}": row["sensitivity"] for name, row in evaluation.metrics["per_type"].items()}
    stage.run.log(overall | {name: value for name, value in per_type.items() if value is not None})
    Console(width=100).print(evaluation.summary())
    return (
        f"{len(test)} test crops: accuracy {evaluation.metrics['accuracy']:.4f}, "
        f"macro sensitivity {evaluation.metrics['macro_sensitivity']:.4f}"
    )


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The few metrics that `dvc metrics` compares, four digits; undefined ones are left out."""
    overall = ("accuracy", "macro_sensitivity", "macro_f1", "macro_auc", "calibration_error_calibrated")
    sensitivity = {label: row["sensitivity"] for label, row in metrics["per_type"].items()}
    return _rounded({name: metrics[name] for name in overall}) | {"sensitivity": _rounded(sensitivity)}


def _rounded(metrics: Mapping[str, float | None]) -> dict[str, Any]:
    return {name: round(value, 4) for name, value in metrics.items() if value is not None}


if __name__ == "__main__":
    main("evaluate", evaluate)
