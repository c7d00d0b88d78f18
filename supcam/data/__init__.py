"""Crops, their manifest, and everything that guards them."""
