"""The figures of a profile with a grid of τ and α."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sdd_utils.analysis import tuning
from sdd_utils.analysis.curves import setting_name
from sdd_utils.analysis.methods import METHODS
from sdd_utils.plots.panels import COLUMN

HEAT_MAPS = {"rebound": "rebound left (points)", "sweet": "test accuracy at the sparse teacher's level (%)"}


def heat_map(table: pd.DataFrame, column: str) -> Figure:
    """One of HEAT_MAPS over τ and α: a row a teacher, a column an (architecture, ε), one colour scale for all; what was
    not trained is grey."""
    settings = list(dict.fromkeys(zip(table["arch"], table["noise_rate"], strict=True)))
    teachers = [rule for rule in METHODS if rule in set(table["teacher"])]
    size = (COLUMN * 2, 1.7 * len(teachers) + 0.4)
    fig, axes = plt.subplots(len(teachers), len(settings), figsize=size, sharex=True, sharey=True, squeeze=False)
    limits = {"vmin": table[column].min(), "vmax": table[column].max()}
    for rule, line in zip(teachers, axes, strict=True):
        for setting, ax in zip(settings, line, strict=True):
            mine = table[(table["arch"] == setting[0]) & (table["noise_rate"] == setting[1])]
            values = mine[mine["teacher"] == rule].pivot(index="alpha", columns="temperature", values=column)
            values = values.reindex(index=sorted(set(table["alpha"])), columns=sorted(set(table["temperature"])))
            values = values.rename(index="{:g}".format, columns="{:g}".format).iloc[::-1]
            style = {"annot": True, "fmt": ".1f", "annot_kws": {"size": 7}, "cmap": "viridis", "cbar": False}
            sns.heatmap(values, ax=ax, **style, **limits)
            ax.set(xlabel="", ylabel="", facecolor="0.93")
            ax.tick_params(left=False, bottom=False)
            if ax in axes[0]:
                ax.set_title(setting_name(*setting), fontsize=8)
            if ax in axes[-1]:
                ax.set_xlabel("τ")
        line[0].set_ylabel(f"{METHODS[rule].label}\nα")
    fig.suptitle(HEAT_MAPS[column], fontsize=9)
    return fig


def figures(levels: pd.DataFrame) -> dict[str, Figure]:
    """All figures of the study, by name."""
    table = tuning.grid(levels)
    return {column: heat_map(table, column) for column in HEAT_MAPS}
