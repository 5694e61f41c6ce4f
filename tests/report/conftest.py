"""A browser for the pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def chromium() -> str | None:
    """The browser to test in: the environment variable CHROME, or one on the PATH."""
    names = (os.environ.get("CHROME"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if name and (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium: install chromium or google-chrome, or name one in the environment variable CHROME")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a file; at the end no error may have reached the console and nothing was fetched."""
    complaints: list[str] = []
    pages: list[Any] = []

    def open(file: Path, width: int = 1200, scheme: str = "light") -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        allowed = ("file:", "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(allowed) else complaints.append(f"fetched {r.url}"))
        page.goto(file.as_uri())
        return page

    yield open
    for page in pages:
        page.close()
    assert complaints == []
