"""Exactly what travels with a model: decoding of crops, the inference engine, and what MLflow serves."""
