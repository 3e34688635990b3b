"""The chart that a notebook shows of a figure has the figure's curves, and says what its points are."""

import io
import json
from itertools import pairwise

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_hex

from sdd_utils.analysis.curves import of_method, vanilla
from sdd_utils.analysis.dip import curves_of, measure_dip
from sdd_utils.plots import figures
from sdd_utils.plots.charts import VEGA_LITE

pytestmark = pytest.mark.usefixtures("closed")

SETTING = {"arch": "vit", "noise_rate": 0.3}


def points(view):
    """A view's data, as the browser reads it."""
    return pd.read_csv(io.StringIO(view["layer"][-1]["data"]["values"]), keep_default_na=False)


@pytest.mark.parametrize("column", ["test_acc", "memorised"])
def test_its_points_are_the_means_and_the_seeds_of_the_table(levels, column):
    top, below = figures.cure(levels, **SETTING).chart["vconcat"]
    shown = points(top if column == "test_acc" else below)
    shown = shown[shown["line"] == "early-stopped teacher"]
    rows = of_method(levels, **SETTING, method="kd", teacher="early_stopped")
    mean, seeds = shown[shown["seed"] == "mean"], shown[shown["seed"] != "mean"]
    assert mean["level"].tolist() == sorted(set(rows["level"]))
    assert mean["y"].tolist() == pytest.approx((100 * rows.groupby("level")[column].mean()).tolist(), abs=0.005)
    assert len(seeds) == len(rows)
    one = seeds[seeds["seed"] == "3"].sort_values("level")["y"].tolist()
    assert one == pytest.approx((100 * rows[rows["seed"] == 3].sort_values("level")[column]).tolist(), abs=0.005)
    assert ((mean["low"].astype(float) <= mean["y"]) & (mean["y"] <= mean["high"].astype(float))).all()


def test_it_has_the_figures_curves_in_their_colours(levels):
    figure = figures.distillation(levels)
    (view,) = figure.chart["vconcat"]
    drawn = {ax.get_title(): [line.get_label() for line in ax.lines] for ax in figure.axes}
    found = {panel: list(dict.fromkeys(part["line"])) for panel, part in points(view).groupby("panel")}
    assert found == drawn
    scale = view["layer"][-1]["encoding"]["color"]["scale"]
    lines = {line.get_label(): to_hex(line.get_color()) for line in figure.axes[0].lines}
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == lines
    (panel,) = [param for param in figure.chart["params"] if param["name"] == "panel"]
    assert panel["bind"]["options"] == list(drawn)


@pytest.mark.parametrize("draw", [figures.tour, figures.cure, figures.baseline, figures.l2_sweep, figures.distillation])
def test_a_changed_curve_is_another_chart_and_a_notebook_shows_it_beside_the_picture(levels, draw):
    setting = SETTING if draw in (figures.tour, figures.cure) else {}
    before = draw(levels, **setting)
    shown, _ = DisplayFormatter().format(before)
    assert json.loads(json.dumps(shown[VEGA_LITE])) == before.chart
    changed = levels.copy()
    row = vanilla(levels, **SETTING).iloc[5]
    changed.loc[(levels["run_id"] == row["run_id"]) & (levels["level"] == row["level"]), "test_acc"] += 0.01
    assert draw(changed, **setting).chart != before.chart


@pytest.mark.parametrize("draw", [figures.tour, figures.cure])
def test_the_phases_behind_are_vanillas_in_every_view(levels, draw):
    phases = measure_dip(curves_of(vanilla(levels, **SETTING))).phases
    for view in draw(levels, **SETTING).chart["vconcat"]:
        spans = view["layer"][0]["data"]["values"]
        assert [span["phase"] for span in spans] == list(phases)
        assert all(one["right"] == other["left"] for one, other in pairwise(spans))


def test_a_label_has_one_colour_in_all_panels(levels):
    figure = figures.l2_sweep(levels)
    drawn = {(line.get_label(), to_hex(line.get_color())) for ax in figure.axes for line in ax.lines}
    scale = figure.chart["vconcat"][0]["layer"][-1]["encoding"]["color"]["scale"]
    assert drawn == set(zip(scale["domain"], scale["range"], strict=True))


def test_single_seeds_are_left_out_and_cannot_be_chosen_where_there_are_many_panels(levels):
    settings = len(figures.distillation(levels).axes)
    for times in (1, 13):
        chart = figures.distillation(dict.fromkeys(map(str, range(times)), levels)).chart
        many = times * settings > 12
        assert (
            {*points(chart["vconcat"][0])["seed"]} == {"mean"}
            if many
            else {"mean", "0"} <= {*points(chart["vconcat"][0])["seed"]}
        )
        seeds = next(param for param in chart["params"] if param["name"] == "seeds")
        assert ("bind" in seeds) == (not many)


def test_a_figure_without_curves_is_shown_as_its_picture_alone(levels):
    for figure in (figures.frontier(levels), figures.remedies(levels)):
        assert VEGA_LITE not in DisplayFormatter().format(figure)[0]
