"""The `supcam` command."""

from supcam.cli.app import main

__all__ = ["main"]
