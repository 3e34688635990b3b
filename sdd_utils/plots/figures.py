"""The figures, as the notebooks show them and as ``figures/`` holds them: what each shows; panels.py has how."""

from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from sdd_utils.analysis import curves
from sdd_utils.analysis.cost import COSTS, MEASURED, front, spent
from sdd_utils.analysis.curves import setting_name
from sdd_utils.analysis.dip import curves_of, measure_dip
from sdd_utils.analysis.methods import BLUE, GREEN, METHODS, ORANGE, RED, REMEDIES, pipelines
from sdd_utils.analysis.words import share
from sdd_utils.models import label_of
from sdd_utils.plots import panels
from sdd_utils.plots.charts import Curves, Lines, chart
from sdd_utils.plots.panels import COLUMN, draw_curves, draw_panels
from sdd_utils.tables import WEIGHT_BIN, WEIGHT_BINS

APART = {*REMEDIES, *(f"kd-{name}" for name in REMEDIES), "sparse-early"}  # methods with a figure of their own
RINGED = "about 1 % of the weights left"


def tour(levels: pd.DataFrame, arch: str, noise_rate: float) -> Figure:
    """The phenomenon on one curve: test accuracy above, and below it how training examples are fitted."""
    rows = curves.vanilla(levels, arch, noise_rate)
    fig, top, below = _over_the_training_set(rows)
    draw_curves(top, rows, color="0.15", marker="o", markersize=3)
    fits = [("right labels fitted", rows.assign(percent=rows["clean_fit"]), GREEN)]
    if rows["memorised"].notna().all():  # without noise there is nothing to memorise
        fits.append(("wrong labels memorised", rows.assign(percent=rows["memorised"]), RED))
    for label, part, colour in fits:
        draw_curves(below, part, "percent", color=colour, label=label)
    below.set_ylabel("training examples (%)")
    below.legend(loc="lower left", fontsize=7)
    name, tested = setting_name(arch, noise_rate), [("test accuracy", rows.assign(percent=rows["test_acc"]), "0.15")]
    views = {"test accuracy (%)": {name: tested}, "training examples (%)": {name: fits}}
    fig.chart = chart(views, "percent", "test accuracy")
    return _finished(fig, top, below)


def cure(levels: pd.DataFrame, arch: str, noise_rate: float) -> Figure:
    """The dip and what removes it: vanilla pruning, its phases behind it, beside its students and early stopping; below
    it the share of the wrong labels that each network has memorised."""
    fig, top, below = _over_the_training_set(curves.vanilla(levels, arch, noise_rate))
    lines = _methods(levels, arch, noise_rate)
    for label, rows, colour in lines:
        draw_curves(top, rows, color=colour, label=label)
        if rows["memorised"].notna().all():
            draw_curves(below, rows, "memorised", color=colour)
    known = [(label, rows.assign(test_acc=rows["memorised"]), colour) for label, rows, colour in lines]
    name = setting_name(arch, noise_rate)
    fig.chart = chart({"test accuracy (%)": {name: lines}, "memorised (%)": {name: known}}, phases_of="vanilla")
    below.set_ylabel("wrong labels memorised (%)", fontsize=8)
    top.legend(loc="lower left", fontsize=7)
    panels.make_room([top])
    return _finished(fig, top, below)


def _over_the_training_set(plain: pd.DataFrame) -> tuple[Figure, Axes, Axes]:
    """An upper and a lower panel with the phases of one setting's vanilla curves behind both."""
    size = {"figsize": (COLUMN * 1.25, 4.2), "height_ratios": [3, 2]}
    fig, (top, below) = plt.subplots(2, 1, sharex=True, FigureClass=Curves, **size)
    panels.shade_phases(top, plain)
    panels.shade_phases(below, plain, names=False)
    return fig, top, below


def _finished(fig: Figure, top: Axes, below: Axes) -> Figure:
    panels.sparsity_axis(top)
    top.set(xlabel="", ylabel="test accuracy (%)", ylim=(None, min(top.get_ylim()[1], 102)))
    below.set(xlabel="remaining weights (%)", ylim=(-3, 103))
    return fig


def baseline(levels: pd.DataFrame) -> Figure:
    """Vanilla curves: one panel an architecture, one line a noise rate; triangles where a rise and a fall are sure."""
    plain = levels[levels["method"] == "vanilla"]

    def lines(arch: str) -> Lines:
        rows = plain[plain["arch"] == arch]
        rates = sorted(rows["noise_rate"].unique())
        shades = zip(rates, sns.color_palette("viridis", len(rates)), strict=True)
        return [(f"ε = {rate:g}", rows[rows["noise_rate"] == rate], colour) for rate, colour in shades]

    return draw_panels({label_of(arch): lines(arch) for arch in curves.architectures(plain)}, marked=True)


def l2_sweep(levels: pd.DataFrame) -> Figure:
    """Curves without a teacher: one panel for each (architecture, ε) that has several λ, one line a λ."""
    decays = sorted(curves.undistilled(levels)["weight_decay"].unique())
    shades = dict(zip(decays, sns.color_palette("viridis", len(decays)), strict=True))

    def lines(arch: str, rate: float) -> Lines:
        at, grid = partial(curves.at_weight_decay, levels, arch, rate), curves.weight_decays(levels, arch, rate)
        roles = (" (regular)", " (optimal)")[: len(grid) - 1]  # of a single other λ, nothing was chosen
        names = dict(zip(_two_decays(levels, arch, rate), roles, strict=False))
        return [(f"λ = {decay:g}{names.get(decay, '')}", at(decay), shades[decay]) for decay in grid]

    settings = [s for s in curves.vanilla_settings(levels) if len(curves.weight_decays(levels, *s)) > 1]
    return draw_panels({setting_name(*s): lines(*s) for s in settings})


def distillation(levels: pd.DataFrame | dict[str, pd.DataFrame]) -> Figure:
    """Vanilla beside its students: one panel for each (architecture, ε) that has students; vanilla's phases behind.
    Of several profiles, by a title, all in one figure."""
    several = {f"{title}: ": rows for title, rows in levels.items()} if isinstance(levels, dict) else {"": levels}
    panels = {}
    for title, rows in several.items():
        for setting in curves.distilled_settings(rows):
            panels[title + setting_name(*setting)] = _methods(rows, *setting)
    return draw_panels(panels, phases_of=METHODS["vanilla"].label)


def remedies(levels: pd.DataFrame) -> Figure:
    """What else is done against the dip, alone (first) and for students of the sparse teacher: one panel for each of
    both and each (architecture, ε) that has such curves."""
    panels, nothing = {}, replace(METHODS["vanilla"], label="no other remedy")
    found = {setting: pipelines(levels, *setting) for setting in curves.vanilla_settings(levels)}
    for prefix, plain, whose in (("", "vanilla", "no teacher"), ("kd-", "sparse", "sparse teacher")):
        looks = {plain: nothing} | {prefix + name: METHODS[name] for name in REMEDIES}
        looks |= {"sparse-early" if prefix else "early": METHODS["early"]}
        for setting, rows in found.items():
            if APART & looks.keys() & rows.keys():
                lines = [(look.label, rows[name], look.colour) for name, look in looks.items() if name in rows]
                panels[f"{setting_name(*setting)}, {whose}"] = lines
    return draw_panels(panels)


def frontier(levels: pd.DataFrame) -> Figure:
    """Test accuracy against all energy spent (FLOPs where it was not measured).

    One panel for each (architecture, ε) with students (each, if none has), one point a (way to prune, level), means
    over seeds, smaller the fewer weights are left, that nearest to 1 % ringed. The line joins the points that none
    beats; along it is the share of the weights left.
    """
    settings = curves.distilled_settings(levels) or curves.vanilla_settings(levels)
    if not settings:
        return panels.nothing()
    table = spent(levels)
    cost = "train_flops" if table["energy_kwh"].isna().any() else "energy_kwh"
    points = table.groupby(["arch", "noise_rate", "pipeline", "level"], as_index=False)[MEASURED + COSTS].mean()
    factor, unit = (1, "FLOPs") if cost == "train_flops" else (1, "kWh") if points[cost].max() > 0.1 else (1000, "Wh")
    points = points.assign(spent=factor * points[cost], percent=100 * points["test_acc"])
    fig, axes = panels.panel_grid(len(settings))
    for ax, setting in zip(axes.flat, settings, strict=False):
        mine = curves.of_settings(points[~points["pipeline"].isin(APART)], [setting])
        best = front(mine, "spent", "percent")
        ax.plot(best["spent"], best["percent"], color="0.6", lw=1, zorder=1)
        _shares_left(ax, best, room=0.17 * np.log(mine["spent"].max() / mine["spent"].min()))
        for name, method in METHODS.items():
            if len(rows := mine[mine["pipeline"] == name]):
                size = 4 + 16 * (1 - rows["sparsity"])
                ax.scatter(rows["spent"], rows["percent"], s=size, color=method.colour, label=method.label, lw=0)
                one = rows.loc[np.log(1 - rows["sparsity"]).sub(np.log(0.01)).abs().idxmin()]
                ax.scatter(one["spent"], one["percent"], 22, "none", edgecolors="k", lw=0.6, label=RINGED, zorder=3)
        ax.set_title(setting_name(*setting), fontsize=9)
        ax.margins(y=0.12)
        ax.set(xscale="log", xlabel=f"spent on training ({unit})")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.tick_params(axis="x", labelsize=7)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
    panels.shared_legend(fig, [*(method.label for method in METHODS.values()), RINGED], handletextpad=0)
    return fig


def _shares_left(ax: Axes, best: pd.DataFrame, room: float) -> None:
    """Write the share of the weights left over points of a front, with ``room`` (in log cost) between them."""
    last = -np.inf
    for one in best.itertuples():
        if np.log(one.spent) - last > room:
            where = "left" if last == -np.inf else "center"  # the first is at the axis, and reaches farther
            last = np.log(one.spent) + (room / 2 if where == "left" else 0)
            style = {"textcoords": "offset points", "fontsize": 6, "ha": where}
            ax.annotate(f"{share(100 - 100 * one.sparsity)} %", (one.spent, one.percent), (0, 5), **style)


def weights(levels: pd.DataFrame, histograms: pd.DataFrame, remaining: tuple[float, ...] = (50, 10, 3)) -> Figure:
    """Density of the surviving weights at the regular and the optimal λ, one row an architecture.

    Columns are the levels whose share of remaining weights is closest to each of ``remaining`` (%). Of several noise
    rates the first is shown, and of a collapsed network nothing. The outermost bins, which hold all that lies beyond,
    count and are not drawn.
    """
    limit = WEIGHT_BIN * WEIGHT_BINS / 2
    several = histograms.groupby("arch")["weight_decay"].nunique() > 1
    archs = [arch for arch in curves.architectures(histograms) if several[arch]]
    if not archs:
        return panels.nothing()
    fig, axes = plt.subplots(len(archs), len(remaining), figsize=(COLUMN * 2, 1.6 * len(archs) + 0.3), squeeze=False)
    for arch, row in zip(archs, axes, strict=True):
        by_rate = histograms[histograms["arch"] == arch].groupby("noise_rate")
        rate, rows = next((rate, group) for rate, group in by_rate if group["weight_decay"].nunique() > 1)
        decays = _two_decays(levels, arch, rate)
        found = {one: measure_dip(curves_of(curves.at_weight_decay(levels, arch, rate, one))).phases for one in decays}
        collapses = {one: phases.get("collapsed", (np.inf,))[0] for one, phases in found.items()}
        for percent, ax in zip(remaining, row, strict=True):
            level = rows.loc[(np.log(100 * (1 - rows["sparsity"])) - np.log(percent)).abs().idxmin(), "level"]
            at = rows[rows["level"] == level]
            both = zip(decays, (BLUE, ORANGE), strict=True)
            for decay, colour in ((decay, colour) for decay, colour in both if level < collapses[decay]):
                histogram = at[at["weight_decay"] == decay].sort_values("bin")
                density = histogram["count"] / histogram["count"].sum() / WEIGHT_BIN
                centre = histogram["bin"] + WEIGHT_BIN / 2
                inner = centre.abs() < limit - WEIGHT_BIN
                style = {"color": colour, "alpha": 0.6, "lw": 0, "label": f"λ = {decay:g}"}
                ax.bar(centre[inner], density[inner], WEIGHT_BIN, **style)
            left = 100 * (1 - at["sparsity"].iat[0])
            ax.set_title(f"{setting_name(arch, rate)}, {left:.2g} % left", fontsize=8)
            ax.set_xlim(-limit, limit)
        row[0].legend(fontsize=6)
        row[0].set_ylabel("density")
    for ax in axes[-1]:
        ax.set_xlabel("weight")
    return fig


def all_figures(levels: pd.DataFrame, histograms: pd.DataFrame, shown: dict) -> dict[str, Figure]:
    """Every figure of one dataset's curves, by name; ``shown`` is the setting of the first two.

    No ``distillation`` where ``cure`` shows the one setting that it would.
    """
    drawn = {
        "tour": tour(levels, **shown),
        "cure": cure(levels, **shown),
        "baseline": baseline(levels),
        "l2_sweep": l2_sweep(levels),
        "weights": weights(levels, histograms),
        "frontier": frontier(levels),
        "remedies": remedies(levels),
    }
    one = [(shown["arch"], shown["noise_rate"])] == curves.distilled_settings(levels)
    return drawn if one else drawn | {"distillation": distillation(levels)}


def _two_decays(levels: pd.DataFrame, arch: str, rate: float) -> tuple[float, float]:
    """The regular and the optimal λ of a setting that has several."""
    return curves.regular_weight_decay(levels, arch), curves.optimal_weight_decay(levels, arch, rate)


def _methods(levels: pd.DataFrame, arch: str, rate: float) -> Lines:
    found = pipelines(levels, arch, rate).items()
    return [(METHODS[name].label, rows, METHODS[name].colour) for name, rows in found if name not in APART | {"l2"}]
