"""Pictures with masks as a source of crops: every cluster cut out, its type derived from how its masks meet."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from supcam.data import mask_files
from supcam.data.mask_clusters import (
    Classes,
    Outlined,
    Region,
    cluster_of_bodies,
    cluster_of_classes,
    cluster_of_values,
    left_out,
    regions_of,
    width_factor,
)
from supcam.data.mask_rule import Cluster, judge
from supcam.data.sources import LABELS, FolderSource, ImportSource, ZipSource, is_image, is_licence, require_name
from supcam.errors import UsageError
from supcam.progress import Progress
from supcam.serving.bodies import dilated
from supcam.serving.decoding import ImageError, decode_plane
from supcam.serving.paper import WHITE, Grey, on_white
from supcam.serving.surroundings import upright

# White around a crop, of which this rim shows the picture: the soft edge of the chromosomes.
_MARGIN, _RIM = 2, 1
_ANNOTATIONS = "*.json"  # the tables of such a source
_MAP = r"labels?|masks?|annotations?|segmentations?|seg|gt"
_PICTURE = r"images?|pictures?|imgs?|raw"
_MAP_WORD = re.compile(rf"(^|[ _.-])({_MAP})($|[ _.-])", re.IGNORECASE)
_ANY_WORD = re.compile(rf"(^|[ _.-])({_MAP}|{_PICTURE})(?=$|[ _.-])", re.IGNORECASE)


@dataclass(frozen=True)
class _Pair:
    """A picture, the file that outlines it, and its outline."""

    picture: str
    masks: str
    outline: mask_files.Outline


@dataclass(frozen=True)
class _Cut:
    """One cluster cut out of its picture; ``cluster`` is None until all label maps have been seen."""

    picture: str
    region: Region
    factor: int
    content: bytes
    cluster: Cluster | None

    @property
    def path(self) -> str:
        """Path of the crop below the source."""
        return f"{PurePosixPath(self.picture).with_suffix('')}_{self.region.number:03d}.png"


class MaskSource(ImportSource):
    """A folder or zip of pictures and masks, as the crops that are cut from them and their label table."""

    def __init__(self, base: ImportSource, overlap: int, cases: bool, progress: Progress | None) -> None:
        super().__init__(base.name)
        self._base = base
        self._names = frozenset(base.files)
        self.refused, self.ignored, self.notes = base.refused, base.ignored, base.notes
        pairs = list(self._paired(overlap))
        crops = self._cut_all(pairs, progress)
        self._content = {cut.path: cut.content for cut in crops}
        self._content[LABELS] = _table(crops, self._verdicts(crops), cases)
        self.files = [*self._content, *filter(is_licence, base.files)]

    def read(self, path: str) -> bytes:
        """Bytes of a crop, of the table or of a licence."""
        return self._content[path] if path in self._content else self._base.read(path)

    def _paired(self, overlap: int) -> Iterator[_Pair]:
        """Pictures with their outlines: by annotation files where there are any, else by label maps."""
        found = [pair for path in self._base.files if path.lower().endswith(".json") for pair in self._annotated(path)]
        by_name = defaultdict(list)
        for pair in found:
            by_name[PurePosixPath(pair.picture).with_suffix("")].append(pair)
        for pairs in by_name.values():
            if len(pairs) > 1:
                files = ", ".join(f"{pair.picture} in {pair.masks}" for pair in pairs)
                self.refused[pairs[0].picture] = f"is annotated twice, or shares its name ({files}). Keep one."
            else:
                yield pairs[0]
        images = [path for path in self._base.files if is_image(path)]
        if found or self.refused:
            self.ignored["pictures not named in an annotation file"] = len(
                set(images) - {pair.picture for pair in found}
            )
        else:
            yield from self._mapped(images, overlap)

    def _annotated(self, path: str) -> Iterator[_Pair]:
        def refuse(what: str, why: str) -> None:
            self.refused[f"{path}: {what}"] = why

        try:
            found = mask_files.read_json(self._base.read(path))
        except UsageError as error:
            self.refused[path] = str(error)
            return
        if found is None:
            self.ignored["JSON files that are neither COCO nor LabelMe"] += 1
            return
        read = mask_files.labelme_outlines if "shapes" in found else mask_files.coco_outlines
        try:
            outlines = read(found, refuse)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self.refused[path] = f"has records of another form than COCO's or LabelMe's: {error!r}. Export it again."
            return
        for name, outline in outlines.items():
            picture = self._find(name, path)
            if picture is None:
                refuse(name, "is not in the source. Put the picture beside the annotations, or correct its name.")
            else:
                yield _Pair(picture, path, outline)

    def _find(self, name: str, beside: str) -> str | None:
        for path in mask_files.candidates(name, beside):
            if path in self._names:
                return path
        same = [path for path in self._base.files if PurePosixPath(path).name == PurePosixPath(name).name]
        return same[0] if len(same) == 1 else None

    def _mapped(self, images: Sequence[str], overlap: int) -> Iterator[_Pair]:
        maps: dict[tuple[str, ...], list[str]] = defaultdict(list)
        pictures: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for path in images:
            (maps if _is_map(path) else pictures)[_key(path)].append(path)
        for key, paths in pictures.items():
            if len(paths) > 1 or len(maps[key]) > 1:
                self.refused[paths[0]] = f"goes with several files: {', '.join([*paths[1:], *maps[key]])}. Keep one."
            elif not maps[key]:
                self.refused[paths[0]] = (
                    "has no masks. Add a label map of the same name in a folder labels/, or take the picture out."
                )
            else:
                yield _Pair(paths[0], maps[key][0], self._map_outline(maps[key][0], overlap))
        for key, paths in maps.items():
            if paths and key not in pictures:
                self.refused[paths[0]] = "is a label map without its picture. Add the picture, or take it out."

    def _map_outline(self, path: str, overlap: int) -> mask_files.Outline:
        def outline(shape: mask_files.Shape) -> Outlined:
            outlined = mask_files.read_label_map(self._base.read(path), overlap)
            height, width = outlined.owners.shape
            if (height, width) != shape:
                raise UsageError(f"is {width} x {height} pixels, its picture {shape[1]} x {shape[0]}. Label this one.")
            return outlined

        return outline

    def _cut_all(self, pairs: Sequence[_Pair], progress: Progress | None) -> list[_Cut]:
        self._classes = Classes()
        crops: list[_Cut] = []
        for done, pair in enumerate(pairs, 1):
            try:
                grey = picture_on_white(self._base.read(pair.picture))
            except (ImageError, UsageError) as error:
                self.refused[pair.picture] = str(error).removeprefix("image ")
                continue
            try:
                crops += self._cut(pair, grey)
            except UsageError as error:
                self.refused[pair.masks if is_image(pair.masks) else f"{pair.masks}: {pair.picture}"] = str(error)
            if progress:
                progress(done, len(pairs))
        if not crops and not self.refused:
            raise UsageError(
                f"source {self.name!r} holds no picture with masks. Give label maps in a folder labels/ beside the "
                "pictures, or COCO or LabelMe JSON."
            )
        return crops

    def _cut(self, pair: _Pair, grey: Grey) -> list[_Cut]:
        shape = grey.shape[0], grey.shape[1]
        outlined = pair.outline(shape)
        inside = outlined.owners != 0
        if np.median(grey[inside]) >= np.median(grey[~inside] if not inside.all() else grey):
            raise UsageError("marks chromosomes where the picture shows none: they are not darker than the paper. "
                             "Check that both belong together.")  # fmt: skip
        regions = regions_of(outlined.owners)
        if outlined.bodies is None:
            self._classes.add(pair.picture, regions, shape)
        factor, crops = width_factor(regions), []
        for region in regions:
            why = left_out(region, regions, shape)
            if why is not None:
                self.ignored[why] += 1
                continue
            cluster = None if outlined.bodies is None else cluster_of_bodies(region, outlined.bodies)
            crops.append(_Cut(pair.picture, region, factor, crop_of(grey, region), cluster))
        return crops

    def _verdicts(self, crops: Sequence[_Cut]) -> Iterator[tuple[str, bool, int]]:
        usual = self._classes.usual_areas() if self._classes.name_classes() else None
        for cut in crops:
            if cut.cluster is not None:
                cluster = cut.cluster
            elif usual is None:
                cluster = cluster_of_values(cut.region)
            else:
                cluster = cluster_of_classes(cut.region, self._classes.totals[cut.picture], usual[cut.picture])
            verdict = judge(cluster, cut.factor)
            yield verdict.type.label, verdict.certain, verdict.count


def open_masks(
    path: Path, overlap: int, cases: bool, encoding: str | None = None, progress: Progress | None = None
) -> ImportSource:
    """Open a folder or zip of pictures with masks, or the folder of an annotation file, and cut all clusters.

    Args:
        path: Of the folder, zip or JSON.
        overlap: Value of pixels of label maps where chromosomes overlap.
        cases: Whether each picture is a case of its own; otherwise a pattern will find the cases.
        encoding: Of names in a zip that are not UTF-8; None finds it.
        progress: Called after each picture.

    Raises:
        UsageError: for anything else, or without any picture with masks.
    """
    suffix = path.suffix.lower() if path.is_file() else ""
    if path.is_dir() or suffix == ".json":
        base: ImportSource = FolderSource(path if path.is_dir() else path.resolve().parent, _ANNOTATIONS)
    elif suffix == ".zip":
        base = ZipSource(path, encoding, _ANNOTATIONS)
    else:
        state = "is not a folder, zip or JSON file" if path.exists() else "does not exist"
        raise UsageError(f"source {path} {state}. Give pictures with their masks in one folder or zip.")
    require_name(base, path)
    return MaskSource(base, overlap, cases, progress)


def _is_map(path: str) -> bool:
    pure = PurePosixPath(path)
    return any(_MAP_WORD.search(name) for name in (*pure.parent.parts, pure.stem))


def _key(path: str) -> tuple[str, ...]:
    """What a picture and its label map have in common: their names without words such as images and labels."""
    pure = PurePosixPath(path)
    names = (_ANY_WORD.sub("", name).strip(" _.-").lower() for name in (*pure.parent.parts, pure.stem))
    return tuple(name for name in names if name)


def picture_on_white(content: bytes) -> Grey:
    """A whole picture (H, W) by the steps of the one reading, dark chromosomes on paper of about 255."""
    plane = decode_plane(content)
    values = np.asarray(plane.values, dtype=np.float32)
    values, hidden = upright(values, ~np.isfinite(values), [])
    return on_white(values, hidden, plane.lossy, []).grey


def crop_of(grey: Grey, region: Region) -> bytes:
    """A region with its soft edge on white, as PNG."""
    rows, columns = region.box
    shown = np.pad(region.mask, _MARGIN)
    for _ in range(_RIM):
        shown = dilated(shown)
    top, left = rows.start - _MARGIN, columns.start - _MARGIN
    part = grey[max(top, 0) : rows.stop + _MARGIN, max(left, 0) : columns.stop + _MARGIN]
    crop = np.full(shown.shape, WHITE, dtype=np.uint8)
    inside = crop[max(-top, 0) : max(-top, 0) + part.shape[0], max(-left, 0) : max(-left, 0) + part.shape[1]]
    inside[:] = np.rint(part)
    crop[~shown] = WHITE
    stream = io.BytesIO()
    Image.fromarray(crop).save(stream, "PNG")
    return stream.getvalue()


def _table(crops: Sequence[_Cut], verdicts: Iterator[tuple[str, bool, int]], cases: bool) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(("path", "type", "case", "label_certain", "picture", "n_chromosomes"))
    for cut, (kind, certain, count) in zip(crops, verdicts, strict=True):
        picture = str(PurePosixPath(cut.picture).with_suffix(""))
        writer.writerow((cut.path, kind, picture if cases else "", "yes" if certain else "no", picture, count))
    return stream.getvalue().encode()
