"""Print the section of docs/results.md about the project's present outputs: python -m benchmarks.results TITLE."""

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from supcam import tracking
from supcam.cluster_type import TYPE_LABELS
from supcam.settings import load_settings, with_best_params


def section(root: Path, title: str) -> str:
    """Figures on the by-case test split with 95 % intervals, warnings of the split, settings, time and device."""
    out = root / "outputs"
    metrics = _json(out / "evaluate/metrics.json")
    split = _json(out / "split/split.json")
    lines = [f"## {title}", "", _origin(root), "", *_figures(metrics), "", *_training_counts(split)]
    lines += ["", "Warnings of the split:", "", *(f"* {warning}" for warning in split["warnings"] or ["none"])]
    lines += ["", "Notes of the evaluation:", "", *(f"* {note}" for note in metrics["notes"] or ["none"])]
    for name, figures in {**metrics.get("by_source", {}), **_certain(metrics)}.items():
        shown = ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in figures.items())
        lines += ["", f"{name}: {shown}"]
    return "\n".join([*lines, "", *_settings(root), "", *_times(root), ""])


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _origin(root: Path) -> str:
    state = tracking.git_state(root)
    commit = (state.commit or "no commit")[:12]
    device, python = tracking.device_name("cpu"), platform.python_version()
    return f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, {device}, Python {python}"


def _figures(metrics: dict[str, Any]) -> list[str]:
    lines = ["| figure | test crops | value | 95 % interval |", "|---|---|---|---|"]
    for name in ("accuracy", "macro_sensitivity", "macro_specificity", "micro_specificity"):
        span = (metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))
        lines.append(f"| {name.replace('_', ' ')} | {metrics['crops']} | {_number(metrics[name])} | {_span(*span)} |")
    for label in TYPE_LABELS:
        row = metrics["per_type"].get(label, {"count": 0, "sensitivity": None})
        span = (row.get("sensitivity_low"), row.get("sensitivity_high"))
        lines.append(f"| sensitivity, {label} | {row['count']} | {_number(row['sensitivity'])} | {_span(*span)} |")
    return lines


def _training_counts(split: dict[str, Any]) -> list[str]:
    lines = ["| part | " + " | ".join(TYPE_LABELS) + " | groups |", "|---" * (len(TYPE_LABELS) + 2) + "|"]
    for part, counts in split["counts"].items():
        cells = " | ".join(str(counts.get(label, 0)) for label in TYPE_LABELS)
        lines.append(f"| {part} | {cells} | {split['groups'][part]} |")
    return lines


def _certain(metrics: dict[str, Any]) -> dict[str, Any]:
    return {"label_certain not no": metrics["certain"]} if "certain" in metrics else {}


def _settings(root: Path) -> list[str]:
    settings = with_best_params(load_settings(root / "params.yaml"), root / "outputs/tune/best_params.yaml")
    values = settings.model_dump(mode="json", by_alias=True)
    told = {name: values[name] for name in ("profile", "input", "model", "pretrain", "finetune")}
    told["compose"] = {"count": values["compose"]["count"]}
    return [
        "<details><summary>Settings</summary>",
        "",
        "```yaml",
        yaml.safe_dump(told, sort_keys=False) + "```",
        "",
        "</details>",
    ]


def _times(root: Path) -> list[str]:
    """Wall time of the last finished run of each stage, from the tracking store."""
    client = tracking.open_client(root)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    lines, total = ["| stage | seconds |", "|---|---|"], 0.0
    for stage in stages:
        query = f"tags.`supcam.stage` = '{stage}' and attributes.status = 'FINISHED'"
        runs = client.search_runs(
            [experiment.experiment_id], query, order_by=["attributes.start_time DESC"], max_results=1
        )
        if runs:
            seconds = (runs[0].info.end_time - runs[0].info.start_time) / 1000
            total += seconds
            lines.append(f"| {stage} | {seconds:.0f} |")
    return [*lines, f"| all | {total:.0f} |"]


def _number(value: Any) -> str:
    return "no test crop" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4f} - {high:.4f}"


if __name__ == "__main__":
    print(section(tracking.project_root(), " ".join(sys.argv[1:]) or "Present outputs"))
