"""The page of the gate in headless Chromium, with the network cut off: it reads well and every picture is drawn."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supcam.data.expectations import validate_crops
from supcam.data.importers import import_sources
from supcam.data.manifest import read_manifest
from supcam.data.reports import require_passed
from supcam.errors import GateRefused
from supcam.settings import ValidateSettings
from tests.support.drawing import write_source

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed")
def test_failing_crops_are_shown_without_network(tmp_path: Path) -> None:
    data, docs = tmp_path / "data", tmp_path / "docs"
    import_sources([write_source(tmp_path / "lab", per_type=2)], data)
    frame = read_manifest(data / "manifest.csv").assign(sha256="0")
    with pytest.raises(GateRefused):
        require_passed(validate_crops(frame, data, ValidateSettings()), tmp_path / "validation.json", data, docs)
    page = (docs / "index.html").as_uri()
    offline = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [str(BROWSER), *offline, f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, check=True, timeout=120)
    assert "Imported crops" in done.stdout
    assert done.stdout.count("<figure>") == len(frame)
    picture = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={picture}", "--window-size=1200,1600", page], check=True, timeout=120)
    shown = np.asarray(Image.open(picture).convert("L"))
    assert (shown < 128).mean() > 0.005
