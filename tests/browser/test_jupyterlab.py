"""The charts in JupyterLab, as Chromium shows them; make test-browser."""

import base64
import io
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing

import nbformat
import numpy as np
import pytest
from looking import chromium, hovered
from PIL import Image

from sdd_utils.files import ROOT

pytestmark = pytest.mark.browser
CHANGED = "([chart, before]) => chart.toDataURL() !== before"
PATIENCE = 600_000  # ms that only what hangs can take


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab of our notebooks, without the user's settings, its token, and its folder."""
    folder, token = tmp_path_factory.mktemp("lab"), secrets.token_hex()
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--port-retries=0",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment(folder))
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", token, folder
    finally:
        server.kill()
        server.wait()


def environment(folder):
    mine = {
        name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    return {**os.environ, **mine, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def opened(browser, lab):
    """Open a notebook in a window of a size: the page."""
    pages = []

    def open_it(notebook, shown=".vega-embed canvas"):
        address, token, _ = lab
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/doc/tree/notebooks/{notebook}.ipynb?token={token}")
        page.wait_for_selector(shown)
        return page

    yield open_it
    for page in pages:
        page.close()


def test_a_notebook_that_was_just_opened_draws_its_chart_and_hovering_says_what_a_point_is(opened):
    page = opened("00_tour")
    said = hovered(page, page.locator(".vega-embed canvas").first)
    assert re.search(r"curve:\s*\w", said)
    assert re.search(r"mean \(%\), 95 % interval:\s*\d+\.\d \[", said)
    assert re.search(r"seeds:\s*8", said)


def test_the_mean_its_interval_the_seeds_and_a_panel_can_be_chosen(opened):
    page = opened("03_distillation")
    chart, choices = page.locator(".vega-embed canvas").first, page.locator(".vega-bind")
    switches = [choices.locator("input").nth(number).click for number in range(3)]
    for change in (*switches, lambda: choices.locator("select").first.select_option(index=1)):
        before = picture(chart)
        change()
        page.wait_for_function(CHANGED, arg=[chart.element_handle(), before])


def test_a_click_on_the_legend_hides_a_curve_and_another_shows_it_again(opened):
    page = opened("03_distillation")
    chart = page.locator(".vega-embed canvas").first
    chart.scroll_into_view_if_needed()
    before, box = picture(chart), chart.bounding_box()
    for up in range(60, 0, -4):  # the legend is at the lower left
        page.mouse.click(box["x"] + 46, box["y"] + box["height"] - up)
        page.wait_for_timeout(200)
        if (without := picture(chart)) != before:
            break
    else:
        pytest.fail("no click on the legend changes anything")
    page.mouse.click(box["x"] + 46, box["y"] + box["height"] - up)
    page.wait_for_function(CHANGED, arg=[chart.element_handle(), without])


def test_the_explorer_shows_other_curves_on_other_axes_and_looks_into_the_level_of_a_click(opened):
    page = opened("13_explore")
    chart, menus = page.locator(".vega-embed canvas").first, page.locator(".vega-bindings select")
    first, shown = picture(chart), menus.nth(0).input_value()
    choices = ((0, "mnist: LeNet-300-100, ε = 0.2"), (1, "GFLOP"), (2, "memorised (%)"), (0, "digits: ViT, ε = 0.3"))
    for menu, choice in choices:
        before = picture(chart)
        menus.nth(menu).select_option(choice)
        page.wait_for_function(CHANGED, arg=[chart.element_handle(), before])
    for menu, choice in ((1, "remaining weights (%)"), (2, "test accuracy (%)"), (0, shown)):
        menus.nth(menu).select_option(choice)
    page.wait_for_timeout(1000)
    assert differing(picture(chart), first) < 0.01  # points that lie over each other may come in another order
    box = chart.bounding_box()
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 60)  # no point is there
    page.wait_for_timeout(500)
    before = picture(chart)
    assert differing(before, first) < 0.01
    hovered(page, chart)
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(0, 0)
    page.wait_for_function(CHANGED, arg=[chart.element_handle(), before])


def test_a_cell_that_trains_shows_its_bar_and_then_there_is_a_chart(opened, lab, tmp_path):
    folder = lab[-1] / "notebooks"
    notebook = nbformat.read(folder / "03_distillation.ipynb", as_version=4)
    del notebook.cells[7:]  # after the curves
    for cell in [cell for cell in notebook.cells if cell.cell_type == "code"]:
        cell.outputs, cell.execution_count = [], None
    notebook.cells[1].source += f'\nprofile, results = "smoke", "{tmp_path}"'
    nbformat.write(notebook, folder / "trains.ipynb")
    page = opened("trains", shown=".jp-Notebook")
    page.get_by_text(re.compile("Idle$")).wait_for()  # the kernel; without one JupyterLab asks which to use
    page.get_by_text("Run", exact=True).first.click()
    page.get_by_text("Run All Cells", exact=True).click()
    bar = page.locator(".jp-OutputArea-output", has_text=re.compile(r"\d+/\d+\s+runs"))
    bar.first.wait_for()
    page.wait_for_selector(".vega-embed canvas")
    assert re.search(r"100%.*\b(\d+)/\1\s+runs", bar.first.inner_text(), re.DOTALL)
    assert len([*tmp_path.glob("smoke/*/levels.csv")]) > 1


def picture(chart):
    return chart.evaluate("canvas => canvas.toDataURL()")


def differing(one, other):
    """The share of the pixels that differ between two pictures; 1 where they are of another size."""
    found = [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB") for url in (one, other)]
    if found[0].size != found[1].size:
        return 1
    return np.any(np.asarray(found[0]) != np.asarray(found[1]), axis=2).mean()
