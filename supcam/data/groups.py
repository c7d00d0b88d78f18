"""Which crops belong together: those of one case, of the same bytes, or of one picture."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from supcam.data.case_ids import patient_keys
from supcam.settings import SplitSettings

Links = Iterable[Sequence[str]]


def connected(pairs: NDArray[np.integer]) -> list[list[int]]:
    """Connected groups of pairs (M, 2) of numbers from 0; each sorted, in the order of their smallest members."""
    if not len(pairs):
        return []
    size = int(pairs.max()) + 1
    graph = sparse.coo_matrix((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    _, component = sparse.csgraph.connected_components(graph, directed=False)
    nodes = np.unique(pairs)  # a number that no pair names is a component of its own, and not a group
    return pd.Series(nodes).groupby(component[nodes], sort=False).agg(list).to_list()


def merged(groups: Iterable[Sequence[int]]) -> list[list[int]]:
    """Groups of numbers from 0, those that share a member made one; each sorted, by their smallest members."""
    pairs = [(group[0], member) for group in groups for member in group]
    return connected(np.array(pairs, dtype=np.int64).reshape(-1, 2))


def same_values(values: Iterable[str]) -> list[list[int]]:
    """Groups of positions that hold the same text; empty texts and single ones are left out."""
    positions: dict[str, list[int]] = {}
    for index, value in enumerate(values):
        if value:
            positions.setdefault(value, []).append(index)
    return [group for group in positions.values() if len(group) > 1]


def group_crops(frame: pd.DataFrame, *, by_case: bool, together: bool = True, linked: Links = ()) -> "pd.Series[str]":
    """Name of the group of each crop: the crops that must share a part.

    Crops of one case (``by_case``), with the same bytes, or in one list of ``linked`` ids share a group; ``together``
    takes cases of one id for one patient, in whatever source and spelling. A group is named after its case
    (``source/case_id``) or, without one, after its first crop; of several, the first in the alphabet.
    """
    own = frame["source"] + "/" + frame["case_id"]
    keys = own.where(by_case & (frame["case_id"] != ""), "crop " + frame["crop_id"])
    # Sorted, so that the smallest code of a merged group is the first of its names.
    names, codes = np.unique(keys.to_numpy(dtype=object), return_inverse=True)
    code_of = dict(zip(frame["crop_id"], codes.tolist(), strict=True))
    same_bytes = frame.groupby("sha256")["crop_id"].agg(list)
    known = [[code_of[crop_id] for crop_id in ids if crop_id in code_of] for ids in [*same_bytes, *linked]]
    if by_case and together:
        known += [codes[group].tolist() for group in same_values(patient_keys(frame["case_id"]))]
    for group in merged(codes_of_group for codes_of_group in known if codes_of_group):
        names[group] = names[group[0]]
    return pd.Series(names[codes], index=frame.index, dtype=keys.dtype)


def groups_of(frame: pd.DataFrame, settings: SplitSettings, linked: Links) -> "pd.Series[str]":
    """The group of each crop, which no part or fold divides, by the settings of the split."""
    together = settings.same_case == "together"
    return group_crops(frame, by_case=settings.protocol == "by_case", together=together, linked=linked)
