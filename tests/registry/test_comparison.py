"""What two packages are compared on: crops that neither has seen, by fresh answers where the crops are available."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from supcam.registry.comparison import compare_packages, shared_rows
from supcam.registry.evidence import ProjectCrops, computed_answers
from supcam.registry.package import read_split, write_checksums
from supcam.serving.engine import PREDICTIONS_FILE, Engine
from supcam.serving.engine import PROBABILITY_COLUMNS as COLUMNS
from tests.registry.crops import crop_rows, project_crops


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


def test_only_crops_that_both_models_were_run_on_count(package: Path, tmp_path: Path) -> None:
    """Stored answers may be of a decoder or a runtime of long ago, or of another model; they count only when asked."""
    stored = pd.read_csv(package / PREDICTIONS_FILE, dtype={"sha256": str})
    other = edited(package, tmp_path / "other", PREDICTIONS_FILE, stored.assign(**dict.fromkeys(COLUMNS, 0.25)))
    whole, rows = project_crops(), shared_rows(package, other)
    crops = ProjectCrops(whole.manifest[whole.manifest["sha256"].isin(stored["sha256"][:30])], whole.root)
    answers = computed_answers(package, rows["sha256"], crops)
    assert len(answers) == 30
    found = compare_packages(rows, answers, answers)
    assert found is not None and (len(found.types), found.stored) == (30, 0)
    assert np.allclose(found.production, Engine(package).predict([crops.paths[one] for one in answers])[0], atol=1e-6)
    asked = compare_packages(rows, answers, answers, (package, other))
    assert asked is not None and (len(asked.types), asked.stored) == (40, 20)
    assert (asked.production == 0.25).all(axis=1).sum() == 10
    assert compare_packages(rows, {}, answers) is None


def test_a_file_with_other_bytes_is_not_the_crop(package: Path, tmp_path: Path) -> None:
    """An easier picture under the name of a test crop would be answered right by a worse model."""
    whole = project_crops()
    root = Path(shutil.copytree(whole.root, tmp_path / "data"))
    crops = ProjectCrops(whole.manifest, root)
    digests = crop_rows(40, 0)["sha256"].tolist()
    crops.paths[digests[0]].write_bytes(crops.paths[digests[4]].read_bytes())
    crops.paths[digests[1]].unlink()
    assert set(computed_answers(package, digests, crops)) == set(digests[2:])


def test_the_label_of_the_project_counts(package: Path, tmp_path: Path) -> None:
    digest = crop_rows(40, 0)["sha256"][0]
    rows = shared_rows(package, package, {digest: "touching-overlapping"}).set_index("sha256")
    assert rows["type"][digest] == "touching-overlapping"
    assert (rows["type"].drop(digest) == shared_rows(package, package).set_index("sha256")["type"].drop(digest)).all()
