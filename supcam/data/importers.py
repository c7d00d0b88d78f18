"""Import: sources become the data folder and its manifest, all of them or none."""

import errno
import hashlib
import io
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import tifffile

from supcam.data.case_ids import CASE_DOUBTS, case_doubts, plain_case
from supcam.data.folder import build_folder, changing, link_tree, replaceable, swap_in
from supcam.data.labels import LabelledCrop, label_source
from supcam.data.manifest import COLUMNS, MANIFEST, manifest_hash, read_manifest, write_manifest
from supcam.data.sources import OVERLAP, ImportSource, is_licence, open_source
from supcam.data.tables import as_text
from supcam.data.versions import require_checked_out
from supcam.errors import SupcamError, UsageError
from supcam.progress import Progress
from supcam.serving.decoding import decode_plane
from supcam.serving.images import ImageError, read_crop

_SHOWN = 20
_CASES_SHOWN = 5
# A name too long, or a file where another crop needs a folder: the fault of the name, unlike a full disk.
_NAME_FAULTS = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL}

# Equal whenever the id is, or whenever the bytes are.
_GIVEN_BY_PATH = {"crop_id", "path", "source", "width", "height"}


class ImportRefused(UsageError):
    """Files that cannot be taken, each with its reason; nothing was imported."""

    def __init__(self, refused: Mapping[str, str]) -> None:
        self.refused = dict(refused)
        lines = [f"  {path} {reason}" for path, reason in list(self.refused.items())[:_SHOWN]]
        if len(self.refused) > _SHOWN:
            lines.append(f"  ... and {len(self.refused) - _SHOWN} more")
        super().__init__(f"nothing was imported, {len(self.refused)} refused:\n" + "\n".join(lines))


@dataclass
class ImportReport:
    """What an import did.

    ``added`` crops are new, ``unchanged`` ones were there already; the data folder holds ``total`` now, of the
    ``types``. ``ignored`` counts files left out, by reason; ``notes`` crops that reading had to change, by what was
    changed. ``warnings`` are sentences for a person. ``type_maps`` has the type by folder name, or by what the table
    says, for each source that needed a map; ``labelled_by_table`` names those with a table. ``manifest_hash`` is that
    of the new manifest; ``versioned`` says whether DVC recorded it.
    """

    added: int = 0
    unchanged: int = 0
    total: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    types: dict[str, int] = field(default_factory=dict)
    type_maps: dict[str, dict[str, str]] = field(default_factory=dict)
    labelled_by_table: set[str] = field(default_factory=set)
    manifest_hash: str = ""
    versioned: bool = False

    def lines(self) -> list[str]:
        """The report as lines for a terminal."""
        counts = ", ".join(f"{count} {name}" for name, count in self.types.items())
        lines = [f"{self.added} crops added, {self.unchanged} already there; {self.total} in all: {counts}"]
        for source, used in self.type_maps.items():
            what = "" if source in self.labelled_by_table else "folder "
            lines.append(f"{source}: " + ", ".join(f"{what}{name} = {label}" for name, label in sorted(used.items())))
        lines += [f"ignored: {count} {what}" for what, count in sorted(self.ignored.items())]
        lines += [f"note: {count} crops {what}" for what, count in sorted(self.notes.items())]
        lines += [f"warning: {text}" for text in self.warnings]
        lines.append(f"manifest {self.manifest_hash[:12]}" + (", version recorded in DVC" if self.versioned else ""))
        return lines


def import_sources(
    sources: Sequence[Path],
    into: Path,
    *,
    replace: bool = False,
    type_map: Mapping[str, str] | None = None,
    case_pattern: str | None = None,
    page: int | None = None,
    masks: bool = False,
    overlap: int = OVERLAP,
    encoding: str | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Take crops from folders, zips or label tables into the data folder ``into`` and record the new version.

    Original bytes go to ``crops/<source>/<path below the source>``; of files that hold a stack only the plane
    ``page`` (from 1), as a TIFF, so that later readers need not know of it. ``encoding`` is that of tables and of names
    in zips which are not UTF-8. The new folder is built beside ``into``
    and swapped in; if anything fails, the folder and its ``.dvc`` file are as before.

    With ``masks`` the sources are whole pictures with the masks of their chromosomes: the clusters cut from them come
    in, typed by the rule of docs/masks.md; ``overlap`` is the value of label maps where chromosomes overlap.

    Raises:
        ImportRefused: naming every file that cannot be taken, and why.
        UsageError: for a wrong source, table, map or pattern, or data that are not checked out.
        SupcamError: when another command is changing the folder, or DVC fails.
    """
    into = replaceable(into)
    if masks:
        from supcam.data.masks import open_masks  # it loads SciPy, which other imports need not wait for

        opened = [open_masks(path, overlap, case_pattern is None, encoding, progress) for path in sources]
    else:
        opened = [open_source(path, encoding) for path in sources]
    _refuse_names(sources, opened, into)
    report = ImportReport()
    with changing(into):
        if not replace:
            require_checked_out(into)
        before = None if replace or not (into / MANIFEST).is_file() else read_manifest(into / MANIFEST)
        begun_with = _state(into)
        with build_folder(into) as built:
            if before is not None:
                link_tree(into / "crops", built / "crops")
            labelled = [(source, label_source(source, type_map, case_pattern)) for source in opened]
            fresh = _take_all(labelled, built / "crops", before, report, page, progress)
            frame = pd.concat([*([] if before is None else [before]), *fresh], ignore_index=True)
            extra = [name for name in frame.columns if name not in COLUMNS]
            frame[extra] = frame[extra].fillna("")
            write_manifest(frame, built / MANIFEST)
            report.total = len(frame)
            report.warnings += [text for source in opened for text in source.notes] + _case_warnings(frame)
            report.types = {str(name): int(count) for name, count in frame["type"].value_counts().items()}
            report.manifest_hash = manifest_hash(frame)
            if _state(into) != begun_with:  # the lock holds off only our own commands
                raise SupcamError(f"{into} was changed by another program during the import. Run the import again.")
            report.versioned = swap_in(built, into)
    return report


def _take_all(
    labelled: list[tuple[ImportSource, list[LabelledCrop]]],
    out: Path,
    before: pd.DataFrame | None,
    report: ImportReport,
    page: int | None,
    progress: Progress | None,
) -> list[pd.DataFrame]:
    """Copy what is new of every source below ``out``; its rows, as one table or none."""
    known = {} if before is None else before.drop_duplicates("crop_id").set_index("crop_id").to_dict("index")
    total, done = sum(len(crops) for _, crops in labelled), 0
    refused: dict[str, str] = {}
    fresh = []
    for source, crops in labelled:
        report.ignored.update(source.ignored)
        if any(map(source.is_table, source.files)):
            report.labelled_by_table.add(source.name)
        if source.type_map:
            report.type_maps[source.name] = source.type_map
        for path in filter(is_licence, source.files):
            _copy(source.read(path), out / source.name / path)
        for crop in crops:
            done += 1
            try:
                fresh += _take(source, crop, out, known, report, page)
            except (ImageError, UsageError) as error:
                source.refused[crop.path] = str(error).removeprefix("image ")
            if progress:
                progress(done, total)
        refused.update({f"{source.name}/{path}": reason for path, reason in source.refused.items()})
    if refused:
        raise ImportRefused(refused)
    report.added = len(fresh)
    return [pd.DataFrame(fresh)] if fresh else []


def _take(
    source: ImportSource,
    crop: LabelledCrop,
    out: Path,
    known: Mapping[Hashable, Mapping[Hashable, object]],
    report: ImportReport,
    page: int | None,
) -> list[dict[str, object]]:
    """Read, check and copy one crop: its row of the manifest, or none when the very same crop is there already."""
    content, crop_id = source.read(crop.path), f"{source.name}/{crop.path}"
    if page is not None:
        content = _page_alone(content, page, report)
    digest = hashlib.sha256(content).hexdigest()
    # The sides are known only when the crop is decoded.
    case_id = plain_case(as_text(crop.case_id))
    values = (crop_id, f"crops/{crop_id}", crop.type, case_id, source.name, digest, 0, 0, crop.certain)
    row = {
        **dict(zip(COLUMNS, values, strict=True)),
        **{as_text(name): as_text(value) for name, value in crop.extra.items()},
    }
    if crop.case_id and not case_id:
        report.notes[f"have the case {crop.case_id!r}, which is read as no case"] += 1
    if crop_id in known:
        _require_same(known[crop_id], row)
        report.unchanged += 1
        return []
    decoded = read_crop(content)
    row["height"], row["width"] = decoded.shape
    report.notes.update(decoded.notes)
    _copy(content, out / source.name / crop.path)
    return [row]


def _page_alone(content: bytes, page: int, report: ImportReport) -> bytes:
    """One plane of a stack as a TIFF of its own, black 0 to full scale 255; a single picture as it is."""
    plane = decode_plane(content, page=page)
    chosen = [note for note in plane.notes if note.startswith(f"plane {page} of ")]
    if not chosen:
        return content
    report.notes.update(chosen)
    stream = io.BytesIO()
    tifffile.imwrite(stream, plane.values, photometric="minisblack", metadata=None, software=False)
    return stream.getvalue()


def _copy(content: bytes, target: Path) -> None:
    """Write a new file: what lies there may be a hard link to a file of the present data, and must not change.

    Raises:
        UsageError: when the file system cannot hold a file of that name.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(content)
    except OSError as error:
        if error.errno not in _NAME_FAULTS:
            raise
        raise UsageError(f"cannot be copied under its name: {error.strerror}. Rename it.") from None


def _require_same(known: Mapping[Hashable, object], row: Mapping[str, object]) -> None:
    for name in (name for name in row if name not in _GIVEN_BY_PATH):
        old, new = known.get(name, ""), row[name]
        if name == "case_id":
            old = plain_case(str(old))  # NA was kept as a case once
        if old != new:
            raise UsageError(
                f"is there already with another {name} ({old!r}, now {new!r}). "
                "Give the source folder another name, correct it, or start from scratch with --replace."
            )


def _refuse_names(sources: Sequence[Path], opened: list[ImportSource], into: Path) -> None:
    if not opened:
        raise UsageError("no source was given. Give a folder per type, a zip of one, or a folder with labels.csv.")
    counts = Counter(source.name for source in opened)
    for path, source in zip(sources, opened, strict=True):
        if counts[source.name] > 1:
            raise UsageError(f"two sources are named {source.name!r}; names distinguish crops. Rename one.")
        full = path.resolve()
        if full.is_relative_to(into) or into.is_relative_to(full):
            raise UsageError(f"source {path} and the data folder {into} contain each other. Move the source elsewhere.")


def _case_warnings(frame: pd.DataFrame) -> list[str]:
    """One line for each kind of doubt about case ids, with the first of them."""
    meaning = {
        "sources": "are in several sources. Each is taken for one patient; if not, set split.same_case: apart",
        "spelling": "are written in several ways. Each is taken for one patient; spell it the same way in every table",
        "mangled": "look changed by a spreadsheet. Compare them with the original table",
    }
    doubts = list(case_doubts(frame))
    warnings = []
    for kind in CASE_DOUBTS:
        found = [f"{case} ({text})" for each, case, text in doubts if each == kind]
        if found:
            more = f", and {len(found) - _CASES_SHOWN} more" if len(found) > _CASES_SHOWN else ""
            warnings.append(f"case ids {', '.join(found[:_CASES_SHOWN])}{more} {meaning[kind]}")
    return warnings


def _state(into: Path) -> str | None:
    manifest = into / MANIFEST
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None
