"""Benchmarks: python -m benchmarks.NAME prints one JSON object a line."""

import supcam  # noqa: F401  sets how torch's threads wait, before any module here loads torch
