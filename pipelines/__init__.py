"""Pipeline stages, one thin script each."""

import supcam  # noqa: F401  sets how torch's threads wait, before a library loads torch
