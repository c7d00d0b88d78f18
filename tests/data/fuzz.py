"""Mutated images and archives: each must end as imported crops or as a named refusal, soon.

``python -m tests.data.fuzz 5000`` prints one JSON object with cases, failures, seed and seconds.
"""

import io
import json
import shutil
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.errors import UsageError
from supcam.serving.images import ImageError, decode_crop
from tests.support.drawing import draw_crop, encode

SECONDS_EACH = 10.0
_ARCHIVE_SHARE = 0.1


def originals() -> list[bytes]:
    """Whole files of every format and mode that is read."""
    crop = draw_crop(3)
    grey = Image.fromarray(crop)
    deep = Image.fromarray(crop.astype(np.uint16) * 257)
    out = [encode(crop, kind) for kind in ("PNG", "TIFF", "JPEG", "BMP")]
    out += [encode(grey.convert(mode), "PNG") for mode in ("RGB", "RGBA", "P", "LA", "1")]
    out += [encode(grey.convert("CMYK"), kind) for kind in ("TIFF", "JPEG")]
    out += [encode(deep, kind) for kind in ("PNG", "TIFF")]
    out += [encode(crop, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")]
    out.append(encode(crop, "TIFF", save_all=True, append_images=[grey]))
    return out


def archive() -> bytes:
    """A small zip of a folder per type."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for index, kind in enumerate(("instance", "touching", "overlapping")):
            file.writestr(f"top/{kind}/{index}.png", encode(draw_crop(index)))
    return buffer.getvalue()


def mutate(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file in one to four ways: flip, overwrite, cut, insert, repeat, splice, or blow up a number."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, max(1, len(data))))
        if rng.random() < 0.5:
            at = min(at, int(rng.integers(0, 200)))  # most structure lies in the header
        length = int(rng.integers(1, 64))
        match int(rng.integers(0, 7)):
            case 0:
                data[at : at + 1] = bytes([data[at] ^ (1 << int(rng.integers(0, 8)))]) if data else b"x"
            case 1:
                data[at : at + length] = rng.bytes(length)
            case 2:
                del data[at:]
            case 3:
                data[at:at] = rng.bytes(length)
            case 4:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 20))
            case 5:
                data[at:] = other[int(rng.integers(0, len(other))) :]
            case _:
                data[at : at + 4] = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"][
                    int(rng.integers(0, 3))
                ]
    return bytes(data)


def fuzz(cases: int, seed: int = 0) -> dict[str, object]:
    """Run ``cases`` mutations; ``failures`` lists what crashed, took too long or left something half-written."""
    rng = np.random.default_rng(seed)
    files, zipped = originals(), archive()
    failures: list[str] = []
    ends = {"read": 0, "refused": 0}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        for case in range(cases):
            packed = rng.random() < _ARCHIVE_SHARE
            content = zipped if packed else files[int(rng.integers(0, len(files)))]
            content = mutate(content, files[int(rng.integers(0, len(files)))], rng)
            start = time.perf_counter()
            try:
                ends[_import(content, Path(scratch)) if packed else _decode(content)] += 1
            except Exception as error:  # what must not happen is what is looked for
                failures.append(f"case {case}: {type(error).__name__}: {error}")
            if time.perf_counter() - start > SECONDS_EACH:
                failures.append(f"case {case}: took {time.perf_counter() - start:.1f} s")
    seconds = round(time.perf_counter() - began, 1)
    return {"cases": cases, "failures": failures, "seed": seed, "seconds": seconds, **ends}


def _decode(content: bytes) -> str:
    try:
        image = decode_crop(content)
    except ImageError:
        return "refused"
    if image.dtype != np.uint8 or image.ndim != 2 or not image.size:
        raise AssertionError(f"decoded to {image.dtype} {image.shape}")
    return "read"


def _import(content: bytes, scratch: Path) -> str:
    source, data = scratch / "mutated.zip", scratch / "data"
    source.write_bytes(content)
    try:
        report = import_sources([source], data)
        if len(read_manifest(data / "manifest.csv")) != report.total:
            raise AssertionError("the manifest is not what the report says")
        return "read"
    except UsageError:
        if data.exists():
            raise AssertionError("a refused import left a data folder") from None
        return "refused"
    finally:
        shutil.rmtree(data, ignore_errors=True)
        source.unlink()
        if left := [path.name for path in scratch.iterdir() if path.name != ".data.lock"]:
            raise AssertionError(f"left behind: {left}")


if __name__ == "__main__":
    result = fuzz(*(int(argument) for argument in sys.argv[1:3] or ["5000"]))
    print(json.dumps(result))
    sys.exit(bool(result["failures"]))
