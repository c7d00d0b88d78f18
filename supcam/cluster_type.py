"""The four cluster types, the relations between two crops, and the algebra that labels a composite."""

from enum import IntEnum
from typing import Self

from .errors import UsageError  # relative: this file also ships inside a model's own folder


class _Named(IntEnum):
    """Integer code of two bits, ``touch`` = 1 and ``overlap`` = 2, with the name users read and write."""

    @property
    def label(self) -> str:
        """Name in files and tables, for example ``touching-overlapping``."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name, forgiving case, spaces and underscores.

        Raises:
            UsageError: for a name that is none of the members.
        """
        wanted = text.strip().lower().replace("_", "-").replace(" ", "-")
        for member in cls:
            if member.label == wanted:
                return member
        allowed = ", ".join(member.label for member in cls)
        kind = "type" if cls is ClusterType else "relation"
        raise UsageError(f"{kind} {text!r} is unknown; allowed are {allowed}. Correct the name and run again.")


class ClusterType(_Named):
    """What a crop shows; the value is the class index of labels, probabilities and confusion matrices."""

    INSTANCE = 0
    TOUCHING = 1
    OVERLAPPING = 2
    TOUCHING_OVERLAPPING = 3


class Relation(_Named):
    """How two crops of a composite meet. Disjoint (0) is not a cluster and has no member."""

    TOUCH = 1
    OVERLAP = 2
    BOTH = 3


TYPE_LABELS: tuple[str, ...] = tuple(member.label for member in ClusterType)


def composed_type(first: ClusterType, second: ClusterType, relation: Relation) -> ClusterType:
    """Type of ``first relation second``: the union of the three bit pairs, so no bit is ever cleared.

    Raises:
        UsageError: for relation 0 (disjoint), which is two crops and not a cluster.
    """
    try:
        bits = int(Relation(relation))
    except ValueError:
        raise UsageError(
            f"relation {relation!r} is not a cluster; allowed are touch (1), overlap (2) and both (3)."
        ) from None
    return ClusterType(int(first) | int(second) | bits)
