"""The page of a review in a real browser, opened from disk without network, with real keys."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from supcam.review.sheet import PAGE, read_sheet, write_sheet
from tests.support.drawing import write_source

Start = Callable[[], webdriver.Chrome]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Six crops, one of them unreadable, of two cases, shown for two reasons."""
    lab = write_source(tmp_path / "lab", per_type=2)
    paths = sorted(path.relative_to(lab) for path in lab.rglob("*.png"))[:5]
    (lab / "broken.png").write_bytes(b"not a picture")
    rows = pd.DataFrame({"path": [*map(str, paths), "broken.png"], "type": ["instance"] * 3 + ["touching"] * 3})
    rows["reason"] = ["low confidence", "low confidence; several bodies"] * 3
    rows["case"], rows["source"] = ["a", "b"] * 3, 'lab, "east"'
    write_sheet(rows, lab, tmp_path / "review", heading="Six <crops>", notes=["classifiers & their quality"])
    return tmp_path / "review" / PAGE


def keys(driver: webdriver.Chrome, *sent: str) -> None:
    for key in sent:
        driver.find_element(By.TAG_NAME, "body").send_keys(key)


def text_of(driver: webdriver.Chrome, name: str) -> str:
    return driver.find_element(By.ID, name).text


def exported(driver: webdriver.Chrome, folder: Path) -> pd.DataFrame:
    target = folder / "review.csv"
    target.unlink(missing_ok=True)
    driver.find_element(By.ID, "export").click()
    WebDriverWait(driver, 30).until(lambda _: target.is_file() and not list(folder.glob("*.crdownload")))
    return read_sheet(target)


@pytest.mark.browser
def test_keys_decide_and_the_export_is_a_sheet(page: Path, browser: Start, tmp_path: Path) -> None:
    driver = browser()
    driver.get(page.as_uri())
    assert driver.find_element(By.TAG_NAME, "h1").text == "Six <crops>"
    driver.find_element(By.ID, "reader").send_keys("n12")  # letters that would decide elsewhere
    assert text_of(driver, "count") == "0 of 6 decided"
    keys(driver, "1", "2", "u", "n", Keys.ARROW_LEFT, "4", "3")
    rows = exported(driver, tmp_path)
    decided = ["instance", "touching", "unsure", "touching-overlapping", "overlapping", ""]
    assert list(rows["corrected"]) == decided
    assert list(rows["reader"]) == ["n12"] * 5 + [""]
    assert set(rows["source"]) == {'lab, "east"'}
    assert rows["date"].iloc[0]
    assert text_of(driver, "count") == "5 of 6 decided"

    keys(driver, "z", "z")  # the last two decisions, one of which had replaced another
    assert list(exported(driver, tmp_path)["corrected"]) == ["instance", "touching", "unsure", "not a cluster", "", ""]

    driver = browser()  # a new session of the browser goes on where the last one ended
    driver.get(page.as_uri())
    assert text_of(driver, "count") == "4 of 6 decided"
    assert driver.find_element(By.ID, "reader").get_attribute("value") == "n12"


@pytest.mark.browser
def test_filters_show_only_their_crops(page: Path, browser: Start) -> None:
    driver = browser()
    driver.get(page.as_uri())
    Select(driver.find_element(By.ID, "reason")).select_by_visible_text("several bodies")
    assert "3 shown" in text_of(driver, "count")
    Select(driver.find_element(By.ID, "type")).select_by_visible_text("touching")
    assert "2 shown" in text_of(driver, "count")
    Select(driver.find_element(By.ID, "case")).select_by_visible_text("a")
    assert text_of(driver, "crop") == "No crop passes the filters."
    keys(driver, "1", "z", Keys.ARROW_RIGHT)
    assert text_of(driver, "count").startswith("0 of 6")
    Select(driver.find_element(By.ID, "case")).select_by_visible_text("all")
    driver.find_element(By.ID, "open").click()
    keys(driver, "1")
    assert "1 shown" in text_of(driver, "count")
    keys(driver, "1")
    assert text_of(driver, "crop") == "No crop passes the filters."


@pytest.mark.browser
def test_every_picture_is_drawn_and_none_needs_a_network(page: Path, browser: Start) -> None:
    driver = browser()
    driver.get(page.as_uri())
    sizes = driver.execute_script(
        "return [...document.querySelectorAll('#list img')].map(image => (image.loading = 'eager', image.naturalWidth))"
    )
    assert len(sizes) == 5
    keys(driver, *[Keys.ARROW_RIGHT] * 5)
    assert text_of(driver, "crop") == "cannot be read"
    assert "http" not in page.read_text()
