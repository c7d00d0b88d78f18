"""Comparisons of whole training recipes on the same folds and seeds, each cell of the table kept and resumable."""
