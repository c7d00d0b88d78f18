"""Train, validation and test: grouped, stratified as well as groups allow, and stable when data are added."""

from collections.abc import Sequence

import pandas as pd

from supcam.data.dividing import divide_groups
from supcam.data.groups import Links, groups_of
from supcam.data.split_report import PARTS, Division, SplitReport, describe_split
from supcam.errors import UsageError
from supcam.settings import SplitSettings

PAPER_SHARES = (0.8, 0.1, 0.1)


def split_manifest(
    frame: pd.DataFrame,
    settings: SplitSettings,
    previous: pd.DataFrame | None = None,
    *,
    linked: Links = (),
    history: Sequence[Division] = (),
) -> tuple[pd.DataFrame, SplitReport]:
    """Add the column ``split`` (and ``group``) to a manifest.

    ``by_case`` keeps each case of a source in one part, and with ``same_case: together`` cases of one id in several
    sources or spellings; crops without a case stand alone. ``paper`` ignores cases and
    takes 80/10/10 of each type. Either way crops with the same bytes, and those of ``linked`` (lists of crop ids),
    stay together, and every part gets a group. ``previous`` is the frame of an earlier split or its assignments: groups
    it knows never move, unless the protocol is another. ``history`` are the divisions that ``read_history`` knows.

    Raises:
        UsageError: when there are fewer than three groups to divide.
    """
    by_case = settings.protocol == "by_case"
    shares = (1 - settings.validation - settings.test, settings.validation, settings.test) if by_case else PAPER_SHARES
    frame = frame.sort_values("path", kind="stable").reset_index(drop=True)
    group = groups_of(frame, settings, linked)
    if group.nunique() < len(PARTS):
        raise UsageError(
            f"split.protocol {settings.protocol!r} needs at least {len(PARTS)} cases or crops to divide, "
            f"found {group.nunique()}. Import more, or set split.protocol to paper."
        )
    warnings = []
    lone = int((frame["case_id"] == "").sum())
    if lone and by_case:
        warnings = [f"{lone} crops have no case and are divided one by one; crops of one patient may be in two parts"]
    if previous is not None and "protocol" in previous and (previous["protocol"] != settings.protocol).any():
        previous = None
    known, joined = ({}, []) if previous is None else _known_parts(frame, group, previous)
    warnings += [
        f"group {name!r} joins crops that an earlier split put apart; to divide from scratch: supcam data resplit"
        for name in joined
    ]
    part = divide_groups(frame["type"], group, shares, settings.seed, known)
    out = frame.assign(split=part.map(dict(enumerate(PARTS))), group=group)
    if previous is not None:
        # A crop stays where it was even when a new link joins it to another part: no model saw it move.
        before = frame["crop_id"].map(dict(zip(previous["crop_id"], previous["split"], strict=True)))
        out["split"] = before.where(before.notna(), out["split"])
    asked = {"protocol": settings.protocol, "seed": settings.seed, "wanted": dict(zip(PARTS, shares, strict=True))}
    return out, describe_split(out, asked, len(known), history, warnings)


def _known_parts(
    frame: pd.DataFrame, group: "pd.Series[str]", previous: pd.DataFrame
) -> tuple[dict[str, int], list[str]]:
    """Part of every group that an earlier split has placed, and the groups that it had in several parts.

    A group that new links have joined goes where most of its crops are.
    """
    part_of = previous["split"].map({part: index for index, part in enumerate(PARTS)})
    by_crop = dict(zip(previous["crop_id"], part_of, strict=True))
    by_group = dict(zip(previous["group"], part_of, strict=True)) if "group" in previous else {}
    # A new crop of a known case has no id there, and a case that was merged since has another group's name.
    case = frame["source"] + "/" + frame["case_id"]
    found = pd.concat([frame["crop_id"].map(by_crop), case.map(by_group), group.map(by_group)]).dropna().astype(int)
    if found.empty:
        return {}, []
    votes = pd.crosstab(group.loc[found.index].to_numpy(), found.to_numpy())
    joined = votes.index[(votes > 0).sum(axis=1) > 1]
    return {str(name): int(part) for name, part in votes.idxmax(axis=1).items()}, [str(name) for name in joined]
