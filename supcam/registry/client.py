"""The light client: find the production model, predict with it, sort crops by type, keep the model for use offline."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from supcam.cluster_type import TYPE_LABELS
from supcam.errors import UsageError
from supcam.evaluation.unlike import UnlikeShare
from supcam.files import is_free, replaced_folder, write_text
from supcam.registry.integrity import package_below
from supcam.registry.package import read_split
from supcam.registry.store import PRODUCTION, Registry
from supcam.serving.decoding import shown_path
from supcam.serving.engine import CARD_FILE, CHECKSUM_FILE, GRAPH_FILE, CropInput, Engine, verify_package
from supcam.serving.images import IMAGE_SUFFIXES, ImageError

PRODUCTION_URI = "models:/supcam@production"
REVIEW_FOLDER = "review"


class Predictor:
    """A model ready for use; one instance serves many threads.

    Attributes:
        card: the model card as plain values.
        origin: where the model came from, for messages.
        package: folder of the model's files.
    """

    def __init__(self, engine: Engine, origin: str) -> None:
        self._engine = engine
        self.card: Mapping[str, Any] = engine.card
        self.origin = origin
        self.package = engine.folder

    def canvas(self, crop: CropInput) -> NDArray[np.uint8]:
        """The square the model sees for one crop, (1, S, S) on white; ImageError for a crop that cannot be read."""
        return self._engine.canvas(crop)

    def split(self) -> dict[str, str]:
        """Part (train, validation or test) of every crop that made or judged the model, by the SHA-256 of its bytes."""
        rows = read_split(self.package)
        return dict(zip(rows["sha256"], rows["split"], strict=True))

    def judge(self, crops: Sequence[CropInput]) -> tuple[NDArray[np.float32], list[str]]:
        """Probabilities (N, 4) of crops and the reason for which each would go to review, or "".

        Readings, as :attr:`supcam.data.crops.CropSet.sources` gives them, keep what was measured on their files.
        """
        predictions = self._engine.predict(crops, strict=True)
        return predictions.probabilities, self._engine.answer(predictions)["reason"]

    @property
    def expected_unlike(self) -> float | None:
        """Expected share (0-1) of crops unlike the training crops; None where the package has no reference."""
        novelty = self._engine.novelty
        return None if novelty is None else novelty.share

    def probabilities(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Probabilities (N, 4) of decoded crops, each (H, W)."""
        return self._engine.predict(images, strict=True).probabilities

    def predict(
        self,
        crops: "CropInput | Iterable[CropInput | ImageError] | pd.DataFrame",
        *,
        errors: str = "raise",
        page: int | None = None,
    ) -> pd.DataFrame:
        """Type of each crop.

        Args:
            crops: One crop or many: paths, encoded bytes, arrays (H, W) or (H, W, 3), Pillow images, or a DataFrame
                with a column ``image`` (encoded bytes) or ``path``. An error stands for a file refused already.
            errors: ``raise`` stops at the first crop that cannot be read; ``row`` adds a column ``error``, empty
                for crops that were read.
            page: The plane of stacks, from 1.

        Returns:
            One row a crop: type, confidence (0-1), four probabilities that sum to 1, needs_review, and the reason for
            that (see docs/reading.md); the index of a DataFrame is kept. What shows no crop has the type "" and NaN.

        Raises:
            ImageError: for a crop that cannot be read, unless ``errors`` is ``row``.
            UsageError: for another value of ``errors``, or a DataFrame without such a column.
        """
        if errors not in ("raise", "row"):
            raise UsageError(f"errors = {errors!r} is not allowed; allowed are 'raise' and 'row'.")
        sources = _sources(crops)
        predictions = self._engine.predict(sources, strict=errors == "raise", page=page)
        index = crops.index if isinstance(crops, pd.DataFrame) else pd.RangeIndex(len(sources))
        frame = pd.DataFrame(self._engine.answer(predictions), index=index)
        return frame if errors == "raise" else frame.assign(error=[text or "" for text in predictions.errors])


@dataclass(frozen=True)
class FilePredictions:
    """Answers for files and folders.

    Attributes:
        frame: one row an image: path (absolute; bytes that are not UTF-8 as \\xNN), the answer, error ("" when read).
        ignored: files in folders that were left out, counted by suffix, or as hidden files or linked folders.
        counts: crops by the folder they were routed to.
        unlike: crops unlike the training crops; None where the package has no reference, or no crop has a type.
    """

    frame: pd.DataFrame
    ignored: Counter[str] = field(default_factory=Counter)
    counts: dict[str, int] = field(default_factory=dict)
    unlike: UnlikeShare | None = None

    @property
    def failed(self) -> int:
        """Images that could not be read."""
        return int((self.frame["error"] != "").sum())

    @property
    def reasons(self) -> Counter[str]:
        """Crops that need review, by reason; a crop with two reasons counts for both."""
        return Counter(reason for text in self.frame["reason"] if text for reason in text.split("; "))

    def summary(self) -> str:
        """What became of the files, as one line."""
        review = _counted(self.reasons)
        ignored = _counted(self.ignored)
        unlike = f"; {self.unlike.sentence}" if self.unlike else ""
        return (
            f"{len(self.frame)} images, {self.failed} failed, "
            f"{int(self.frame['needs_review'].sum())} need review{review}, "
            f"{self.ignored.total()} other files ignored{ignored}{unlike}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The summary for a script, as JSON; ``unlike_training`` is None where there is nothing to say."""
        return {
            "images": len(self.frame),
            "failed": self.failed,
            "need_review": int(self.frame["needs_review"].sum()),
            "reasons": dict(self.reasons),
            "ignored": dict(self.ignored),
            "unlike_training": self.unlike.as_dict() if self.unlike else None,
        }


def load_production(uri: str | None = None, *, threads: int | None = None) -> Predictor:
    """The model in production, or any other by its address.

    Args:
        uri: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or a folder written by ``supcam pull``; by default
            ``models:/supcam@production``.
        threads: Threads of the runtime; by default it takes what the machine has.

    Raises:
        RegistryError: when the registry cannot be reached or has no such model.
        PackageError: when the model's files were changed, or its card is of another format.
        UsageError: when ``uri`` is neither such an address nor a folder.
    """
    wanted = uri or PRODUCTION_URI
    if wanted.startswith("models:/"):
        registry, which = _parse_uri(wanted)
        version = registry.resolve(which)
        package = registry.package(version)
        return Predictor(Engine(package, threads=threads), f"{registry.name} version {version.number}")
    folder = Path(wanted)
    if not folder.is_dir():
        raise UsageError(f"model {wanted!r} is neither models:/NAME@ALIAS, models:/NAME/VERSION nor a folder.")
    return Predictor(Engine(package_below(folder), threads=threads), str(folder))


def pull(into: Path, alias: str = PRODUCTION, *, name: str = "supcam", tracking_uri: str | None = None) -> Path:
    """Copy a model into a folder as plain files, checked by their hashes; it needs no registry later.

    Raises:
        UsageError: when the folder exists and holds anything else than a model.
        RegistryError: when the registry cannot be reached or has no such model.
        PackageError: when the registry's files were changed.
    """
    if not is_free(into) and not any((into / name).is_file() for name in (CARD_FILE, GRAPH_FILE, CHECKSUM_FILE)):
        raise UsageError(f"{into} exists and does not hold a model; give a new or empty folder.")
    registry = Registry(tracking_uri or default_uri(), name)
    version = registry.resolve(alias)
    with replaced_folder(into) as folder:
        shutil.copytree(registry.package(version), folder, dirs_exist_ok=True)
        verify_package(folder)
    return into


def predict_files(
    predictor: Predictor, paths: Sequence[Path], *, page: int | None = None, limit: int | None = None
) -> FilePredictions:
    """Answers for images and folders, see :func:`image_files`; a bad image is a row with ``error``.

    With a ``limit`` only so many of them, spread evenly.
    """
    files, ignored = image_files(paths)
    if limit is not None:
        files = dict(list(files.items())[:: max(1, len(files) // limit)][:limit])
    frame = _answers(predictor, files, page)
    return FilePredictions(frame, ignored, unlike=UnlikeShare.of(frame["reason"], predictor.expected_unlike))


def _answers(predictor: Predictor, files: Mapping[Path, ImageError | None], page: int | None) -> pd.DataFrame:
    answers = predictor.predict([error or path for path, error in files.items()], errors="row", page=page)
    answers.insert(0, "path", [shown_path(path) for path in files])
    return answers


def route(predictor: Predictor, paths: Sequence[Path], into: Path, *, page: int | None = None) -> FilePredictions:
    """Copy crops into a folder for each type, doubtful and unreadable ones into ``review/``.

    Two crops of one name in one folder get a number. ``predictions.csv`` names where each one went, ``summary.json``
    holds the counts; pipes, and links
    that lead out of a folder given, go nowhere.

    Raises:
        UsageError: when ``into`` exists and is not empty, or a path does not exist.
    """
    if not is_free(into):
        raise UsageError(f"{into} exists and is not empty; give a new folder.")
    files, ignored = image_files(paths)
    frame = _answers(predictor, files, page)
    folders = frame["type"].mask(frame["needs_review"], REVIEW_FOLDER)
    names, routed = (*TYPE_LABELS, REVIEW_FOLDER), []
    with replaced_folder(into) as folder:
        for name in names:
            (folder / name).mkdir()
        for name, (path, error) in zip(folders, files.items(), strict=True):
            if error or not path.is_file():
                routed.append("")
                continue
            target = _free_name(folder / name, path)
            shutil.copy2(path, target)
            routed.append(shown_path(target.relative_to(folder)))
        frame["routed_to"] = routed
        frame.to_csv(folder / "predictions.csv", index=False)
        counts = {name: int(((folders == name) & (frame["routed_to"] != "")).sum()) for name in names}
        unlike = UnlikeShare.of(frame["reason"], predictor.expected_unlike)
        done = FilePredictions(frame, ignored, counts, unlike)
        write_text(folder / "summary.json", json.dumps(done.as_dict(), indent=1) + "\n")
    return done


def image_files(paths: Sequence[Path]) -> tuple[dict[Path, ImageError | None], Counter[str]]:
    """Absolute paths of the images given and found in folders (recursively, sorted), and which files were ignored.

    Hidden files, what archivers leave behind and files without an image suffix are ignored, as import does. A link
    that leads out of its folder comes with an error, since its target was not given, and so does a folder that may not
    be read.

    Raises:
        UsageError: when nothing was given, a path does not exist, or there is no image.
    """
    if not paths:
        raise UsageError("no path was given; give images or folders of images.")
    files: dict[Path, ImageError | None] = {}
    ignored: Counter[str] = Counter()
    for path in paths:
        if path.is_dir():
            files |= _images_below(path.absolute(), ignored)
        elif path.exists():
            files[path.absolute()] = None
        else:
            raise UsageError(f"{path} does not exist. Check the path.")
    if not files:
        named = ", ".join(str(path) for path in paths)
        searched = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(
            f"{named} holds no image; searched for files ending in {searched}; ignored: {ignored.total()} others"
            f"{_counted(ignored)}."
        )
    return files, +ignored


def _images_below(root: Path, ignored: Counter[str]) -> dict[Path, ImageError | None]:
    found: dict[Path, ImageError | None] = {}

    def is_hidden(path: Path) -> bool:
        return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(root).parts)

    def unread(error: OSError) -> None:
        folder = Path(error.filename)
        if not is_hidden(folder):
            found[folder] = ImageError(f"{shown_path(folder)} cannot be opened: {error.strerror}. Allow reading it.")

    for folder, folders, names in os.walk(root, onerror=unread):
        here = Path(folder)
        ignored["linked folders"] += sum((here / name).is_symlink() for name in folders)
        for path in (here / name for name in names):
            if is_hidden(path):
                ignored["hidden files"] += 1
            elif path.suffix.lower() not in IMAGE_SUFFIXES:
                ignored[path.suffix.lower() or "no suffix"] += 1
            elif path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                found[path] = ImageError(f"{shown_path(path)} is a link out of the folder. Replace it by its file.")
            else:
                found[path] = None
    return dict(sorted(found.items()))


def _counted(counts: Counter[str]) -> str:
    """Counts in brackets, the largest first; nothing where all are 0."""
    listed = ", ".join(f"{name} {count}" for name, count in counts.most_common() if count)
    return f" ({listed})" if listed else ""


def default_uri() -> str:
    """``MLFLOW_TRACKING_URI``, else the store of the project around; UsageError outside a project."""
    from supcam.tracking import project_root, tracking_uri

    if os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return tracking_uri(Path.cwd())
    try:
        return tracking_uri(project_root())
    except UsageError as error:
        raise UsageError(f"{error} Or set MLFLOW_TRACKING_URI to the registry.") from None


def _parse_uri(uri: str) -> tuple[Registry, str]:
    rest = uri.removeprefix("models:/").strip("/")
    name, _, which = rest.partition("@" if "@" in rest else "/")
    if not name or not which:
        raise UsageError(f"model {uri!r} is not allowed; allowed are models:/NAME@ALIAS and models:/NAME/VERSION.")
    return Registry(default_uri(), name), which


def _sources(crops: Any) -> list[CropInput]:
    if isinstance(crops, pd.DataFrame):
        column = next((name for name in ("image", "path") if name in crops.columns), None)
        if column is None:
            raise UsageError(f"columns {', '.join(map(str, crops.columns))} hold no crops; name one image or path.")
        return list(crops[column])
    if isinstance(crops, np.ndarray):
        # One crop (H, W) or (H, W, 1 to 4), or a stack (N, H, W) of grey crops.
        stacked = crops.ndim == 4 or (crops.ndim == 3 and crops.shape[-1] > 4)
        if stacked and crops.ndim == 3 and len(crops) == 3:
            raise UsageError(
                f"an array of shape {crops.shape} may be one crop with channels first or three crops; "
                "give (H, W, 3), or a list of three."
            )
        return list(crops) if stacked else [crops]
    return [crops] if isinstance(crops, (str, Path, bytes, bytearray, memoryview, Image.Image)) else list(crops)


def _free_name(folder: Path, path: Path) -> Path:
    target = folder / path.name
    number = 2
    while target.exists():
        target = folder / f"{path.stem}-{number}{path.suffix}"
        number += 1
    return target
