"""What `supcam metaphase` writes for some pictures: crops by type, drawings, tables, COCO, GeoJSON and one page."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.files import is_free, replaced_folder
from supcam.metaphase.drawing import annotated
from supcam.metaphase.exchange import Coco, geojson
from supcam.metaphase.metaphase import OBJECT_COLUMNS, Metaphase
from supcam.metaphase.palette import COLOURS
from supcam.pages import render
from supcam.progress import progress_bar
from supcam.registry.client import REVIEW_FOLDER, Predictor, image_files
from supcam.serving.decoding import shown_path
from supcam.serving.images import ImageError

COUNTS = (*TYPE_LABELS, "needs_review", "nuclei", "debris")


@dataclass(frozen=True)
class Written:
    """What became of the pictures.

    Attributes:
        pictures: one row each: picture, path (absolute), counts by type and of other things, reason, error.
        objects: one row for each object of all pictures.
        ignored: files in folders that were left out, by suffix.
    """

    pictures: pd.DataFrame
    objects: pd.DataFrame
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Pictures that could not be read."""
        return int((self.pictures["error"] != "").sum())

    def summary(self) -> str:
        """All of it as one line."""
        typed = self.objects[self.objects["type"] != ""]
        kinds = ", ".join(f"{int((typed['type'] == name).sum())} {name}" for name in TYPE_LABELS)
        refused = int(((self.pictures["objects"] == 0) & (self.pictures["error"] == "")).sum())
        return (
            f"{len(self.pictures)} pictures, {self.failed} failed, {refused} without a metaphase, "
            f"{len(typed)} objects ({kinds}), {int(typed['needs_review'].sum())} need review, "
            f"{self.ignored.total()} other files ignored"
        )


def write_metaphases(predictor: Predictor, paths: Sequence[Path], into: Path, *, page: int | None = None) -> Written:
    """Cut and type whole metaphases and write everything into a new folder, which is there whole or not at all.

    Crops go into a folder for each type, doubtful ones into ``review/``. A picture that cannot be read, or is no
    metaphase, is a row with the reason; the others go on.

    Raises:
        UsageError: when ``into`` exists and is not empty, or a path does not exist.
    """
    if not is_free(into):
        raise UsageError(f"{into} exists and is not empty; give a new folder.")
    files, ignored = image_files(paths)
    names = _names(list(files))
    writer = _Writer(predictor, page, _file_stems(names.values()))
    with replaced_folder(into) as folder, progress_bar("metaphases", len(files)) as progress:
        for name in (*TYPE_LABELS, REVIEW_FOLDER, "annotated", "geojson"):
            (folder / name).mkdir()
        for done, (path, error) in enumerate(files.items(), 1):
            writer.add(folder, path, names[path], error)
            progress(done, len(files))
        written = Written(pd.DataFrame(writer.pictures), writer.table(), ignored)
        written.pictures.to_csv(folder / "pictures.csv", index=False)
        written.objects.to_csv(folder / "objects.csv", index=False)
        (folder / "coco.json").write_text(json.dumps(writer.coco.content()), encoding="utf-8")
        values = {"pictures": writer.pictures, "summary": written.summary(), "types": TYPE_LABELS, "colours": COLOURS}
        (folder / "index.html").write_text(render("metaphases.html", values), encoding="utf-8")
    return written


class _Writer:
    """Rows and annotations of the pictures so far."""

    def __init__(self, predictor: Predictor, page: int | None, stems: dict[str, str]) -> None:
        self.predictor, self.page, self.stems = predictor, page, stems
        self.pictures: list[dict[str, Any]] = []
        self.coco = Coco()
        self._tables: list[pd.DataFrame] = []

    def add(self, folder: Path, path: Path, name: str, error: ImageError | None) -> None:
        """Write the files of one picture, or note why it has none."""
        row: dict[str, Any] = {"picture": name, "path": shown_path(path), "objects": 0, **dict.fromkeys(COUNTS, 0)}
        row |= {"reason": "", "error": "", "annotated": ""}
        self.pictures.append(row)
        try:
            if error:
                raise error
            metaphase = Metaphase(path, self.predictor, page=self.page)
        except ImageError as refused:
            row["error"] = str(refused)
            return
        row["reason"] = metaphase.reason
        if not metaphase.is_metaphase:
            return
        row |= metaphase.counts
        row["objects"] = sum(row[kind] for kind in TYPE_LABELS)
        stem = self.stems[name]
        row["annotated"] = f"annotated/{stem}.png"
        annotated(metaphase).save(folder / row["annotated"])
        (folder / "geojson" / f"{stem}.geojson").write_text(json.dumps(geojson(metaphase)), encoding="utf-8")
        for number, answer in metaphase.objects.set_index("object").iterrows():
            if number in metaphase.crops:
                kind = REVIEW_FOLDER if answer["needs_review"] else answer["type"]
                Image.fromarray(metaphase.crops[number]).save(folder / kind / f"{stem}_{number:03d}.png")
        self.coco.add(name, metaphase)
        self._tables.append(metaphase.objects.assign(picture=name))

    def table(self) -> pd.DataFrame:
        """Objects of all pictures."""
        columns = ["picture", *OBJECT_COLUMNS]
        return pd.concat(self._tables)[columns] if self._tables else pd.DataFrame(columns=columns)


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """Names of the pictures: their paths below the folder that holds them all."""
    parents = [path.parent for path in files]
    common = parents[0]
    while not all(parent.is_relative_to(common) for parent in parents):
        common = common.parent
    return {path: shown_path(path.relative_to(common)) for path in files}


def _file_stems(names: Iterable[str]) -> dict[str, str]:
    """A name without suffix for the files of each picture; where two would meet, all keep their suffix."""
    flat = {name: name.replace("/", "_").replace("\\", "_") for name in names}
    short = {name: text.rpartition(".")[0] or text for name, text in flat.items()}
    return short if len({text.casefold() for text in short.values()}) == len(short) else flat
