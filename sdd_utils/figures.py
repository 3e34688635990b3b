"""The figures, as the notebooks show them and as ``figures/`` holds them: what each shows; drawing.py has how."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sdd_utils import tuning
from sdd_utils.cost import COSTS, MEASURED, PIPELINES, front, spent
from sdd_utils.curves import (
    NAMES,
    architectures,
    penalised,
    penalties,
    select,
    setting_name,
    student,
    taught_settings,
    vanilla,
    vanilla_settings,
)
from sdd_utils.drawing import (
    BLUE,
    COLUMN,
    GREEN,
    ORANGE,
    RED,
    Lines,
    clip,
    draw_curves,
    draw_panels,
    nothing,
    panel_grid,
    shade_phases,
    sparsity_axis,
    use_style,
)
from sdd_utils.profiles import load_profile
from sdd_utils.results import WEIGHT_BIN, WEIGHT_BINS, load_levels, load_weights, of_dataset

METHOD_COLOURS = {"none": "0.25", "sparse": BLUE, "dense": ORANGE}
METHOD_LABELS = {"none": "no teacher", "sparse": "sparse teacher", "dense": "dense teacher"}
SAME_BYTES = {".png": {"Software": None}, ".pdf": {"CreationDate": None}}
"""Metadata left out of a file, so that the same input gives the same bytes."""


def tour(levels: pd.DataFrame, arch: str, noise_rate: float) -> Figure:
    """The phenomenon on one curve: test accuracy above, and below it how training examples are fitted."""
    rows = vanilla(levels, arch, noise_rate)
    fig, (top, below) = plt.subplots(2, 1, figsize=(COLUMN * 1.25, 4.2), sharex=True, height_ratios=[3, 2])
    for ax, names in ((top, True), (below, False)):
        shade_phases(ax, rows, names)
    draw_curves(top, rows, color="0.15", marker="o", markersize=3)
    top.set(ylabel="test accuracy (%)")
    clip(top)
    draw_curves(below, rows, "clean_fit", color=GREEN, label="right labels fitted")
    if rows["memorised"].notna().all():  # without noise there is nothing to memorise
        draw_curves(below, rows, "memorised", color=RED, label="wrong labels memorised")
    below.set(ylabel="training examples (%)", ylim=(-3, 103))
    below.legend(loc="lower center", fontsize=7)
    sparsity_axis(below)
    top.set_xlabel("")
    return fig


def cure(levels: pd.DataFrame, arch: str, noise_rate: float) -> Figure:
    """The dip and what removes it: vanilla pruning, its phases behind it, beside its two students."""
    setting = (arch, noise_rate)
    return draw_panels({setting_name(*setting): _methods(levels, *setting)}, phases_of=METHOD_LABELS["none"])


def baseline(levels: pd.DataFrame) -> Figure:
    """Vanilla curves: one panel an architecture, one line a noise rate."""
    plain = levels[levels["method"] == "vanilla"]

    def lines(arch: str) -> Lines:
        rows = plain[plain["arch"] == arch]
        rates = sorted(rows["noise_rate"].unique())
        return [(f"ε = {r:g}", rows[rows["noise_rate"] == r], c) for r, c in zip(rates, _shades(rates), strict=True)]

    return draw_panels({NAMES.get(arch, arch): lines(arch) for arch in architectures(plain)})


def l2_sweep(levels: pd.DataFrame) -> Figure:
    """Curves without a teacher: one panel for each (architecture, ε) that has several λ, one line a λ."""

    def lines(arch: str, rate: float) -> Lines:
        grid = penalties(levels, arch, rate)
        shades = zip(grid, _shades(grid), strict=True)
        return [(f"λ = {d:g}", penalised(levels, arch, rate, d), colour) for d, colour in shades]

    settings = [s for s in vanilla_settings(levels) if len(penalties(levels, *s)) > 1]
    return draw_panels({setting_name(*s): lines(*s) for s in settings})


def distillation(levels: pd.DataFrame) -> Figure:
    """Vanilla beside its students: one panel for each (architecture, ε) that has students; vanilla's phases behind."""
    settings = taught_settings(levels)
    return draw_panels({setting_name(*s): _methods(levels, *s) for s in settings}, phases_of=METHOD_LABELS["none"])


PIPELINE_COLOURS = {"vanilla": "0.25", "l2": GREEN, "sparse": BLUE, "dense": ORANGE}


def frontier(levels: pd.DataFrame, remaining: float = 10.0) -> Figure:
    """Test accuracy against all energy spent (FLOPs where it was not measured), for networks that are pruned enough.

    One panel for each (architecture, ε) with students, one point a (way to prune, level) with at most ``remaining`` %
    of the weights left, means over seeds; the line joins those that no other point beats in both.
    """
    settings = taught_settings(levels)
    if not settings:
        return nothing()
    table = spent(levels)
    cost = "train_flops" if table["energy_kwh"].isna().any() else "energy_kwh"
    points = table.groupby(["arch", "noise_rate", "pipeline", "level"], as_index=False)[MEASURED + COSTS].mean()
    points = points[points["sparsity"] >= 1 - remaining / 100]
    factor, unit = (1, "FLOPs") if cost == "train_flops" else (1, "kWh") if points[cost].max() > 0.1 else (1000, "Wh")
    points = points.assign(spent=factor * points[cost], percent=100 * points["test_acc"])
    fig, axes = panel_grid(len(settings))
    for ax, setting in zip(axes.flat, settings, strict=False):
        mine = select(points, [setting])
        best = front(mine, "spent", "percent")
        ax.plot(best["spent"], best["percent"], color="0.6", lw=1, zorder=1)
        for pipeline in (name for name in PIPELINES if name in set(mine["pipeline"])):
            rows, colour = mine[mine["pipeline"] == pipeline], PIPELINE_COLOURS[pipeline]
            ax.scatter(rows["spent"], rows["percent"], s=9, color=colour, label=PIPELINES[pipeline], lw=0)
        ax.set_title(setting_name(*setting), fontsize=9)
        ax.set(xscale="log", xlabel=f"spent on training ({unit})")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    for line in axes:
        line[0].set_ylabel("test accuracy (%)")
    ways = {way: dots for ax in axes.flat for dots, way in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = [way for way in PIPELINES.values() if way in ways]
    # Outside: dots may lie anywhere in a panel.
    fig.legend([ways[way] for way in order], order, loc="outside lower center", ncols=4, fontsize=7, handletextpad=0)
    return fig


def weights(histograms: pd.DataFrame, remaining: tuple[float, ...] = (50, 5, 1)) -> Figure:
    """Density of the surviving weights at the smallest and the largest λ, one row an architecture.

    Columns are the levels whose share of remaining weights is closest to each of ``remaining`` (%). Of several noise
    rates the first is shown. The outermost bins, which hold all that lies beyond, count and are not drawn.
    """
    limit = WEIGHT_BIN * WEIGHT_BINS / 2
    archs = [a for a in architectures(histograms) if histograms.query("arch == @a")["weight_decay"].nunique() > 1]
    if not archs:
        return nothing()
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


def save_all(results: str | Path, profile: str, folder: Path) -> list[Path]:
    """Write every figure that a profile has curves for as PNG (for the web) and PDF (for papers) into ``folder``.

    A profile with several datasets gives every figure once for each, in folders by its name.
    """
    use_style()
    levels, plan = load_levels(results, profile), load_profile(profile)
    histograms = None if plan.tunes else load_weights(results, profile)
    written = []
    for dataset in plan.datasets or [""]:
        mine = of_dataset(levels, dataset)
        drawn = tuning.figures(mine) if plan.tunes else _all_figures(mine, of_dataset(histograms, dataset), plan.tour)
        (folder / dataset).mkdir(parents=True, exist_ok=True)
        for name, fig in drawn.items():
            for suffix in SAME_BYTES if fig.axes else ():
                written.append(folder / dataset / f"{name}{suffix}")
                fig.savefig(written[-1], metadata=SAME_BYTES[suffix])
            plt.close(fig)
    return written


def _all_figures(levels: pd.DataFrame, histograms: pd.DataFrame, preferred: dict) -> dict[str, Figure]:
    shown = setting_shown(levels, preferred)
    return {
        "tour": tour(levels, **shown),
        "cure": cure(levels, **shown),
        "baseline": baseline(levels),
        "l2_sweep": l2_sweep(levels),
        "weights": weights(histograms),
        "distillation": distillation(levels),
        "frontier": frontier(levels),
    }


def setting_shown(levels: pd.DataFrame, preferred: dict) -> dict:
    """The profile's ``tour``; where a dataset lacks it (people's noise has its own rate) its first vanilla setting."""
    settings = vanilla_settings(levels)
    if (preferred["arch"], preferred["noise_rate"]) in settings:
        return preferred
    return dict(zip(("arch", "noise_rate"), settings[0], strict=True))


def _methods(levels: pd.DataFrame, arch: str, rate: float) -> Lines:
    plain = (METHOD_LABELS["none"], vanilla(levels, arch, rate), METHOD_COLOURS["none"])
    taught = [(METHOD_LABELS[t], student(levels, arch, rate, t), METHOD_COLOURS[t]) for t in ("sparse", "dense")]
    return [plain, *(line for line in taught if len(line[1]))]


def _shades(values: list[float]) -> list:
    return sns.color_palette("viridis", len(values))
