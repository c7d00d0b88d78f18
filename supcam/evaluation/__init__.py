"""Metrics with intervals, figures and label review."""
