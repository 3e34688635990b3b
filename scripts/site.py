"""README, notebooks, the rooms' READMEs and what they link to as static pages, with the charts to explore.

python -m scripts.site [--to build/site]
"""

import html
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote, unquote

import click
import nbformat
import vl_convert
from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx

from sdd_utils.cli.commands import FOLDER, main
from sdd_utils.errors import SddError
from sdd_utils.files import ROOT
from sdd_utils.plots.charts import VEGA_LITE

LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?\)")
NO_LINK = re.compile(r"(```.*?```|`[^`\n]+`|<!--.*?-->)", re.DOTALL)  # code and comments
CHART = '<div class="chart"><script type="application/json">{}</script></div>'
DRAW = """
document.querySelectorAll(".chart").forEach(chart => {
  const spec = JSON.parse(chart.querySelector("script").textContent);
  vegaEmbed(chart.appendChild(document.createElement("div")), spec, {actions: false, renderer: "svg"});
});
"""
STYLE = """
.chart { background: white; color: black; overflow-x: auto }
.chart svg { max-width: 100%; height: auto }
.cell_output, .formula { overflow-x: auto; margin-bottom: 1rem }
.cell_output :is(td, th) { padding: 0.1rem 0.6rem }
"""
SETTINGS = {
    "project": "Sparse double descent",
    "extensions": ["myst_nb", "scripts.site"],
    "html_theme": "sphinx_book_theme",
    "html_theme_options": {
        "navbar_persistent": [],
        "use_download_button": False,
        "use_fullscreen_button": False,
        "footer_content_items": [],
    },
    "html_title": "Sparse double descent",
    "html_static_path": ["_static"],
    "html_context": {"default_mode": "auto"},
    "html_css_files": ["charts.css"],
    "html_js_files": [(name, {"defer": "defer"}) for name in ("vega.js", "charts.js")],
    "html_math_renderer": "mathml",  # browsers draw it without a script from elsewhere
    "html_copy_source": False,
    "myst_enable_extensions": ["dollarmath"],
    "myst_heading_anchors": 3,
    "nb_execution_mode": "off",
}


def setup(app: Sphinx) -> None:
    """What Sphinx calls of an extension: formulas become MathML."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))


def _formula(translator: object, node: nodes.Element) -> None:
    block = isinstance(node, nodes.math_block)
    try:
        formula = latex2mathml.tex2mathml(node.astext(), as_block=block)
    except (MathError, AttributeError):  # what it does not know is shown as it was written
        formula = f"<code>{html.escape(node.astext())}</code>"
    translator.body.append(f'<div class="formula">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def stage(folder: Path, start: Path = ROOT / "README.md") -> list[str]:
    """Copy into ``folder`` whatever can be reached by links from ``start``, as Sphinx reads it; the list of its pages.

    They come in the order in which the links do, notebooks with their numbers. Raises SddError where a link leads
    nowhere.
    """
    found, pages = [start], []
    for path in found:
        target = folder / _page(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = _linked(path.read_text(encoding="utf-8"), path, found)
            target.write_text(text, encoding="utf-8")
            pages.append(_page(path))
        elif path.suffix == ".ipynb":
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                _show(cell, path, found)
            nbformat.write(notebook, target)
            title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
            pages.append(f"{path.stem.split('_')[0]} {title} </{_page(path)}>")
        else:
            shutil.copy(path, target)
    return pages


def _page(path: Path) -> str:
    """Where a file of ours is in the site's sources: at the same place, but for README.md, which is its front page."""
    name = path.relative_to(ROOT).as_posix()
    return "index.md" if name == "README.md" else name


def _linked(text: str, path: Path, found: list[Path]) -> str:
    """The text with links to pages of the site. What they lead to is added to ``found``, if it is not there."""

    def link(match: re.Match) -> str:
        before, address, anchor = match.groups(default="")
        if re.match(r"[a-z]+:", address):
            return match[0]
        target = (path.parent / unquote(address)).resolve()
        target = target / "README.md" if target.is_dir() else target
        if not target.is_file() or not target.is_relative_to(ROOT):
            raise SddError(f"{path}: links to {address}, which is not there")
        if target not in found:
            found.append(target)
        return f"{before}{quote(os.path.relpath(_page(target), Path(_page(path)).parent))}{anchor})"

    parts = NO_LINK.split(text)
    return "".join(part if number % 2 else LINK.sub(link, part) for number, part in enumerate(parts))


def _show(cell: nbformat.NotebookNode, path: Path, found: list[Path]) -> None:
    """A cell as it is on a page: its links lead to pages, its source may be folded, and its chart can be explored."""
    if cell.cell_type == "markdown":
        cell.source = _linked(cell.source, path, found)
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if VEGA_LITE in data:
            chart = json.dumps(data.pop(VEGA_LITE)).replace("<", "\\u003c")
            output["data"] = {"text/html": CHART.format(chart)}
        elif "text/markdown" in data:
            data["text/markdown"] = _linked(data["text/markdown"], path, found)


def build(target: Path) -> None:
    """Make the site in ``target``, in place of one that is there. Raises SddError, also where something else is."""
    if target.exists() and not (target / ".buildinfo").exists() and (not target.is_dir() or any(target.iterdir())):
        raise SddError(f"--to: {target} holds something else than a site; name a new folder")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        _, *pages = stage(source)  # but for the front page itself
        contents = "\n".join(pages)
        with open(source / "index.md", "a", encoding="utf-8") as front:
            front.write(f"\n```{{toctree}}\n:hidden:\n:maxdepth: 1\n\n{contents}\n```\n")
        static = source / "_static"
        static.mkdir()
        vega = vl_convert.javascript_bundle(vl_version="5.20")  # its names are not to meet those of other scripts
        (static / "vega.js").write_text(f"(() => {{{vega}}})();", encoding="utf-8")
        (static / "charts.js").write_text(DRAW, encoding="utf-8")
        (static / "charts.css").write_text(STYLE, encoding="utf-8")
        made = Path(temporary) / "made"
        app = Sphinx(source, None, made, Path(temporary) / "trees", "html", SETTINGS, status=None, warningiserror=True)
        app.build(force_all=True)
        if app.statuscode:
            raise SddError("the pages could not be made, see above")
        new = target.with_name(f".{target.name}.new")  # the site that is there stays until the new one is beside it
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(made, new)
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)


@click.command()
@click.option("--to", "target", type=FOLDER, default=ROOT / "build" / "site", show_default=True)
def site_command(target: Path) -> None:
    """Make README, notebooks and the rooms' READMEs into static pages."""
    build(target)
    click.echo(f"{target / 'index.html'}")


if __name__ == "__main__":
    main(site_command)
