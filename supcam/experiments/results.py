"""Sections of docs/results.md, all generated: present outputs, out-of-fold figures, the ablation, ChrCluster."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from supcam import tracking
from supcam.cluster_type import TYPE_LABELS
from supcam.errors import SupcamError, UsageError, explained
from supcam.evaluation.report import told_cases
from supcam.experiments.runner import origin
from supcam.files import write_text
from supcam.settings import Settings, load_settings, with_best_params

# What the project set out to reach on crops of cases never seen, by source and figure.
GOALS = {
    "clinical-12-cases": {"accuracy": 0.93, "macro_sensitivity": 0.85},
    "mfish-slides": {"accuracy": 0.95, "macro_sensitivity": 0.87},
}


def section(root: Path, title: str) -> str:
    """Figures on the by-case test split with 95 % intervals, warnings of the split, settings, time and device."""
    out = root / "outputs"
    metrics = _json(out / "evaluate/metrics.json")
    split = _json(out / "split/split.json")
    lines = [
        f"## {title}",
        "",
        origin(root, tracking.device_name("cpu")),
        "",
        *_figures(metrics),
        "",
        *_part_counts(split),
    ]
    lines += ["", "Warnings of the split:", "", *(f"* {warning}" for warning in split["warnings"] or ["none"])]
    lines += ["", "Notes of the evaluation:", "", *(f"* {note}" for note in metrics["notes"] or ["none"])]
    for name, figures in {**metrics.get("by_source", {}), **_certain(metrics)}.items():
        lines += ["", f"{name}: {_subset_line(figures)}"]
    return "\n".join([*lines, "", *_settings(root), "", *_times(root), ""])


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def put_section(page: Path, name: str, text: str) -> None:
    """Put a section into a page, in place of an earlier one of that name; the rest of the page stays."""
    begin, end = f"<!-- begin {name}: made by a command, not typed -->", f"<!-- end {name} -->"
    section = f"{begin}\n{text.strip()}\n{end}\n"
    content = page.read_text(encoding="utf-8") if page.is_file() else ""
    if begin in content and end in content:
        before, _, rest = content.partition(begin)
        write_text(page, before + section + rest.partition(end)[2].removeprefix("\n"))
    else:
        write_text(page, f"{content.rstrip()}\n\n{section}".lstrip())


def folds_section(content: dict[str, Any]) -> str:
    """Out-of-fold figures of every subset, with their settings."""
    seeds = content["seeds"]
    lines = [
        f"## Cases never seen: {content['folds']}-fold, {seeds} seed{'s' * (seeds > 1)}",
        "",
        f"{content['origin']}; data {content['manifest_hash'][:12]}. Every crop is judged by a model that saw no "
        "crop of its case; composites come from the training part of the fold, the epoch is chosen on other cases of "
        f"the training folds. Values are means over the seeds, intervals ({_confidence(content)}) resample cases.",
        "",
        *_goals(content["subsets"]),
        *_subset_tables(content["subsets"]),
    ]
    wall, busy = content["seconds_per_fold"], content["processor_seconds_per_fold"]
    told = (
        f"{wall:.0f} s" + (f", of all cores {busy:.0f} s." if busy else ".") if wall else "not measured, all resumed."
    )
    lines.append(f"Median time of a fold: {told}")
    return "\n".join([*lines, "", *_details(content["settings"])])


def chrcluster_section(content: dict[str, Any]) -> str:
    """Figures on the test part of ChrCluster, with counts, time and settings."""
    seeds = content["seeds"]
    lines = [
        f"## ChrCluster, protocol `paper`, {seeds} seed{'s' * (seeds > 1)}",
        "",
        f"{content['origin']}; data {content['manifest_hash'][:12]}, split {content['split']['hash'][:12]}. Values are "
        f"means over the seeds, intervals {_confidence(content)}.",
        "",
        *_subset_tables(content["subsets"]),
        *_part_counts(content["split"]),
        "",
        f"Seconds: {', '.join(f'{step} {spent:.0f}' for step, spent in content['seconds'].items())} (of all cores).",
    ]
    return "\n".join([*lines, "", *_details(content["settings"])])


def _goals(subsets: dict[str, Any]) -> list[str]:
    lines = []
    for source, goals in GOALS.items():
        for name, goal in goals.items():
            if source in subsets:
                found = subsets[source][name]
                reached = "yes" if found["value"] >= goal else "no"
                lines.append(f"| {source} | {name.replace('_', ' ')} | {goal} | {_with_span(found)} | {reached} |")
    return ["| crops of | figure | goal | value | reached |", "|---|---|---|---|---|", *lines, ""] if lines else []


def _subset_tables(subsets: dict[str, Any]) -> list[str]:
    """Figures of all crops and of parts of them, then the sensitivity of each type, then notes."""
    lines = [
        "| crops of | crops | cases | accuracy | macro sensitivity | macro F1 | AUC | calibration error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in subsets.items():
        figures = ("accuracy", "macro_sensitivity", "macro_f1", "macro_auc", "calibration_error")
        shown = " | ".join(_with_span(row[figure]) for figure in figures)
        lines.append(f"| {name} | {row['crops']} | {row['cases'] or 'unknown'} | {shown} |")
    lines += ["", "Sensitivity by type:", "", "| crops of | " + " | ".join(TYPE_LABELS) + " |"]
    lines.append("|---" * (len(TYPE_LABELS) + 1) + "|")
    for name, row in subsets.items():
        cells = [f"{_with_span(part)} ({part['crops']})" for part in row["per_type"].values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    notes = sorted({f"{name}: {note}" for name, row in subsets.items() for note in row["notes"]})
    return [*lines, "", *(f"* {note}" for note in notes), ""] if notes else [*lines, ""]


def ablation_section(content: dict[str, Any]) -> str:
    """The table of an ablation, its sweeps, and what its p-values mean."""
    reference, figure = content["reference"], content["figure"].replace("_", " ")
    lines = [
        f"## Ablation: {content['parts']}, {content['seeds']} seed{'s' * (content['seeds'] > 1)}",
        "",
        f"{content['origin']}; data {content['manifest_hash'][:12]}. Values are means over the seeds, intervals "
        f"({_confidence(content)}) resample cases. Differences in {figure} are against the row `{reference}` on the "
        "same crops. Right alone: crops that only the row and only the reference have right, which is what McNemar's p "
        "tests: a difference in accuracy, which may go the other way than one in macro sensitivity. Adjusted p by Holm "
        "over all different rows and points. McNemar takes crops as independent of each other, the interval of the "
        "difference does not. Wall time includes whatever else the machine did, processor time is of all its cores.",
        "",
        *_ablation_head("row", figure),
    ]
    lines += [_ablation_row(f"{row['told']} (`{name}`)", row) for name, row in content["rows"].items()]
    for setting, points in content["sweeps"].items():
        lines += ["", *_ablation_head(setting, figure)]
        lines += [_ablation_row(str(point["at"]), point) for point in points]
    if content["failed"]:
        lines += ["", "Not finished:", "", *(f"* {name}: {why}" for name, why in content["failed"].items())]
    counts = next(iter(content["rows"].values()))
    lines += [
        "",
        f"{counts['crops']} crops of {told_cases(counts['cases'])}.",
        "",
        *(f"* {note}" for note in counts["notes"]),
    ]
    return "\n".join([*lines, "", *_details(content["settings"])])


def _ablation_head(first: str, figure: str) -> list[str]:
    names = [first, "accuracy", "macro sensitivity", f"difference in {figure}", "right alone: row, reference", "p"]
    names += ["adjusted p", "wall s a cell", "processor s a cell"]
    return ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]


def _ablation_row(name: str, row: dict[str, Any]) -> str:
    paired = row["paired"]
    against = ["", "", "", ""]
    if paired:
        span = "" if paired["low"] is None else f" ({paired['low']:+.3f} to {paired['high']:+.3f})"
        against = [
            f"{paired['difference']:+.4f}{span}",
            f"{paired['only_model']:.0f}, {paired['only_reference']:.0f}",
            f"{paired['p_value']:.3g}",
            f"{paired['p_value_adjusted']:.3g}",
        ]
    times = [row[name] for name in ("seconds_per_cell", "processor_seconds_per_cell")]
    seconds = ["not measured" if time is None else f"{time:.0f}" for time in times]
    shown = [_with_span(row["accuracy"]), _with_span(row["macro_sensitivity"]), *against, *seconds]
    return f"| {name} | {' | '.join(shown)} |"


def _with_span(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return "not defined"
    span = "" if figure["low"] is None else f" ({figure['low']:.3f} - {figure['high']:.3f})"
    return f"{figure['value']:.4f}{span}"


def _figures(metrics: dict[str, Any]) -> list[str]:
    lines = [f"| figure | test crops | value | {100 * metrics['confidence']:.0f} % interval |", "|---|---|---|---|"]
    for name in ("accuracy", "macro_sensitivity", "macro_specificity", "micro_specificity"):
        span = (metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))
        lines.append(f"| {name.replace('_', ' ')} | {metrics['crops']} | {_number(metrics[name])} | {_span(*span)} |")
    for label in TYPE_LABELS:
        row = metrics["per_type"].get(label, {"count": 0, "sensitivity": None})
        span = (row.get("sensitivity_low"), row.get("sensitivity_high"))
        lines.append(f"| sensitivity, {label} | {row['count']} | {_number(row['sensitivity'])} | {_span(*span)} |")
    return lines


def _part_counts(split: dict[str, Any]) -> list[str]:
    """Crops of each type in each part, and groups of cases where the split names them."""
    groups = split.get("groups")
    heads = [*TYPE_LABELS, *(["groups"] if groups else [])]
    lines = ["| part | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for part, counts in split["counts"].items():
        cells = [counts.get(label, 0) for label in TYPE_LABELS] + ([groups[part]] if groups else [])
        lines.append(f"| {part} | {' | '.join(map(str, cells))} |")
    return lines


def _certain(metrics: dict[str, Any]) -> dict[str, Any]:
    return {"label_certain not no": metrics["certain"]} if "certain" in metrics else {}


def _subset_line(figures: dict[str, Any]) -> str:
    """Crops, cases and every figure, with its interval where there is one, and notes."""
    parts = []
    for name, value in figures.items():
        if name == "cases":
            parts.append(told_cases(value))
        elif name != "notes" and not name.endswith(("_low", "_high")):
            span = _span(figures.get(f"{name}_low"), figures.get(f"{name}_high"))
            parts.append(f"{name.replace('_', ' ')} {_number(value)}" + (f" ({span})" if span else ""))
    return "; ".join([", ".join(parts), *figures.get("notes", [])])


def _confidence(content: dict[str, Any]) -> str:
    return f"{100 * content['settings']['evaluate']['confidence']:.0f} %"


def _settings(root: Path) -> list[str]:
    settings = with_best_params(load_settings(root / "params.yaml"), root / "outputs/tune/best_params.yaml")
    return _details(settings.model_dump(mode="json", by_alias=True))


def _details(values: dict[str, Any]) -> list[str]:
    """Profile and every setting that is not the default."""
    defaults = Settings().model_dump(mode="json", by_alias=True)
    told: dict[str, Any] = {"profile": values["profile"]}
    for name in ("runtime", "input", "model", "split", "compose", "pretrain", "finetune"):
        changed = {key: value for key, value in values[name].items() if value != defaults[name][key]}
        told |= {name: changed} if changed else {}
    return [
        "<details><summary>Settings that are not the default</summary>",
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


def main() -> None:
    """Print the section of the present outputs, or put the sections of result files into docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("title", nargs="*", help="of the section of the present outputs")
    parser.add_argument("--put", nargs="+", type=Path, help="folds.json, ablation.json and chrcluster.json files")
    options = parser.parse_args()
    try:
        root = tracking.project_root()
        if not options.put:
            sys.stdout.write(section(root, " ".join(options.title) or "Present outputs") + "\n")
        for path in options.put or []:
            put_file(root / "docs" / "results.md", path)
    except (SupcamError, OSError) as error:
        told = explained(error)
        sys.stderr.write(f"error: {told}\n")
        sys.exit(told.exit_code)


_SECTIONS = {"folds": folds_section, "ablation": ablation_section, "chrcluster": chrcluster_section}


def put_file(page: Path, path: Path) -> None:
    """Put the section of a result file into a page.

    Raises:
        UsageError: for a file that is no result of one of the three kinds.
    """
    try:
        content = _json(path)
        kind = content["kind"]
        text = _SECTIONS[kind](content)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no result that has a section ({error!r}); allowed are folds.json, ablation.json and "
            "chrcluster.json of this version. Make it again: docs/evaluation.md."
        ) from None
    put_section(page, kind, text)


if __name__ == "__main__":
    main()
