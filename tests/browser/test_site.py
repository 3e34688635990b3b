"""The pages of make site, from files, with the network off, as Chromium shows them."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from looking import chromium, hovered

from scripts.notebooks import NOTEBOOKS
from scripts.site import build, stage
from sdd_utils.errors import SddError
from sdd_utils.files import ROOT

pytestmark = pytest.mark.browser
SIZES = {"a laptop": {"width": 1280, "height": 800}, "a phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    build(folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def pages(browser, site):
    """Open a page, on a laptop or a phone without a network. What it asks others for, or says of errors, is failure."""
    wrong = []

    def open_it(name, size="a laptop"):
        context = browser.new_context(offline=True, viewport=SIZES[size])
        page = context.new_page()
        page.on("request", lambda asked: asked.url.startswith(("file:", "data:", "blob:")) or wrong.append(asked.url))
        page.on("requestfailed", lambda asked: wrong.append(asked.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((site / name).as_uri(), wait_until="load")
        return page

    yield open_it
    assert not wrong


def html(site):
    return [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]


def test_every_page_is_there_asks_no_other_host_for_anything_and_has_its_charts(site, pages):
    assert {f"notebooks/{name}.html" for name in NOTEBOOKS} | {"index.html"} <= {*html(site)}
    for name in html(site):
        page = pages(name)
        charts = page.locator(".chart")
        for number in range(charts.count()):
            charts.nth(number).locator("svg").wait_for(timeout=60_000)
        page.context.close()


def test_every_link_leads_somewhere_and_no_page_is_wider_than_a_phone(site, pages):
    anchors, links = {}, set()
    for name in html(site):
        page = pages(name, "a phone")
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["a phone"]["width"], name
        anchors[(site / name).as_uri()] = set(page.eval_on_selector_all("[id]", "found => found.map(one => one.id)"))
        links |= {(name, link) for link in page.eval_on_selector_all("a[href]", "found => found.map(one => one.href)")}
        page.context.close()
    ours = [(name, urlsplit(link)) for name, link in links if link.startswith("file:")]
    assert len(ours) > 100
    for name, link in ours:
        assert Path(unquote(link.path)).is_file(), f"{name}: {link.path}"
        known = anchors.get(link._replace(fragment="").geturl(), {link.fragment})
        assert not link.fragment or unquote(link.fragment) in known, f"{name}: {link.path}#{link.fragment}"


@pytest.mark.parametrize("size", SIZES)
def test_hovering_says_what_a_point_is(pages, size):
    page = pages("notebooks/03_distillation.html", size)
    said = hovered(page, page.locator(".chart svg").first)
    assert re.search(r"mean \(%\), 95 % interval\s*\d+\.\d \[", said)


def test_formulas_are_drawn(pages):
    assert "softmax" in pages("notebooks/03_distillation.html").locator("math").nth(2).text_content()


def test_it_does_not_take_the_place_of_anything_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for target in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(SddError, match=f"--to: {target} holds something else than a site; name a new folder"):
            build(target)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_link_that_leads_nowhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.site.ROOT", tmp_path)
    (tmp_path / "README.md").write_text("[gone](gone.md)")
    with pytest.raises(SddError, match=r"README\.md: links to gone\.md, which is not there"):
        stage(tmp_path / "site", tmp_path / "README.md")
    assert (ROOT / "README.md").exists()
