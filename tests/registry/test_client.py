"""The light client: every kind of input, files and folders, routing, pulling, and what it says when all is not well."""

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import supcam
from supcam.errors import SupcamError, UsageError
from supcam.registry.card import load_card
from supcam.registry.client import Predictor, load_production, predict_files, pull, route
from supcam.registry.package import write_checksums
from supcam.registry.reach import RegistryError
from supcam.registry.store import Registry
from supcam.serving.engine import ANSWER_COLUMNS, PROBABILITY_COLUMNS, PackageError
from supcam.serving.images import ImageError
from tests.registry.conftest import drawn_crops
from tests.support.drawing import encode


@pytest.fixture
def in_production(first_promoted: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", first_promoted.uri)
    return first_promoted


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "a folder (1)"
    (folder / "inner").mkdir(parents=True)
    paths = [folder / f"crop {index}{suffix}" for index, suffix in enumerate((".png", ".tif", ".bmp"))]
    paths.append(folder / "inner" / "crop 0.png")
    for path, crop in zip(paths, drawn_crops(4, 3, 50), strict=True):
        Image.fromarray(crop).save(path)
    (folder / "notes.txt").write_text("not an image")
    return paths


def test_every_kind_of_input_gets_the_same_answer(predictor: Predictor, images: list[Path]) -> None:
    arrays = [np.asarray(Image.open(path)) for path in images]
    expected = predictor.predict(images)
    assert list(expected.columns) == list(ANSWER_COLUMNS)
    for given in (
        [str(path) for path in images],
        [path.read_bytes() for path in images],
        arrays,
        np.stack(arrays),
        (path for path in images),
        pd.DataFrame({"image": [path.read_bytes() for path in images]}),
        pd.DataFrame({"path": images}),
    ):
        pd.testing.assert_frame_equal(predictor.predict(given), expected)
    single = predictor.predict(images[0])
    assert single["type"][0] == expected["type"][0]
    indexed = pd.DataFrame({"image": [path.read_bytes() for path in images]}, index=list("abcd"))
    assert list(predictor.predict(indexed).index) == list("abcd")


def test_answers_are_consistent(predictor: Predictor) -> None:
    frame = predictor.predict(list(drawn_crops(150, 9)))
    probabilities = frame[list(PROBABILITY_COLUMNS)].to_numpy()
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(frame["confidence"], probabilities.max(axis=1))
    assert len(predictor.predict([])) == 0


def test_batches_do_not_change_answers(predictor: Predictor) -> None:
    crops = list(drawn_crops(130, 4))
    together = predictor.predict(crops)[list(PROBABILITY_COLUMNS)].to_numpy()
    alone = np.concatenate([predictor.predict(crop)[list(PROBABILITY_COLUMNS)].to_numpy() for crop in crops])
    assert np.abs(together - alone).max() < 1e-5


def test_many_threads_share_one_predictor(predictor: Predictor) -> None:
    crops = drawn_crops(24, 6)
    expected = predictor.predict(list(crops))
    with ThreadPoolExecutor(8) as pool:
        frames = list(pool.map(lambda _: predictor.predict(list(crops)), range(24)))
    for frame in frames:
        pd.testing.assert_frame_equal(frame, expected, check_exact=False, atol=1e-6)


def test_bad_crops_raise_or_become_rows(predictor: Predictor) -> None:
    given = [encode(drawn_crops(1, 1)[0]), b"", b"no image", np.zeros((0, 4), np.uint8), None]
    with pytest.raises(ImageError, match="is empty"):
        predictor.predict(given)  # type: ignore[arg-type]
    frame = predictor.predict(given, errors="row")  # type: ignore[arg-type]
    assert frame["error"][0] == "" and all(frame["error"][1:])
    assert list(frame["type"][1:]) == [""] * 4
    assert list(frame["needs_review"]) == [bool(frame["needs_review"][0]), True, True, True, True]
    with pytest.raises(UsageError, match="allowed are 'raise' and 'row'"):
        predictor.predict(given, errors="skip")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="columns crop hold no crops"):
        predictor.predict(pd.DataFrame({"crop": [1]}))


def test_files_and_folders(predictor: Predictor, images: list[Path]) -> None:
    bad = images[0].parent / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nrest")
    found = predict_files(predictor, [images[0].parent, images[1]])
    assert list(found.frame["path"]) == sorted(str(path) for path in [*images, bad])
    assert (found.ignored, found.failed) == ({".txt": 1}, 1)
    row = found.frame.set_index("path").loc[str(bad)]
    assert str(bad) in row["error"] and row["type"] == ""
    with pytest.raises(UsageError, match="does not exist"):
        predict_files(predictor, [Path("nowhere.png")])


def test_route_copies_into_folders_by_type(predictor: Predictor, images: list[Path], tmp_path: Path) -> None:
    bad = images[0].parent / "bad.png"
    bad.write_bytes(b"no image")
    done = route(predictor, [images[0].parent], tmp_path / "sorted")
    table = pd.read_csv(tmp_path / "sorted" / "predictions.csv", keep_default_na=False)
    assert sum(done.counts.values()) == 5 and done.counts["review"] >= 1
    for row in table.itertuples():
        copy = tmp_path / "sorted" / str(row.routed_to)
        assert copy.read_bytes() == Path(str(row.path)).read_bytes()
        assert copy.parent.name == ("review" if row.needs_review else row.type)
    with pytest.raises(UsageError, match="is not empty"):
        route(predictor, [images[0].parent], tmp_path / "sorted")


def test_production_by_alias_version_and_lazily(in_production: Registry) -> None:
    crop = drawn_crops(1, 2)[0]
    answer = supcam.load_production().predict(crop)
    for uri in ("models:/supcam@candidate", "models:/supcam/1", "models:/supcam@production"):
        other = load_production(uri)
        assert len(other.predict(crop)) == 1
    pd.testing.assert_frame_equal(load_production("models:/supcam/1").predict(crop), answer)
    with pytest.raises(RegistryError, match="no alias 'staging'"):
        load_production("models:/supcam@staging")
    with pytest.raises(RegistryError, match="no version 7"):
        load_production("models:/supcam/7")
    for wrong in ("models:/supcam", "models:/", "nowhere"):
        with pytest.raises(UsageError, match="models:/NAME@ALIAS"):
            load_production(wrong)


def test_no_model_in_production_yet(two_versions: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", two_versions.uri)
    with pytest.raises(RegistryError, match=r"no model supcam is in production yet.*dvc repro"):
        load_production()


def test_outside_a_project_without_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_URI"):
        load_production()


OFFLINE = """
import json, sys
from pathlib import Path
import supcam
answer = supcam.load_production(sys.argv[1]).predict(Path(sys.argv[2]))
assert not {"torch", "mlflow", "scipy", "sklearn", "lightning"} & set(sys.modules), "heavy import"
print(answer.to_json())
"""


def test_pulled_model_needs_no_registry(in_production: Registry, images: list[Path], tmp_path: Path) -> None:
    folder = pull(tmp_path / "kept")
    expected = load_production().predict(images[0])
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(folder), str(images[0])],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["type"]["0"] == expected["type"][0]
    assert pull(tmp_path / "kept", "candidate") == folder  # a newer one takes its place
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").touch()
    with pytest.raises(UsageError, match="does not hold a model"):
        pull(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.doc").exists()


def test_a_registered_model_changed_with_its_list_is_found(in_production: Registry, tmp_path: Path) -> None:
    """The list of hashes lies beside the files, so only the registry's own hash shows that both were changed."""
    package = in_production.package(in_production.resolve("production"))
    original = shutil.copytree(package, tmp_path / "original")
    for name, old, new in (("split.csv", "train", "other"), ("card.json", "small", "large")):
        (package / name).write_text((package / name).read_text().replace(old, new))
        write_checksums(package)
        with pytest.raises(PackageError, match=r"not those that were registered.* Run: dvc repro"):
            load_production()
        with pytest.raises(PackageError, match="not those that were registered"):
            pull(tmp_path / "kept")
        shutil.copytree(original, package, dirs_exist_ok=True)
    assert not (tmp_path / "kept").exists()
    assert pull(tmp_path / "kept").is_dir()


@pytest.mark.parametrize(
    ("found", "remedy"), [(1, "Register the model again"), (3, "Install a newer supcam"), ("x", "Register the model")]
)
def test_a_card_of_another_format_is_named(package: Path, tmp_path: Path, found: object, remedy: str) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps({**card, "format": found}))
    write_checksums(copy)
    with pytest.raises(PackageError, match=f"card format {found!r}; this version reads format 2. {remedy}"):
        load_production(str(copy))


def test_a_card_without_an_entry_was_a_traceback(package: Path, tmp_path: Path) -> None:
    """A card of this format that an older or edited supcam wrote: the entry is named, for predictions and the gate."""
    copy = Path(shutil.copytree(package, tmp_path / "copy"))
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps({**card, "review": {}, "encoder": None}))
    write_checksums(copy)
    with pytest.raises(PackageError, match=r"card\.json lacks a usable entry: 'threshold'\. Register the model again"):
        load_production(str(copy))
    with pytest.raises(PackageError, match=r"not a card of format 2: encoder: Input should be a valid string"):
        load_card(copy)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="is not a model package"):
        load_production(str(tmp_path))
    (tmp_path / "SHA256SUMS").write_text("")
    with pytest.raises(PackageError, match=r"does not list model\.onnx"):
        load_production(str(tmp_path))


def claiming(valid: bytes, width: int, height: int) -> bytes:
    """A PNG whose header claims other sides, with the check sum that belongs to it."""
    header = b"IHDR" + struct.pack(">II", width, height) + valid[24:29]
    return valid[:12] + header + struct.pack(">I", zlib.crc32(header)) + valid[33:]


@cache
def giant() -> bytes:
    """A white PNG just above the allowed number of pixels, whole and valid."""
    return encode(np.full((6400, 6400), 255, dtype=np.uint8))


def mutate(generator: np.random.Generator, valid: bytes) -> bytes:
    """One broken or unusual crop."""
    kind = int(generator.integers(11))
    size = (int(generator.integers(1, 40)), int(generator.integers(1, 40)))
    if kind == 0:
        return generator.bytes(int(generator.integers(0, 3000)))
    if kind == 1:
        return valid[: int(generator.integers(len(valid)))]
    if kind == 2:
        content = bytearray(valid)
        for _ in range(int(generator.integers(1, 20))):
            content[int(generator.integers(len(content)))] = int(generator.integers(256))
        return bytes(content)
    if kind == 3:  # a header that promises a giant
        return valid[:16] + generator.integers(0, 2**31, 2).astype(">u4").tobytes() + valid[24:]
    if kind == 9:
        width, height = generator.choice([0, 1, 40, 2**14, 2**20, 2**31 - 1], 2)
        return claiming(valid, int(width), int(height))
    if kind == 10:
        return giant()
    image = {
        4: lambda: Image.fromarray(generator.integers(0, 2**16, size).astype(np.uint16)),
        5: lambda: Image.fromarray(generator.integers(0, 256, (*size, 4)).astype(np.uint8), "RGBA"),
        6: lambda: Image.new("L", size, 255),
        7: lambda: Image.fromarray(generator.integers(0, 256, size).astype(np.uint8)).convert("P"),
        8: lambda: Image.new("1", size, int(generator.integers(2))),
    }[kind]()
    saved = encode(image, "TIFF" if generator.integers(2) else "PNG")
    return saved + (generator.bytes(8) if generator.integers(4) == 0 else b"")


def fuzz(predictor: Predictor, cases: int, seed: int) -> dict[str, int]:
    """Send mutated crops; each must be a prediction or a named error. Returns counts."""
    generator = np.random.default_rng(seed)
    valid = encode(drawn_crops(1, seed, 40)[0])
    crops = [mutate(generator, valid) for _ in range(cases)]
    frame = predictor.predict(crops, errors="row")
    read = frame["error"] == ""
    assert len(frame) == cases
    typed = frame["type"] != ""
    assert (frame.loc[~typed, "reason"] != "").all()
    assert np.allclose(frame.loc[typed, list(PROBABILITY_COLUMNS)].sum(axis=1), 1, atol=1e-4)
    assert (frame.loc[~read, "error"].str.len() > 15).all()
    for index in frame.index[~read][:20]:
        with pytest.raises(SupcamError):
            predictor.predict(crops[index])
    return {"cases": cases, "predicted": int(read.sum()), "named errors": int((~read).sum())}


@pytest.mark.parametrize(
    ("sides", "said"),
    [
        ((0, 0), "is damaged: no image in it"),
        ((6400, 6400), "is 6400 x 6400 pixels; allowed are at most"),
    ],
)
def test_sides_that_no_crop_has_are_named(predictor: Predictor, sides: tuple[int, int], said: str) -> None:
    with pytest.raises(ImageError, match=said):
        predictor.predict(claiming(encode(drawn_crops(1, 1)[0]), *sides))


def test_mutated_crops_are_predictions_or_named_errors(predictor: Predictor) -> None:
    counts = fuzz(predictor, 400, 1)
    assert counts["predicted"] > 50 and counts["named errors"] > 50


@pytest.mark.stress
def test_ten_thousand_mutated_crops(predictor: Predictor) -> None:
    counts = fuzz(predictor, 10_000, 2)
    print(json.dumps(counts))
    assert counts["predicted"] > 1000 and counts["named errors"] > 1000
