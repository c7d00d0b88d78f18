"""Projects and manifests as the tests of the data have them, and a browser."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.data.conftest import dvc_project, empty_dvc_project, manifest

__all__ = ["browser", "dvc_project", "empty_dvc_project", "manifest"]

DRIVER = shutil.which("chromedriver")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next((path for name in BROWSERS if (path := shutil.which(name))), None)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Callable[[], webdriver.Chrome]]:
    """Starts Chromium without network, downloads go into ``tmp_path``; started again, it remembers what it kept."""
    if DRIVER is None or FOUND is None:
        pytest.skip("Chromium and chromedriver are not installed")
    started: list[webdriver.Chrome] = []

    def start() -> webdriver.Chrome:
        for driver in started:
            driver.quit()
        options = webdriver.ChromeOptions()
        options.binary_location = FOUND
        for flag in (
            "--headless=new",
            "--no-sandbox",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--window-size=1400,1000",
        ):
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
        options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
        started.append(webdriver.Chrome(options=options, service=Service(DRIVER)))
        return started[-1]

    yield start
    for driver in started:
        driver.quit()
