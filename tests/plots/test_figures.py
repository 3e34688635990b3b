"""What profiles lack, figures and notebooks leave out; what they show can be read."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from sdd_utils.analysis.claims import claims_table
from sdd_utils.analysis.curves import vanilla
from sdd_utils.plots import figures
from sdd_utils.plots.panels import use_style
from sdd_utils.tables import load_levels, load_weights

pytestmark = pytest.mark.usefixtures("closed")


def test_without_wrong_labels_none_are_memorised(levels):
    setting = {"arch": "mlp", "noise_rate": 0.3}
    _, below = figures.tour(levels, **setting).axes
    _, clean = figures.tour(levels.assign(memorised=np.nan), **setting).axes
    assert (len(below.lines), len(clean.lines)) == (2, 1)


@pytest.mark.parametrize("figure", [figures.baseline, figures.l2_sweep, figures.distillation])
def test_curves_that_cannot_be_told_apart_are_not_drawn_as_their_mean(levels, figure):
    with pytest.raises(ValueError, match="the same seed and level occur twice"):
        figure(pd.concat([levels, levels], ignore_index=True))


def test_an_architecture_that_is_not_known_here_is_drawn_like_the_others_by_its_own_name(levels):
    mine = levels.assign(arch=levels["arch"].replace("resnet18", "mobilenet"))
    assert [ax.get_title() for ax in figures.baseline(mine).axes] == ["MLP", "ViT", "mobilenet"]
    statements = claims_table(mine)["statement"]
    assert statements.str.startswith("mobilenet, ε = 0.3: ").sum() == statements.str.startswith("ViT, ε = 0.3: ").sum()


def test_the_frontier_says_how_many_weights_its_networks_have_left(levels):
    labels = [text.get_text() for ax in figures.frontier(levels).axes for text in ax.texts]
    assert labels
    assert all(text.endswith(" %") and 0 < float(text[:-2]) <= 100 for text in labels)


def test_without_students_the_frontier_shows_what_there_is(levels):
    fig = figures.frontier(levels[levels["method"].isin(["vanilla", "early"])])
    assert [ax.get_title() for ax in fig.axes][:3] == ["MLP, ε = 0.1", "MLP, ε = 0.3", "MLP, ε = 0.5"]
    shown = [text.get_text() for text in fig.legends[0].get_texts()]
    assert shown == ["vanilla", "early stopping", "about 1 % of the weights left"]


def test_remedies_are_drawn_alone_and_with_a_teacher_and_nowhere_else(levels):
    kinds = [("kd", "sparse"), ("early", "none"), ("gce", "none"), ("kd-gce", "sparse"), ("kd-early", "sparse")]
    plain = vanilla(levels, "mlp", 0.3)
    more = [plain.assign(method=method, teacher=teacher) for method, teacher in kinds]
    both = pd.concat([plain, *more])
    figure = figures.remedies(both)
    titles = ["MLP, ε = 0.3, no teacher", "MLP, ε = 0.3, sparse teacher"]
    assert [ax.get_title() for ax in figure.axes] == titles
    assert [len(ax.lines) for ax in figure.axes] == [3, 3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "no other remedy", "generalised cross-entropy", "early stopping"
    ]  # fmt: skip
    alone = figures.remedies(both[both["method"] != "kd"])  # where students without another remedy were not trained
    assert [len(ax.lines) for ax in alone.axes] == [3, 2]
    assert not figures.remedies(plain).axes
    assert len(figures.distillation(both).axes[0].lines) == 3


def test_legends_lie_below_the_curves():
    """Where all curves run high, as those of few seeds on CIFAR do, the axis goes lower."""
    fig = figures.cure(load_levels("cifar10-subset"), "resnet18", 0.2)
    fig.canvas.draw()
    ax, _ = fig.axes
    legend = ax.get_legend().get_window_extent()
    dots = [dot for line in ax.lines for dot in ax.transData.transform(line.get_xydata())]
    assert legend.count_contains(dots) == 0


def test_what_is_set_for_matplotlib_elsewhere_changes_no_figure():
    """A matplotlibrc, or a notebook that has drawn something else before."""
    use_style()
    ours = plt.rcParams.copy()
    plt.rcParams.update({"lines.linestyle": "--", "axes.facecolor": "k", "font.family": "serif", "axes.grid": True})
    use_style()
    assert plt.rcParams == ours


def test_of_a_collapsed_network_no_weights_are_drawn():
    levels, histograms = load_levels("digits-full"), load_weights("digits-full")
    vit = levels[levels["arch"] == "vit"], histograms[histograms["arch"] == "vit"]
    drawn = [[bars.get_label() for bars in ax.containers] for ax in figures.weights(*vit).axes]
    assert drawn == [["λ = 0.03", "λ = 3"], ["λ = 0.03", "λ = 3"], ["λ = 0.03"]]  # at λ = 3 the ViT collapses
