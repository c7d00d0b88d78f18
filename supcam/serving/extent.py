"""Where an image ends in its file, read from its own structure, so that nothing can hide behind it."""

import struct
from collections.abc import Iterator

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_TIFF_HEADS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
# Bytes of one value of each TIFF field type (TIFF 6.0, section 2; 13 and 16 to 18: supplement 1 and BigTIFF).
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
# Offsets and lengths of strips, tiles and an old JPEG stream; directories below a directory (sub-images, EXIF, GPS).
_TIFF_PIXELS = {273: 279, 324: 325, 513: 514}
_TIFF_FOLDERS = (330, 34665, 34853, 40965)
# Entries and offsets that are followed; no picture within the limits of size has as many.
_MAX_WORK = 2_000_000


def end_of_image(content: bytes) -> int | None:
    """Offset behind the last byte of a PNG, JPEG, BMP or TIFF; None for other content, -1 when the end is missing.

    PNG chunks and JPEG segments are walked, the pixels of a BMP counted, and the directories, values and strips of a
    TIFF followed. What a header merely claims as the size of the file is not believed.
    """
    try:
        if content.startswith(_PNG_HEAD):
            return _png(content)
        if content.startswith(b"\xff\xd8"):
            return _jpeg(content)
        if content.startswith(b"BM"):
            return _bmp(content)
        if content[:4] in _TIFF_HEADS:
            return _tiff(content)
    except struct.error:  # a header that ends early
        return -1
    return None


def _png(content: bytes) -> int:
    at = len(_PNG_HEAD)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        at += 12 + length
        if kind == b"IEND":
            return at if at <= len(content) else -1
    return -1


def _jpeg(content: bytes) -> int:
    at = 2
    while (at := content.find(b"\xff", at)) >= 0 and at + 1 < len(content):
        marker = content[at + 1]
        if marker == 0xD9:
            return at + 2
        # Fill bytes, escaped data and restart markers carry no length; scan data is passed over by the search.
        if marker == 0xFF:
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + int(struct.unpack_from(">H", content, at + 2)[0])
    return -1


def _bmp(content: bytes) -> int:
    start, header = struct.unpack_from("<II", content, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        packing, stored = 0, 0
    else:
        width, height, _, bits, packing, stored = struct.unpack_from("<iiHHII", content, 18)
    run_length = packing in (1, 2)
    end = int(start + (stored if run_length else (abs(width) * bits + 31) // 32 * 4 * abs(height)))
    if header >= 124:  # version 5: a colour profile may follow the pixels
        profile, size = struct.unpack_from("<II", content, 14 + 112)
        end = max(end, 14 + profile + size if size else 0)
    return end if end <= len(content) else -1


def _tiff(content: bytes) -> int:
    """Furthest byte that a directory of the file names; strips that reach beyond the file are left to the decoder."""
    order, big = _TIFF_HEADS[content[:4]], content[2:4] in (b"+\0", b"\0+")
    end = 16 if big else 8
    waiting = [int(struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)[0])]
    seen: set[int] = set()
    work = 0
    while waiting:
        place = waiting.pop()
        if place == 0 or place in seen or place >= len(content):
            continue
        seen.add(place)
        values: dict[int, list[int]] = {}
        for tag, found, reach in _tiff_entries(content, place, order, big):
            values[tag] = found
            end = max(end, reach)
            work += 1 + len(found)
            if work > _MAX_WORK:
                return -1
        count, step, width = _tiff_shape(content, place, order, big)
        last = place + step + count * width
        end = max(end, last + (8 if big else 4))
        waiting.append(int(struct.unpack_from(order + ("Q" if big else "I"), content, last)[0]))
        waiting += [offset for tag in _TIFF_FOLDERS for offset in values.get(tag, [])]
        for offsets, lengths in _TIFF_PIXELS.items():
            pairs = zip(values.get(offsets, []), values.get(lengths, []), strict=False)
            end = max([end, *(offset + length for offset, length in pairs)])
    return min(end, len(content))


def _tiff_shape(content: bytes, place: int, order: str, big: bool) -> tuple[int, int, int]:
    """Number of entries of a directory, bytes of that number, bytes of an entry."""
    count = int(struct.unpack_from(order + ("Q" if big else "H"), content, place)[0])
    return count, 8 if big else 2, 20 if big else 12


def _tiff_entries(content: bytes, place: int, order: str, big: bool) -> Iterator[tuple[int, list[int], int]]:
    """Tag, whole numbers and end of each entry's values."""
    count, step, width = _tiff_shape(content, place, order, big)
    inline = 8 if big else 4
    for index in range(min(count, len(content) // width)):
        at = place + step + index * width
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), content, at)
        size = _TIFF_SIZES.get(kind, 1) * number
        start = at + width - inline
        if size > inline:
            start = int(struct.unpack_from(order + ("Q" if big else "I"), content, start)[0])
        if start + size > len(content):
            continue
        wanted = tag in _TIFF_FOLDERS or tag in _TIFF_PIXELS or tag in _TIFF_PIXELS.values()
        code = _TIFF_WHOLE.get(kind) if wanted else None
        found = list(struct.unpack_from(f"{order}{number}{code}", content, start)) if code else []
        yield tag, found, start + size
