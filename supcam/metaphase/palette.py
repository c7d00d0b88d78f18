"""Colours of the types, distinguished by people who do not see red and green (Okabe and Ito, 2008)."""

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "instance": (86, 180, 233),
    "touching": (230, 159, 0),
    "overlapping": (204, 121, 167),
    "touching-overlapping": (240, 228, 66),
}
OTHER: Colour = (128, 128, 128)
