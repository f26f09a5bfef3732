"""Debian's Chromium, driven by playwright, for tests of pages; without either, those tests skip."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PROGRAM = shutil.which("chromium")

# The least contrast between a text and its ground, over all texts that can be seen, and the text.
LEAST_CONTRAST = """() => {
  const brightness = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((x) => {
      const share = Number(x) / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const groundOf = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  let least = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((x) => x.nodeType === 3 && x.textContent.trim());
    if (!own || !element.checkVisibility() || element.disabled || element.closest("svg")) continue;
    const [a, b] = [getComputedStyle(element).color, groundOf(element)].map(brightness);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < least[0]) least = [contrast, element.textContent.slice(0, 60)];
  }
  return least;
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser, headless; skip the test, in one line, where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: no pages tried")
    if PROGRAM is None:
        pytest.skip("no chromium: no pages tried")
    with sync_api.sync_playwright() as play:
        # For root, Chromium has no sandbox.
        browser = play.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page, with what it complained of and asked for.

    Attributes:
        page: playwright's.
        complaints: errors on its console and of its scripts.
        requests: addresses that are not files of this disk or part of the page.
    """

    def __init__(self, browser: Any, width: int = 1280, height: int = 900, **options: Any) -> None:
        viewport = {"width": width, "height": height}
        self.page = browser.new_context(viewport=viewport, **options).new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._note)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _note(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.requests.append(request.url)

    def check(self) -> None:
        """Assert that it complained of nothing and asked for nothing."""
        assert self.complaints == []
        assert self.requests == []
