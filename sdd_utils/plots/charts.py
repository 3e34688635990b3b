"""Curves as a chart to explore: what a notebook shows of a figure where it can, in place of its picture.

A chart is a dictionary of Vega-Lite 5, which JupyterLab draws without an extension and without a kernel.
"""

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sdd_utils.analysis.dip import Estimate, curves_of, measure_dip

PHASE_COLOURS = {"light": "#e8f1e8", "critical": "#f8dcd6", "sweet": "#dbe8f7", "collapsed": "#e6e6e6"}
VEGA_LITE = "application/vnd.vegalite.v5+json"
HOVER = {"line": "curve", "level": "level", "sparsity": "sparsity (%)", "left": "weights left (%)",
         "weights": "prunable weights left", "shown": "mean (%), 95 % interval", "known": "wrong labels memorised (%)",
         "seeds": "seeds"}  # fmt: skip

Lines = list[tuple[str, pd.DataFrame, object]]  # what a panel shows: label, rows of one setting, colour


class Curves(Figure):
    """A figure that notebooks show as its ``chart``, with its picture for those who read them elsewhere."""

    chart: dict | None = None

    def _repr_mimebundle_(self, **_: object) -> dict:
        return {VEGA_LITE: self.chart} if self.chart else {}


def phase_spans(rows: pd.DataFrame) -> list[tuple[str, float, float]]:
    """The phases of one setting's curves: name, and from which share of remaining weights (%) to which."""
    remaining = 100 * (1 - rows.groupby("level")["sparsity"].first().to_numpy())
    borders = np.concatenate([[115], np.sqrt(remaining[:-1] * remaining[1:]), [remaining[-1] * 0.87]])
    phases = measure_dip(curves_of(rows)).phases
    return [(phase, borders[first], borders[last + 1]) for phase, (first, last) in phases.items()]


def chart(views: dict[str, dict[str, Lines]], column: str = "test_acc", phases_of: str | None = None) -> dict:
    """One view below another, by what its ordinate is called, each with its panels, by title, of which one is shown.

    Ordinates are ``column``, a share, in %; behind them are the phases of the first view's line ``phases_of``. Hovering
    shows a level, a click on the legend hides a curve, and below are switches for the mean, its interval and the single
    seeds (of a dozen panels at most), and the choice of the panel.
    """
    first, *_ = views.values()
    few = sum(map(len, views.values())) <= 12  # the single seeds of more panels would make a notebook too large
    titles = list(dict.fromkeys(title for panels in views.values() for title in panels))
    colours = {label: to_hex(c) for panels in views.values() for lines in panels.values() for label, _, c in lines}
    switches = (("mean", "mean ", True), ("interval", "95 % interval ", True), ("seeds", "single seeds ", False))
    params = [{"name": n, "value": on, "bind": {"input": "checkbox", "name": label}} for n, label, on in switches]
    params[-1] = params[-1] if few else {"name": "seeds", "value": False}
    choice = {"bind": {"input": "select", "options": titles, "name": " "}} if len(titles) > 1 else {}
    params.append({"name": "panel", "value": titles[0]} | choice)
    found = [(title, rows) for title, lines in first.items() for label, rows, _ in lines if label == phases_of]
    spans = [(title, *span) for title, rows in found for span in phase_spans(rows)]
    shown = [_view(name, panels, column, spans, colours, few) for name, panels in views.items()]
    picked = {"type": "point", "fields": ["line"], "toggle": "true"}  # any click turns one on or off
    picked = {"name": "picked", "select": picked, "bind": "legend", "value": [{"line": label} for label in colours]}
    shown[0]["layer"][-1]["layer"][-1]["params"] = [picked]
    for below in shown[1:]:
        below["height"] = 130
    schema, config = "https://vega.github.io/schema/vega-lite/v5.json", {"legend": {"labelLimit": 300}}
    title = titles[0] if len(titles) == 1 else ""
    return {"$schema": schema, "title": title, "params": params, "vconcat": shown, "config": config}


def _view(name: str, panels: dict[str, Lines], column: str, spans: list[tuple], colours: dict, seeds: bool) -> dict:
    tables = [_table(title, label, rows, column) for title, lines in panels.items() for label, rows, _ in lines]
    columns = dict.fromkeys(["panel", "line", "seed", "y", "low", "high", *HOVER])
    table = pd.concat(tables)[[*columns]].loc[lambda rows: seeds | (rows["seed"] == "mean")]
    data = {"values": table.to_csv(index=False, float_format="%.4g"), "format": {"type": "csv"}}
    legend = {"orient": "bottom", "columns": 3, "symbolOpacity": 1}
    colour = {"field": "line", "type": "nominal", "title": None, "legend": legend}
    colour["scale"] = {"domain": list(colours), "range": list(colours.values())}
    x = {"field": "left", "type": "quantitative", "title": "remaining weights (%)"}
    x["scale"], x["axis"] = {"type": "log", "reverse": True, "nice": False}, {"values": [100, 30, 10, 3, 1, 0.3, 0.1]}
    y = {"field": "y", "type": "quantitative", "title": name, "scale": {"zero": False}}
    ends = {"y": y | {"field": "low"}, "y2": {"field": "high"}}
    tooltip = [{"field": field, "title": title} for field, title in HOVER.items()]
    tooltip[list(HOVER).index("left")] |= {"type": "quantitative", "format": ".3~g"}
    hidden = {"filter": {"param": "picked", "empty": False}}

    def layer(which: str, mark: dict, encoding: dict) -> dict:
        return {"transform": [{"filter": which}, hidden], "mark": mark, "encoding": encoding}

    each = {"y": y, "detail": {"field": "seed"}}
    layers = [
        layer("interval && datum.seed === 'mean'", {"type": "area", "opacity": 0.15}, ends),
        layer("seeds && datum.seed !== 'mean'", {"type": "line", "strokeWidth": 0.6}, each),
        layer("mean && datum.seed === 'mean'", {"type": "line", "point": {"size": 45}}, {"y": y, "tooltip": tooltip}),
    ]
    of_panel = {"transform": [{"filter": "datum.panel === panel"}]}
    layers = [of_panel | {"data": data, "encoding": {"x": x, "color": colour}, "layer": layers}]
    if spans:
        values = pd.DataFrame(spans, columns=["panel", "phase", "left", "right"]).round(4).to_dict("records")
        fill = {"field": "phase", "type": "nominal", "title": None, "legend": {"orient": "top"}}
        fill["scale"] = {"domain": list(PHASE_COLOURS), "range": list(PHASE_COLOURS.values())}
        behind = of_panel | {"data": {"values": values}, "mark": {"type": "rect", "opacity": 1}}
        layers.insert(0, behind | {"encoding": {"x": x, "x2": {"field": "right"}, "fill": fill}})
    return {"width": 460, "height": 260, "layer": layers}


def _table(panel: str, label: str, rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row a level for the mean over seeds, with what hovering shows, and one a (level, seed)."""
    rows = rows.assign(y=100 * rows[column], left=100 * (1 - rows["sparsity"]), known=100 * rows["memorised"])
    by = rows.groupby("level")
    table = by[["left", "y", "known", "sparsity"]].mean().assign(weights=by["remaining_params"].mean().round())
    estimates = [Estimate.of(part) for _, part in by["y"]]
    table["low"], table["high"] = np.clip([(e.low, e.high) if e.n > 1 else (e.value,) * 2 for e in estimates], 0, 100).T
    table["shown"], table["seeds"] = [str(e) for e in estimates], [e.n for e in estimates]
    table = table.assign(seed="mean", sparsity=100 * table["sparsity"]).reset_index()
    table = pd.concat([table, rows[["level", "seed", "left", "y"]]])
    return table.assign(panel=panel, line=label).astype({"weights": "Int64", "seeds": "Int64"})
