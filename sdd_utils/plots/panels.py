"""How curves are drawn: means over seeds with 95 % t intervals, in colours that are safe for colour-blind readers."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdd_utils.analysis.dip import Estimate, curves_of, measure_dip
from sdd_utils.plots.charts import PHASE_COLOURS, Curves, Lines, chart, phase_spans

COLUMN = 3.5  # inches: one column of a two-column paper


def use_style() -> None:
    """Fonts and lines that stay readable when a figure is printed one column wide, whatever a matplotlibrc says and
    whatever fonts there are: matplotlib's own is everywhere."""
    plt.rcdefaults()
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font_scale=0.95)
    plt.rcParams.update({"lines.linewidth": 1.3, "axes.spines.top": False, "axes.spines.right": False,
                         "legend.frameon": False, "figure.dpi": 120, "savefig.dpi": 200,
                         "font.sans-serif": ["DejaVu Sans"], "figure.constrained_layout.use": True})  # fmt: skip


def draw_curves(ax: Axes, rows: pd.DataFrame, column: str = "test_acc", **style) -> None:
    """Mean over seeds of ``column`` (a share, drawn in %) against the share of remaining weights, with its band."""
    curves_of(rows)  # raises where the rows are not one setting's, whose mean would be drawn as if it were
    data = rows.assign(remaining=100 * (1 - rows["sparsity"]), percent=100 * rows[column])
    sns.lineplot(data, x="remaining", y="percent", ax=ax, errorbar=interval, err_kws={"lw": 0, "alpha": 0.15}, **style)


def interval(percents: pd.Series) -> tuple[float, float]:
    """The 95 % interval, as far as it is possible: that of a few seeds can reach beyond."""
    mean = Estimate.of(percents)
    return max(mean.low, 0), min(mean.high, 100)


def mark_dip(ax: Axes, rows: pd.DataFrame, colour: object) -> None:
    """A triangle at the top of a rise that is sure, and one at its foot where a fall before it is sure as well."""
    dip, percent = measure_dip(curves_of(rows)), 100 * rows.groupby("level")[["test_acc", "sparsity"]].mean()
    for phase, marker, end in (("critical", "v", "bottom"), ("sweet", "^", "sweet")):
        if phase in dip.phases:
            point = percent.loc[getattr(dip.valley, end)]
            ax.scatter(100 - point["sparsity"], point["test_acc"], 36, [colour], marker, edgecolors="w", zorder=3)


def sparsity_axis(ax: Axes) -> None:
    """Remaining weights on a logarithmic axis, dense on the left, as in the literature."""
    ax.set_xscale("log")
    ax.set_xlim(115, low := 0.87 * min(line.get_xdata().min() for line in ax.lines))
    ax.set_xticks([x for x in ([100, 30, 10, 3, 1, 0.3] if low > 0.1 else [100, 10, 1, 0.1, 0.01]) if x > low])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    ax.set_xlabel("remaining weights (%)")


def shade_phases(ax: Axes, rows: pd.DataFrame, names: bool = True, labelled: bool = False) -> None:
    """Colour the background by the phases of one setting's curves; name them above it, or label them for a legend."""
    for phase, left, right in phase_spans(rows):
        ax.axvspan(left, right, color=PHASE_COLOURS[phase], lw=0, zorder=0, label=phase if labelled else None)
        if phase == "collapsed":  # where bands are widest and say least: a veil between them and the lines
            ax.axvspan(left, right, color=PHASE_COLOURS[phase], lw=0, zorder=1.5, alpha=0.6)
        if names:
            x = np.sqrt(left * right)
            ax.text(x, 1.01, phase, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=7)


def draw_panels(panels: dict[str, Lines], phases_of: str | None = None, marked: bool = False) -> Figure:
    """A grid of panels with one accuracy axis; the phases of the line ``phases_of`` behind them; dips may be marked.

    Panels share a legend below them where one of them has all lines that the others have.
    """
    if not panels:
        return nothing()
    fig, axes = panel_grid(len(panels))
    fig.chart = chart({"test accuracy (%)": panels}, phases_of=phases_of)
    kinds = [{(label, str(colour)) for label, _, colour in lines} for lines in panels.values()]
    shared = len(panels) > 1 and max(kinds, key=len) == set().union(*kinds)
    for ax, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        for label, rows, colour in curves:
            if label == phases_of:
                shade_phases(ax, rows, names=len(panels) == 1, labelled=len(panels) > 1)
            draw_curves(ax, rows, color=colour, label=label)
            if marked:
                mark_dip(ax, rows, colour)
        ax.set_title(title.replace(": ", ":\n"), fontsize=9, pad=14 if len(panels) == 1 else None)
        ax.legend(handles=ax.lines, loc="lower left", fontsize=7).set_visible(not shared)
        sparsity_axis(ax)
    lines = [label for label, *_ in max(panels.values(), key=len)] if shared else []
    if lines or (phases_of and len(panels) > 1):
        shared_legend(fig, [*lines, *PHASE_COLOURS])
    if not shared:
        make_room(axes.flat[: len(panels)])
    return fig


def shared_legend(fig: Figure, labels: list[str], **style) -> None:
    """One legend below all panels, of those of ``labels`` that they have, in that order."""
    found = {label: line for ax in fig.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    shown = {label: found[label] for label in labels if label in found}
    style |= {"ncols": 2 if sum(ax.get_visible() for ax in fig.axes) == 1 else 4, "fontsize": 7}
    fig.legend(shown.values(), shown.keys(), loc="outside lower center", **style)


def panel_grid(panels: int, columns: int = 3) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, (lines, columns), for so many panels of accuracy; axes beyond them are not shown."""
    columns = min(columns, panels)
    lines = -(-panels // columns)
    width = COLUMN * (2 if columns > 1 else 1.2)
    fig, axes = plt.subplots(
        lines, columns, figsize=(width, 2.3 * lines + 0.2), sharey=True, squeeze=False, FigureClass=Curves
    )
    for ax in axes.flat[panels:]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy (%)")
    return fig, axes


def make_room(axes: np.ndarray | list[Axes]) -> None:
    """Lower the accuracy axis (%), to 0 at most, until the legends at its lower left lie below the curves."""
    low, high = np.clip(axes[0].get_ylim(), 0, 102)
    for ax in axes:
        room = 0.05 + 0.085 * len(ax.lines)  # that a legend with so many lines takes, a share of the axis
        above = min(line.get_ydata()[line.get_xdata() >= 9].min() for line in ax.lines)
        low = min(low, (above - room * high) / (1 - room))
    axes[0].set_ylim(max(low, 0), high)


def nothing() -> Figure:
    """A line that says so, without axes."""
    fig = plt.figure(figsize=(COLUMN, 0.6))
    fig.text(0.5, 0.5, "this profile has no such curves", ha="center", va="center")
    return fig


def as_bytes(figure: Figure) -> dict[str, bytes]:
    """The figure as PNG (for the web) and PDF (for papers), by suffix; the same figure gives the same bytes."""
    files = {}
    for suffix, left_out in ((".png", "Software"), (".pdf", "CreationDate")):
        file = io.BytesIO()
        figure.savefig(file, format=suffix[1:], metadata={left_out: None})
        files[suffix] = file.getvalue()
    return files
