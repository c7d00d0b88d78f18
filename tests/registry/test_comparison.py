"""What two packages are compared on: crops that neither has seen, by fresh answers where the crops are available."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from supcam.registry.comparison import compare_packages, shared_rows
from supcam.registry.package import read_split, write_checksums
from supcam.serving.engine import PREDICTIONS_FILE, PROBABILITY_COLUMNS, Engine
from tests.registry.conftest import crop_rows, drawn_crops


def edited(package: Path, copy: Path, name: str, frame: pd.DataFrame) -> Path:
    """A copy of a package with another table."""
    shutil.copytree(package, copy)
    frame.to_csv(copy / name, index=False)
    write_checksums(copy)
    return copy


def test_crops_that_validated_either_model_do_not_count(package: Path, tmp_path: Path) -> None:
    split = read_split(package)
    hashes = crop_rows(40, 0)["sha256"]
    split.loc[split["sha256"].isin(hashes[:10]), "split"] = "validation"
    other = edited(package, tmp_path / "other", "split.csv", split)
    for pair in ((package, other), (other, package)):
        assert set(shared_rows(*pair)["sha256"]) == set(hashes[10:])


def test_production_is_run_again_on_crops_that_are_available(package: Path, tmp_path: Path) -> None:
    """Its stored answers may be of a decoder or a runtime of long ago."""
    stored = pd.read_csv(package / PREDICTIONS_FILE, dtype={"sha256": str})
    stale = stored.assign(**dict.fromkeys(PROBABILITY_COLUMNS, 0.25))
    other = edited(package, tmp_path / "other", PREDICTIONS_FILE, stale)
    files = {}
    for digest, crop in zip(crop_rows(40, 0)["sha256"][:5], drawn_crops(5, 7), strict=True):
        files[digest] = tmp_path / f"{digest}.png"
        Image.fromarray(crop).save(files[digest])
    found = compare_packages(other, other, files)
    assert found is not None
    fresh = Engine(other).predict([files[digest] for digest in sorted(files)])[0]
    assert np.allclose(found.production[:5], fresh) and not np.allclose(fresh, 0.25, atol=1e-3)
    assert (found.production[5:] == 0.25).all()
    assert (found.candidate == 0.25).all()  # the candidate's are of this very version


def test_a_crop_that_one_model_has_no_answer_for_is_run_or_left_out(package: Path, tmp_path: Path) -> None:
    stored = pd.read_csv(package / PREDICTIONS_FILE, dtype={"sha256": str})
    other = edited(package, tmp_path / "other", PREDICTIONS_FILE, stored[8:])
    left_out = compare_packages(other, package, {})
    assert left_out is not None and len(left_out.types) == 32
    path = tmp_path / "crop.png"
    Image.fromarray(drawn_crops(1, 7)[0]).save(path)
    answered = compare_packages(other, package, {stored["sha256"][0]: path})
    assert answered is not None and len(answered.types) == 33
