"""What torchrun passes to each of the processes that it starts, through the environment."""

import os


def processes() -> int:
    """How many processes of torchrun share the run; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is, from 0; 0 without torchrun."""
    return int(os.environ.get("RANK", "0")) if processes() > 1 else 0


def local_rank() -> int:
    """Which of those on this machine this one is, from 0; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0")) if processes() > 1 else 0
