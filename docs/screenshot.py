"""The picture of a run's page: ``python docs/screenshot.py runs/quickstart/… docs/figures/page.png``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright


def main(run: str, target: str) -> None:
    """The rollouts of the page, with few colours, so that the file is small."""
    chrome = os.environ.get("CHROME") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chrome, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.goto((Path(run) / "report.html").absolute().as_uri())
        page.locator("#rollouts").scroll_into_view_if_needed()
        page.locator("#rollouts").screenshot(path=target)
        browser.close()
    Image.open(target).convert("RGB").quantize(64).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
