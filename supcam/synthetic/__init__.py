"""Drawn chromosomes, and labelled samples of crops made of them; how they are drawn: docs/drawn.md."""
