"""The figures, as the notebooks show them and as ``figures/`` holds them. Accuracy against remaining weights.

Lines are means over seeds, bands 95 % t intervals; colours are safe for colour-blind readers.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sdd_utils.analysis import Dip, Estimate, curves_of, measure_dip
from sdd_utils.claims import NAMES, penalised, penalties, vanilla, vanilla_settings
from sdd_utils.profiles import load_profile
from sdd_utils.results import WEIGHT_BIN, load_levels, load_weights

COLUMN = 3.5  # inches: one column of a two-column paper
BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, *_ = sns.color_palette("colorblind")
METHOD_COLOURS = {"none": "0.25", "sparse": BLUE, "dense": ORANGE}
METHOD_LABELS = {"none": "no teacher", "sparse": "sparse teacher", "dense": "dense teacher"}
PHASE_COLOURS = {"light": "#e8f1e8", "critical": "#f8dcd6", "sweet": "#dbe8f7", "collapsed": "#e6e6e6"}


def use_style() -> None:
    """Fonts and lines that stay readable when a figure is printed one column wide."""
    sns.set_theme(context="paper", style="ticks", palette="colorblind", font_scale=0.95)
    plt.rcParams.update({"lines.linewidth": 1.3, "axes.spines.top": False, "axes.spines.right": False,
                         "legend.frameon": False, "figure.dpi": 120, "savefig.dpi": 200,
                         "figure.constrained_layout.use": True})  # fmt: skip


def draw_curves(ax: Axes, rows: pd.DataFrame, column: str = "test_acc", **style) -> None:
    """Mean over seeds of ``column`` (a share, drawn in %) against the share of remaining weights, with its band."""
    data = rows.assign(remaining=100 * (1 - rows["sparsity"]), percent=100 * rows[column])
    sns.lineplot(data, x="remaining", y="percent", ax=ax, errorbar=_interval, err_kws={"lw": 0}, **style)


def _interval(values: pd.Series) -> tuple[float, float]:
    estimate = Estimate.of(values)
    return estimate.low, estimate.high


def sparsity_axis(ax: Axes, label: bool = True) -> None:
    """Remaining weights on a logarithmic axis, dense on the left, as in the literature."""
    ax.set_xscale("log")
    ax.set_xlim(110, None)
    ax.set_xticks([100, 30, 10, 3, 1, 0.3])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("remaining weights (%)" if label else "")


def accuracy_axis(ax: Axes) -> None:
    """Accuracies in %, no further than there can be any, whatever the band of few seeds reaches."""
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, 0), min(high, 102))


def shade_phases(ax: Axes, dip: Dip, sparsities: np.ndarray, names: bool = True) -> None:
    """Colour the background by phase; ``sparsities`` (levels,) in [0, 1)."""
    remaining = 100 * (1 - np.asarray(sparsities))
    borders = np.concatenate([[115], np.sqrt(remaining[:-1] * remaining[1:]), [remaining[-1] * 0.9]])
    for phase, (first, last) in dip.phases.items():
        left, right = borders[first], borders[last + 1]
        ax.axvspan(left, right, color=PHASE_COLOURS[phase], lw=0, zorder=0)
        if names:
            x = np.sqrt(min(left, 110) * right)
            ax.text(x, 1.01, phase, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=7)


def tour(levels: pd.DataFrame, arch: str, noise_rate: float) -> Figure:
    """The phenomenon on one curve: test accuracy above, and below it how training examples are fitted."""
    rows = vanilla(levels, arch, noise_rate)
    dip = measure_dip(curves_of(rows))
    fig, (top, below) = plt.subplots(2, 1, figsize=(COLUMN * 1.25, 4.2), sharex=True, height_ratios=[3, 2])
    for ax, names in ((top, True), (below, False)):
        shade_phases(ax, dip, _sparsities(rows), names)
    draw_curves(top, rows, color="0.15", marker="o", markersize=3)
    top.set(ylabel="test accuracy (%)")
    draw_curves(below, rows, "clean_fit", color=GREEN, label="right labels fitted")
    draw_curves(below, rows, "memorised", color=RED, label="wrong labels memorised")
    below.set(ylabel="training examples (%)", ylim=(-3, 103))
    below.legend(loc="center left")
    sparsity_axis(below)
    top.set_xlabel("")
    return fig


def cure(levels: pd.DataFrame, arch: str, noise_rate: float) -> Figure:
    """The dip and what removes it: vanilla pruning beside its two students, one column wide."""
    fig, ax = plt.subplots(figsize=(COLUMN * 1.4, 2.9))
    rows = levels[(levels["arch"] == arch) & (levels["noise_rate"] == noise_rate)]
    shade_phases(ax, measure_dip(curves_of(vanilla(levels, arch, noise_rate))), _sparsities(rows))
    _draw_methods(ax, rows)
    ax.legend(loc="lower left")
    ax.set_ylabel("test accuracy (%)")
    sparsity_axis(ax)
    return fig


def baseline(levels: pd.DataFrame) -> Figure:
    """Vanilla curves: one panel an architecture, one line a noise rate."""
    settings = vanilla_settings(levels)
    rates = sorted({rate for _, rate in settings})
    colours = dict(zip(rates, sns.color_palette("viridis", len(rates)), strict=True))
    fig, axes = _panels([[arch] for arch in _archs(levels)], lambda arch: NAMES[arch])
    for arch, ax in axes.items():
        for rate in [r for a, r in settings if a == arch[0]]:
            draw_curves(ax, vanilla(levels, arch[0], rate), color=colours[rate], label=f"ε = {rate:g}")
        ax.legend(loc="lower left")
    return fig


def l2_sweep(levels: pd.DataFrame) -> Figure:
    """Curves without a teacher: one panel for each (architecture, ε) that has several λ, one line a λ."""
    settings = [s for s in vanilla_settings(levels) if len(penalties(levels, *s)) > 1]
    fig, axes = _panels(settings, lambda arch, rate: f"{NAMES[arch]}, ε = {rate:g}", columns=3)
    for (arch, rate), ax in axes.items():
        grid = penalties(levels, arch, rate)
        for decay, colour in zip(grid, sns.color_palette("viridis", len(grid)), strict=True):
            draw_curves(ax, penalised(levels, arch, rate, decay), color=colour, label=f"λ = {decay:g}")
        ax.legend(loc="lower left")
    return fig


def weights(histograms: pd.DataFrame, remaining: tuple[float, ...] = (50, 5, 1)) -> Figure:
    """Density of the surviving weights at the smallest and the largest λ, one row an architecture.

    Columns are the levels whose share of remaining weights is closest to each of ``remaining`` (%).
    """
    archs = [a for a in NAMES if histograms.query("arch == @a")["weight_decay"].nunique() > 1]
    fig, axes = plt.subplots(len(archs), len(remaining), figsize=(COLUMN * 2, 1.6 * len(archs) + 0.3), squeeze=False)
    for arch, row in zip(archs, axes, strict=True):
        several = (
            histograms.query("arch == @arch").groupby("noise_rate").filter(lambda g: g["weight_decay"].nunique() > 1)
        )
        rows = several[several["noise_rate"] == several["noise_rate"].min()]
        for share, ax in zip(remaining, row, strict=True):
            level = (np.log(100 * (1 - rows["sparsity"])) - np.log(share)).abs().idxmin()
            at = rows[rows["level"] == rows.loc[level, "level"]]
            for decay, colour in ((at["weight_decay"].min(), BLUE), (at["weight_decay"].max(), ORANGE)):
                histogram = at[at["weight_decay"] == decay].sort_values("bin")
                density = histogram["count"] / histogram["count"].sum() / WEIGHT_BIN
                centre = histogram["bin"] + WEIGHT_BIN / 2
                ax.bar(centre, density, WEIGHT_BIN, color=colour, alpha=0.6, lw=0, label=f"λ = {decay:g}")
            ax.set_title(f"{NAMES[arch]}, {100 * (1 - at['sparsity'].iat[0]):.2g} % left", fontsize=8)
            ax.set_xlim(-1, 1)
        row[0].legend(fontsize=6)
        row[0].set_ylabel("density")
    for ax in axes[-1]:
        ax.set_xlabel("weight")
    return fig


def distillation(levels: pd.DataFrame) -> Figure:
    """Vanilla beside its students: one panel for each (architecture, ε) that has students."""
    taught = levels[levels["method"] == "kd"]
    settings = [s for s in vanilla_settings(levels) if len(taught.query("arch == @s[0] and noise_rate == @s[1]"))]
    fig, axes = _panels(settings, lambda arch, rate: f"{NAMES[arch]}, ε = {rate:g}", columns=3)
    for (arch, rate), ax in axes.items():
        rows = levels[(levels["arch"] == arch) & (levels["noise_rate"] == rate)]
        shade_phases(ax, measure_dip(curves_of(vanilla(levels, arch, rate))), _sparsities(rows), names=False)
        _draw_methods(ax, rows)
    next(iter(axes.values())).legend(loc="lower left")
    return fig


def save_all(results: str | Path, profile: str, folder: Path) -> list[Path]:
    """Write every figure of a profile as PNG (for the web) and PDF (for papers) into ``folder``."""
    use_style()
    levels, shown = load_levels(results, profile), load_profile(profile).tour
    figures = {
        "tour": tour(levels, **shown),
        "cure": cure(levels, **shown),
        "baseline": baseline(levels),
        "l2_sweep": l2_sweep(levels),
        "weights": weights(load_weights(results, profile)),
        "distillation": distillation(levels),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, fig in figures.items():
        for suffix, stamp in ((".png", {"Software": None}), (".pdf", {"CreationDate": None})):  # same input, same bytes
            written.append(folder / f"{name}{suffix}")
            fig.savefig(written[-1], metadata=stamp)
        plt.close(fig)
    return written


def _draw_methods(ax: Axes, rows: pd.DataFrame) -> None:
    for teacher, colour in METHOD_COLOURS.items():
        part = rows[(rows["teacher"] == teacher) & (rows["method"] != "l2")]
        if len(part):
            draw_curves(ax, part, color=colour, label=METHOD_LABELS[teacher])
    accuracy_axis(ax)


def _archs(levels: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(arch for arch, _ in vanilla_settings(levels)))


def _sparsities(rows: pd.DataFrame) -> np.ndarray:
    return rows.groupby("level")["sparsity"].first().to_numpy()


def _panels(settings: list, title, columns: int = 3) -> tuple[Figure, dict[tuple, Axes]]:
    """A grid of panels with shared axes, one a setting, at most ``columns`` wide: two columns of a paper."""
    columns = min(columns, len(settings))
    lines = -(-len(settings) // columns)
    width = COLUMN * (2 if columns > 1 else 1.2)
    fig, axes = plt.subplots(lines, columns, figsize=(width, 2.3 * lines + 0.2), sharey=True, squeeze=False)
    panels = dict(zip([tuple(s) for s in settings], axes.flat, strict=False))
    for setting, ax in panels.items():
        ax.set_title(title(*setting), fontsize=9)
        sparsity_axis(ax)
    for ax in axes.flat[len(settings) :]:
        ax.set_visible(False)
    for line in axes:
        line[0].set_ylabel("test accuracy (%)")
    return fig, panels
