"""Exactly what travels with a model: decoding of crops, the inference engine, and what MLflow serves.

These files, ``supcam/errors.py`` and ``supcam/cluster_type.py`` are copied into each registered model under another
package name. They therefore import each other by relative imports only, and nothing else of supcam.
"""
