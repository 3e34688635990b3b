"""The figures, as the notebooks show them and as ``figures/`` holds them: what each shows; panels.py has how."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sdd_utils.analysis import curves
from sdd_utils.analysis.cost import COSTS, MEASURED, front, spent
from sdd_utils.analysis.curves import setting_name
from sdd_utils.analysis.methods import BLUE, COMPARED, GREEN, METHODS, ORANGE, RED
from sdd_utils.models import label_of
from sdd_utils.plots import panels
from sdd_utils.plots.panels import COLUMN, Lines, draw_curves, draw_panels
from sdd_utils.tables import WEIGHT_BIN, WEIGHT_BINS


def tour(levels: pd.DataFrame, arch: str, noise_rate: float) -> Figure:
    """The phenomenon on one curve: test accuracy above, and below it how training examples are fitted."""
    rows = curves.vanilla(levels, arch, noise_rate)
    fig, (top, below) = plt.subplots(2, 1, figsize=(COLUMN * 1.25, 4.2), sharex=True, height_ratios=[3, 2])
    for ax, names in ((top, True), (below, False)):
        panels.shade_phases(ax, rows, names)
    draw_curves(top, rows, color="0.15", marker="o", markersize=3)
    top.set(ylabel="test accuracy (%)")
    panels.clip(top)
    draw_curves(below, rows, "clean_fit", color=GREEN, label="right labels fitted")
    if rows["memorised"].notna().all():  # without noise there is nothing to memorise
        draw_curves(below, rows, "memorised", color=RED, label="wrong labels memorised")
    below.set(ylabel="training examples (%)", ylim=(-3, 103))
    below.legend(loc="lower center", fontsize=7)
    panels.sparsity_axis(below)
    top.set_xlabel("")
    return fig


def cure(levels: pd.DataFrame, arch: str, noise_rate: float) -> Figure:
    """The dip and what removes it: vanilla pruning, its phases behind it, beside its two students."""
    setting = (arch, noise_rate)
    return draw_panels({setting_name(*setting): _methods(levels, *setting)}, phases_of=METHODS["vanilla"].label)


def baseline(levels: pd.DataFrame) -> Figure:
    """Vanilla curves: one panel an architecture, one line a noise rate."""
    plain = levels[levels["method"] == "vanilla"]

    def lines(arch: str) -> Lines:
        rows = plain[plain["arch"] == arch]
        rates = sorted(rows["noise_rate"].unique())
        shades = zip(rates, sns.color_palette("viridis", len(rates)), strict=True)
        return [(f"ε = {rate:g}", rows[rows["noise_rate"] == rate], colour) for rate, colour in shades]

    return draw_panels({label_of(arch): lines(arch) for arch in curves.architectures(plain)})


def l2_sweep(levels: pd.DataFrame) -> Figure:
    """Curves without a teacher: one panel for each (architecture, ε) that has several λ, one line a λ."""

    def lines(arch: str, rate: float) -> Lines:
        grid = curves.weight_decays(levels, arch, rate)
        shades = zip(grid, sns.color_palette("viridis", len(grid)), strict=True)
        return [(f"λ = {d:g}", curves.at_weight_decay(levels, arch, rate, d), colour) for d, colour in shades]

    settings = [s for s in curves.vanilla_settings(levels) if len(curves.weight_decays(levels, *s)) > 1]
    return draw_panels({setting_name(*s): lines(*s) for s in settings})


def distillation(levels: pd.DataFrame) -> Figure:
    """Vanilla beside its students: one panel for each (architecture, ε) that has students; vanilla's phases behind."""
    settings = curves.distilled_settings(levels)
    return draw_panels({setting_name(*s): _methods(levels, *s) for s in settings}, phases_of=METHODS["vanilla"].label)


def frontier(levels: pd.DataFrame, remaining: float = 10.0) -> Figure:
    """Test accuracy against all energy spent (FLOPs where it was not measured), for networks that are pruned enough.

    One panel for each (architecture, ε) with students, one point a (way to prune, level) with at most ``remaining`` %
    of the weights left, means over seeds; the line joins those that no other point beats in both.
    """
    settings = curves.distilled_settings(levels)
    if not settings:
        return panels.nothing()
    table = spent(levels)
    cost = "train_flops" if table["energy_kwh"].isna().any() else "energy_kwh"
    points = table.groupby(["arch", "noise_rate", "pipeline", "level"], as_index=False)[MEASURED + COSTS].mean()
    points = points[points["sparsity"] >= 1 - remaining / 100]
    factor, unit = (1, "FLOPs") if cost == "train_flops" else (1, "kWh") if points[cost].max() > 0.1 else (1000, "Wh")
    points = points.assign(spent=factor * points[cost], percent=100 * points["test_acc"])
    fig, axes = panels.panel_grid(len(settings))
    for ax, setting in zip(axes.flat, settings, strict=False):
        mine = curves.select(points, [setting])
        best = front(mine, "spent", "percent")
        ax.plot(best["spent"], best["percent"], color="0.6", lw=1, zorder=1)
        for name, method in COMPARED.items():
            if len(rows := mine[mine["pipeline"] == name]):
                ax.scatter(rows["spent"], rows["percent"], s=9, color=method.colour, label=method.label, lw=0)
        ax.set_title(setting_name(*setting), fontsize=9)
        ax.set(xscale="log", xlabel=f"spent on training ({unit})")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    for line in axes:
        line[0].set_ylabel("test accuracy (%)")
    ways = {way: dots for ax in axes.flat for dots, way in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = [method.label for method in COMPARED.values() if method.label in ways]
    # Outside: dots may lie anywhere in a panel.
    fig.legend([ways[way] for way in order], order, loc="outside lower center", ncols=4, fontsize=7, handletextpad=0)
    return fig


def weights(histograms: pd.DataFrame, remaining: tuple[float, ...] = (50, 5, 1)) -> Figure:
    """Density of the surviving weights at the smallest and the largest λ, one row an architecture.

    Columns are the levels whose share of remaining weights is closest to each of ``remaining`` (%). Of several noise
    rates the first is shown. The outermost bins, which hold all that lies beyond, count and are not drawn.
    """
    limit = WEIGHT_BIN * WEIGHT_BINS / 2
    several = histograms.groupby("arch")["weight_decay"].nunique() > 1
    archs = [arch for arch in curves.architectures(histograms) if several[arch]]
    if not archs:
        return panels.nothing()
    fig, axes = plt.subplots(len(archs), len(remaining), figsize=(COLUMN * 2, 1.6 * len(archs) + 0.3), squeeze=False)
    for arch, row in zip(archs, axes, strict=True):
        by_rate = histograms[histograms["arch"] == arch].groupby("noise_rate")
        rows = next(group for _, group in by_rate if group["weight_decay"].nunique() > 1)
        for share, ax in zip(remaining, row, strict=True):
            level = (np.log(100 * (1 - rows["sparsity"])) - np.log(share)).abs().idxmin()
            at = rows[rows["level"] == rows.loc[level, "level"]]
            for decay, colour in ((at["weight_decay"].min(), BLUE), (at["weight_decay"].max(), ORANGE)):
                histogram = at[at["weight_decay"] == decay].sort_values("bin")
                density = histogram["count"] / histogram["count"].sum() / WEIGHT_BIN
                centre = histogram["bin"] + WEIGHT_BIN / 2
                inner = centre.abs() < limit - WEIGHT_BIN
                style = {"color": colour, "alpha": 0.6, "lw": 0, "label": f"λ = {decay:g}"}
                ax.bar(centre[inner], density[inner], WEIGHT_BIN, **style)
            left = 100 * (1 - at["sparsity"].iat[0])
            ax.set_title(f"{setting_name(arch, at['noise_rate'].iat[0])}, {left:.2g} % left", fontsize=8)
            ax.set_xlim(-limit, limit)
        row[0].legend(fontsize=6)
        row[0].set_ylabel("density")
    for ax in axes[-1]:
        ax.set_xlabel("weight")
    return fig


def all_figures(levels: pd.DataFrame, histograms: pd.DataFrame, shown: dict) -> dict[str, Figure]:
    """Every figure of one dataset's curves, by name; ``shown`` is the setting of the first two."""
    return {
        "tour": tour(levels, **shown),
        "cure": cure(levels, **shown),
        "baseline": baseline(levels),
        "l2_sweep": l2_sweep(levels),
        "weights": weights(histograms),
        "distillation": distillation(levels),
        "frontier": frontier(levels),
    }


def _methods(levels: pd.DataFrame, arch: str, rate: float) -> Lines:
    return panels.lines_of((method for method in METHODS.values() if method.beside_vanilla), levels, arch, rate)
