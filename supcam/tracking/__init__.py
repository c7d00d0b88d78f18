"""Tracked runs: where they are stored, what they ran on, and the run itself. Nothing here imports MLflow before use."""

from supcam.tracking.fetch import fetch_outputs
from supcam.tracking.hashes import path_hash, stage_inputs
from supcam.tracking.moved import local_location, settle
from supcam.tracking.project import (
    EXPERIMENT,
    artifact_location,
    in_dvc_experiment,
    project_root,
    quiet,
    store_root,
    tracking_uri,
)
from supcam.tracking.provenance import device_name, git_state, package_versions, run_of, run_tags, user
from supcam.tracking.runs import Run, UntrackedRun, stage_run, tag_run, take_parent_run
from supcam.tracking.store import open_client
from supcam.tracking.trouble import shown, store_trouble

__all__ = [
    "EXPERIMENT",
    "Run",
    "UntrackedRun",
    "artifact_location",
    "device_name",
    "fetch_outputs",
    "git_state",
    "in_dvc_experiment",
    "local_location",
    "open_client",
    "package_versions",
    "path_hash",
    "project_root",
    "quiet",
    "run_of",
    "run_tags",
    "settle",
    "shown",
    "stage_inputs",
    "stage_run",
    "store_root",
    "store_trouble",
    "tag_run",
    "take_parent_run",
    "tracking_uri",
    "user",
]
