"""The composed set on disk: PNG crops, manifest, report and contact sheet, the same on any number of workers."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from supcam.cluster_type import ClusterType
from supcam.composition.composer import Composer, Composite, Skipped
from supcam.composition.masks import Grey, Mask
from supcam.composition.sheet import contact_sheet
from supcam.composition.sources import Sources, refuse_leaks
from supcam.composition.workers import Workers, results
from supcam.data.manifest import COLUMNS, is_drawn, write_manifest
from supcam.files import replaced_folder
from supcam.progress import Progress
from supcam.settings import ComposeSettings

_BLOCK = 16  # composites that a worker makes before it hands them over
_ROUNDS = 4  # times the missing composites are asked for again
_SHARED_BIT = 128
_ON_SHEET = 12  # crops of a type on the contact sheet
# Starting a process costs about a second of imports: below this many composites one process is faster.
_WORTH_A_PROCESS = 256
_EXTRA_COLUMNS = ("split", "relation", "parent_a", "parent_b", "parents", "cell", "seed", "index", "mask")

Row = dict[str, Any]
Made = Composite | Skipped


@dataclass
class ComposeReport:
    """What was asked for, what was made of which cells, and everything that was left out, by reason."""

    requested: int
    seed: int
    composed: int = 0
    sources: int = 0
    drawn: int = 0
    types: dict[str, int] = field(default_factory=dict)
    relations: dict[str, int] = field(default_factory=dict)
    cells: dict[str, int] = field(default_factory=dict)
    chain_lengths: dict[str, int] = field(default_factory=dict)
    skipped_sources: dict[str, list[str]] = field(default_factory=dict)
    skipped_composites: dict[str, int] = field(default_factory=dict)
    rejected_tries: dict[str, int] = field(default_factory=dict)

    def _left_out(self) -> dict[str, dict[str, int]]:
        """Counts by what was left out and reason."""
        return {
            "skipped_sources": {reason: len(ids) for reason, ids in self.skipped_sources.items()},
            "skipped_composites": self.skipped_composites,
            "rejected_tries": self.rejected_tries,
        }

    def losses(self) -> dict[str, int]:
        """Counts of everything that was left out, named ``what/reason``."""
        return {f"{what}/{reason}": n for what, reasons in self._left_out().items() for reason, n in reasons.items()}

    def lines(self) -> list[str]:
        """What a stage prints: one line of counts, and one for each kind of loss."""
        made = ", ".join(f"{count} {name}" for name, count in self.types.items())
        lines = [f"composed {self.composed} of {self.requested} crops from {self.sources} sources: {made or 'none'}"]
        lines += [f"drawn {self.drawn} single chromosomes"] if self.drawn else []
        titles = ("sources skipped", "composites skipped", "placements rejected and tried again")
        for title, reasons in zip(titles, self._left_out().values(), strict=True):
            if reasons:
                lines.append(f"{title}: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()))
        return lines


def compose_set(
    crops: Sources, settings: ComposeSettings, out: Path, *, progress: Progress | None = None
) -> ComposeReport:
    """Compose ``settings.count`` crops into the folder ``out``, which is replaced as a whole.

    Drawn singles among ``crops`` are written as well: they are part of what is trained with, and of no data set.

    Writes ``crops/*.png``, ``manifest.csv`` (paths relative to ``out``), ``report.json`` and ``contact_sheet.png``;
    with ``settings.masks`` also ``masks/*.png``, 8-bit images of the size of the crop: bit 0 is set where the first
    source lies, bit 1 where the second does, and so on to bit 4; bit 7 where two or more cores share a pixel.
    The bytes depend on the crops and settings alone, not on ``settings.workers``. ``crops`` must hold training crops
    only: a column ``split`` with anything else is refused.

    Raises:
        SupcamError: when a source is not of the training split.
    """
    refuse_leaks(crops.frame)
    with replaced_folder(out) as folder:
        return _write(crops, settings, folder, progress)


def _write(crops: Sources, settings: ComposeSettings, root: Path, progress: Progress | None) -> ComposeReport:
    (root / "crops").mkdir()
    if settings.masks:
        (root / "masks").mkdir()
    composer = Composer(crops, settings, keep_masks=settings.masks)
    rows = [_saved_drawn(crops, int(row), root) for row in np.flatnonzero(is_drawn(crops.frame))]
    singles = len(rows)
    counts: dict[str, Counter[str]] = {
        name: Counter()
        for name in ("types", "relations", "cells", "chain_lengths", "skipped_composites", "rejected_tries")
    }
    shown: dict[ClusterType, list[Grey]] = {}
    for index, made in _composites(composer, settings):
        counts["rejected_tries"] += made.rejected
        if isinstance(made, Skipped):
            counts["skipped_composites"][made.reason] += 1
            continue
        rows.append(_saved(made, crops.frame, settings.seed, index, root))
        counts["types"][made.type.label] += 1
        counts["relations"][made.relation.label] += 1
        counts["cells"][made.plan.cell.label] += 1
        counts["chain_lengths"][str(len(made.parents))] += 1
        if progress:
            progress(len(rows) - singles, settings.count)
        if len(shown.setdefault(made.type, [])) < _ON_SHEET:
            shown[made.type].append(made.image)
    write_manifest(pd.DataFrame(rows, columns=[*COLUMNS, *_EXTRA_COLUMNS]), root / "manifest.csv")
    counted = {name: dict(sorted(counter.items())) for name, counter in counts.items()}
    report = ComposeReport(
        settings.count,
        settings.seed,
        len(rows) - singles,
        len(composer),
        drawn=singles,
        skipped_sources=composer.defects,
        **counted,
    )
    (root / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    contact_sheet(_some_sources(crops), shown, columns=_ON_SHEET, name="imported").save(
        root / "contact_sheet.png", optimize=True
    )
    return report


def _composites(composer: Composer, settings: ComposeSettings) -> Iterator[tuple[int, Made]]:
    """The first ``count`` accepted composites by index, with what was skipped before each of them."""
    accepted = asked = 0
    alone = settings.workers == 1 or settings.count < _WORTH_A_PROCESS
    with nullcontext() if alone else Workers(composer, settings.workers) as workers:
        for _ in range(_ROUNDS):
            wanted = range(asked, asked + settings.count - accepted)
            asked, before = wanted.stop, accepted
            for index, made in zip(wanted, _made(composer, wanted, workers), strict=True):
                accepted += isinstance(made, Composite)
                yield index, made
            if accepted in (before, settings.count):
                return


def _made(composer: Composer, wanted: range, workers: Workers[Composer] | None) -> Iterator[Made]:
    """What comes of these indices, in order: made here, or by the workers."""
    if workers is None:
        yield from (composer.compose(composer.settings.seed, index) for index in wanted)
        return
    blocks = [wanted[start : start + _BLOCK] for start in range(0, len(wanted), _BLOCK)]
    for block in results(workers.submit(_compose_block, blocks)):
        yield from block


def _compose_block(composer: Composer, indices: range) -> list[Made]:
    return [composer.compose(composer.settings.seed, index) for index in indices]


def _saved(made: Composite, frame: pd.DataFrame, seed: int, index: int, root: Path) -> Row:
    crop_id = f"composed-{index:06d}"
    path = f"crops/{crop_id}.png"
    digest = _written(made.image, root / path)
    if made.masks is not None:
        Image.fromarray(mask_bits(made.masks)).save(root / f"masks/{crop_id}.png")
    parents = frame.iloc[[placed.row for placed in made.placed]]
    first = parents.iloc[0]
    return {
        "crop_id": crop_id,
        "path": path,
        "type": made.type.label,
        "case_id": first.get("case_id", ""),
        "source": first.get("source", ""),
        "sha256": digest,
        "width": made.image.shape[1],
        "height": made.image.shape[0],
        "label_certain": bool(parents["label_certain"].all()) if "label_certain" in parents else True,
        "split": "train",
        "relation": made.relation.label,
        "parent_a": made.parents[0],
        "parent_b": made.parents[1],
        "parents": ";".join(made.parents),
        "cell": made.plan.cell.label,
        "seed": seed,
        "index": index,
        "mask": f"masks/{crop_id}.png" if made.masks is not None else "",
    }


def _saved_drawn(crops: Sources, row: int, root: Path) -> Row:
    known = crops.frame.iloc[row]
    path = f"crops/{known['crop_id']}.png"
    return {**known, "path": path, "sha256": _written(crops.images[row], root / path)}


def _written(image: Grey, path: Path) -> str:
    """Write a PNG; its SHA-256."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def mask_bits(masks: Mask) -> Grey:
    """Masks (N + 1, H, W) of the sources and their shared core as one image (H, W): a bit each, the core in bit 7."""
    bits = np.where(masks[-1], np.uint8(_SHARED_BIT), np.uint8(0))
    for number, mask in enumerate(masks[:-1]):
        bits |= np.where(mask, np.uint8(1 << number), np.uint8(0))
    return bits


def _some_sources(crops: Sources) -> dict[ClusterType, list[Grey]]:
    """Source crops spread evenly over each type."""
    by_type = {kind: np.flatnonzero(crops.labels == kind) for kind in ClusterType}
    spread = {kind: np.linspace(0, rows.size - 1, min(_ON_SHEET, rows.size)) for kind, rows in by_type.items()}
    return {kind: [crops.images[row] for row in by_type[kind][spread[kind].astype(int)]] for kind in ClusterType}
