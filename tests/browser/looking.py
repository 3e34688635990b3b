"""A Chromium to look with, and what a mouse finds in a chart."""

import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import Error, sync_playwright


@contextmanager
def chromium():
    """A Chromium, this machine's or playwright's; without one the test is skipped."""
    with sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Error as error:
            pytest.skip(
                f"no Chromium: {str(error).splitlines()[0]}; apt install chromium, or playwright install chromium"
            )
        yield found
        found.close()


def hovered(page, drawing):
    """What is said of the first point that the mouse meets on its way over the chart, where it then stays."""
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    for x in range(40, int(box["width"]), 5):
        for y in range(10, int(box["height"]), 5):
            page.mouse.move(box["x"] + x, box["y"] + y)
            tip = page.locator("#vg-tooltip-element.visible")
            if tip.count():
                return tip.inner_text()
    return pytest.fail("no point of the chart says anything")
