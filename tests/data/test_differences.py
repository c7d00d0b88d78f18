"""What changed between two versions of the data."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from supcam.data.differences import DataDiff, diff_manifests, diff_versions
from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest, write_manifest
from supcam.data.versions import record_version
from supcam.errors import UsageError
from tests.support.drawing import write_source

Make = Callable[..., pd.DataFrame]


def test_every_change_is_a_row(manifest: Make) -> None:
    before = manifest({"a": {"instance": 5}})
    after = pd.concat([before.drop(index=0), manifest({"b": {"touching": 1}})], ignore_index=True)
    after.loc[0, "type"] = "overlapping"
    after.loc[1, "case_id"] = "c"
    after.loc[2, "sha256"] = "f" * 64
    after.loc[3, "label_certain"] = False
    rows = diff_manifests(before, after)
    assert [tuple(row) for row in rows.itertuples(index=False)] == [
        ("lab/a/instance/0.png", "removed", "instance", ""),
        ("lab/b/touching/0.png", "added", "", "touching"),
        ("lab/a/instance/1.png", "relabelled", "instance", "overlapping"),
        ("lab/a/instance/2.png", "case changed", "a", "c"),
        ("lab/a/instance/3.png", "bytes changed", "hash of lab/", "f" * 12),
        ("lab/a/instance/4.png", "certainty changed", "True", "False"),
    ]
    assert diff_manifests(before, before).empty


def test_labels_that_a_person_decided_are_named_with_reader_and_date(manifest: Make) -> None:
    """A confirmed label looked like no change at all."""
    before = manifest({"a": {"instance": 3}})
    after = before.assign(reader=["AB", "", ""], reviewed=["2026-11-28", "2026-11-27", ""])
    after.loc[0, "type"] = "touching"
    changed = DataDiff("one", "two", diff_manifests(before, after))
    assert changed.lines() == [
        "one -> two: 1 relabelled, 2 reviewed",
        "  relabelled lab/a/instance/0.png: instance -> touching",
        "  reviewed lab/a/instance/0.png: AB 2026-11-28",
        "  reviewed lab/a/instance/1.png: 2026-11-27",
    ]
    again = DataDiff("two", "three", diff_manifests(after, after.assign(reader=["CD", "", ""])))
    assert again.lines()[1:] == ["  reviewed lab/a/instance/0.png: AB 2026-11-28 -> CD 2026-11-28"]


def test_between_git_revisions_and_the_workspace(dvc_project: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=dvc_project, check=True, capture_output=True)

    git("init", "--quiet")
    (dvc_project / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    data = dvc_project / "data"
    import_sources([write_source(dvc_project.parent / "lab", per_type=1)], data)
    git("add", "-A")
    git("commit", "--quiet", "-m", "one")
    git("tag", "v1")
    frame = read_manifest(data / "manifest.csv")
    frame.loc[0, "type"] = "overlapping"
    write_manifest(frame, data / "manifest.csv")
    record_version(data)
    changed = diff_versions("v1", "workspace", data)
    assert changed.rows["change"].to_list() == ["relabelled"]
    assert changed.lines()[0] == "v1 -> workspace: 1 relabelled"
    git("commit", "--quiet", "-am", "two")
    assert diff_versions("v1", "HEAD", data).rows.equals(changed.rows)
    assert diff_versions("HEAD", str(data), data).lines() == [f"HEAD and {data} hold the same crops and labels"]
    with pytest.raises(UsageError, match=r"'nonsense' is not a git revision.*Give a commit or tag"):
        diff_versions("nonsense", "HEAD", data)
    with pytest.raises(UsageError, match="is not a git revision"):
        diff_versions("--output=x", "HEAD", data)
