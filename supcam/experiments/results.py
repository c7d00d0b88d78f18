"""Sections of docs/results.md, all generated: present outputs, out-of-fold metrics, the ablation, ChrCluster."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateError

from supcam import pages, tracking
from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.evaluation.cases import count_of_cases
from supcam.experiments.runner import origin
from supcam.files import write_text
from supcam.settings import Settings, load_settings, with_best_params
from supcam.stages.command import exit_codes

# What the project set out to reach on crops of cases never seen: source, metric, value.
GOALS = (
    ("clinical-12-cases", "accuracy", 0.93),
    ("clinical-12-cases", "macro_sensitivity", 0.85),
    ("mfish-slides", "accuracy", 0.95),
    ("mfish-slides", "macro_sensitivity", 0.87),
)


def outputs_section(root: Path, title: str) -> str:
    """Metrics on the by-case test split with intervals, warnings of the split, settings, time and device."""
    metrics, split = (_json(root / "outputs" / name) for name in ("evaluate/metrics.json", "split/split.json"))
    settings = with_best_params(load_settings(root / "params.yaml"), root / "outputs/tune/best_params.yaml")
    certain = {"label_certain not no": metrics["certain"]} if "certain" in metrics else {}
    return _rendered(
        "outputs",
        title=title,
        origin=origin(root, tracking.device_name("cpu")),
        metrics=metrics,
        split=split,
        subsets={**metrics.get("by_source", {}), **certain},
        changed=_changed(settings.model_dump(mode="json", by_alias=True)),
        seconds=_stage_seconds(root),
    )


def content_section(content: dict[str, Any]) -> str:
    """The section of a result, the content of ``folds.json``, ``ablation.json`` or ``chrcluster.json``."""
    subsets = content.get("subsets", {})
    goals = [(*goal, subsets[goal[0]][goal[1]]) for goal in GOALS if goal[0] in subsets]
    return _rendered(
        content["kind"],
        content=content,
        confidence=f"{100 * content['settings']['evaluate']['confidence']:.0f} %",
        notes=sorted({f"{name}: {note}" for name, row in subsets.items() for note in row["notes"]}),
        goals=goals,
        changed=_changed(content["settings"]),
    )


def _rendered(name: str, **values: Any) -> str:
    values |= {"types": list(TYPE_LABELS), "cases": count_of_cases}
    return pages.render(f"results/{name}.md", values).strip()


def put_file(page: Path, path: Path) -> None:
    """Put the section of a result file into a page; a UsageError where it is not of one of the three kinds."""
    try:
        content = _json(path)
        kind, text = content["kind"], content_section(content)
    except (ValueError, KeyError, TypeError, TemplateError) as error:
        raise UsageError(
            f"{path} is not a result that has a section ({error!r}); allowed are folds.json, ablation.json and "
            "chrcluster.json of this version. Compute it again: docs/evaluation.md."
        ) from None
    put_section(page, kind, text)


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


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _changed(values: dict[str, Any]) -> str:
    """Profile and every setting that is not the default, as YAML."""
    defaults = Settings().model_dump(mode="json", by_alias=True)
    shown: dict[str, Any] = {"profile": values["profile"]}
    for name in ("runtime", "input", "model", "split", "compose", "pretrain", "finetune"):
        changed = {key: value for key, value in values[name].items() if value != defaults[name][key]}
        shown |= {name: changed} if changed else {}
    return yaml.safe_dump(shown, sort_keys=False)


def _stage_seconds(root: Path) -> dict[str, float]:
    """Wall time of the last finished run of each stage, from the tracking store."""
    client = tracking.open_client(root)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    seconds = {}
    for stage in yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]:
        query = f"tags.`supcam.stage` = '{stage}' and attributes.status = 'FINISHED'"
        latest = {"order_by": ["attributes.start_time DESC"], "max_results": 1}
        for run in client.search_runs([experiment.experiment_id], query, **latest):
            seconds[stage] = (run.info.end_time - run.info.start_time) / 1000
    return seconds


def main() -> None:
    """Print the section of the present outputs, or put the sections of result files into docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("title", nargs="*", help="of the section of the present outputs")
    parser.add_argument("--put", nargs="+", type=Path, help="folds.json, ablation.json and chrcluster.json files")
    options = parser.parse_args()
    with exit_codes():
        root = tracking.project_root()
        if not options.put:
            sys.stdout.write(outputs_section(root, " ".join(options.title) or "Present outputs") + "\n")
        for path in options.put or []:
            put_file(root / "docs" / "results.md", path)


if __name__ == "__main__":
    main()
