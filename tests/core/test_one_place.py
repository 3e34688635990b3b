"""Adding a part is one entry in one file: toy parts, each entered into its registry and nowhere else, and then used."""

import io

import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

from sdd_utils import data, datasets, distillation, losses, models, plots, pruning, pruning_loop, training
from sdd_utils.analysis import claims, methods
from sdd_utils.analysis.choose import candidates
from sdd_utils.analysis.claims import claim, claims_table
from sdd_utils.analysis.cost import spent
from sdd_utils.analysis.curves import setting_name, vanilla
from sdd_utils.analysis.dip import Estimate
from sdd_utils.config import Experiment
from sdd_utils.data import load
from sdd_utils.datasets import Dataset, download
from sdd_utils.distillation import TeacherRule
from sdd_utils.errors import ConfigError
from sdd_utils.evaluation import predict
from sdd_utils.files import as_csv, read_csv
from sdd_utils.models import Architecture
from sdd_utils.profiles import Profile, load_profile
from sdd_utils.pruning import check_levels, new_network
from sdd_utils.pruning_loop import iterative_pruning
from sdd_utils.readers import Images
from sdd_utils.runner.run import run_experiment
from sdd_utils.tables import load_levels


def smallest(**changes):
    """The smallest curve of the profile ``smoke``, with some settings replaced."""
    first = load_profile("smoke").experiments()[0].model_dump(mode="json")
    return Experiment.parse(first | {"epochs": 1, "levels": 2} | changes)


def curve(exp):
    return list(iterative_pruning(exp, load(exp)))


def bottleneck(exp):
    return nn.Sequential(nn.Conv2d(1, exp.width, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36 * exp.width, 10))


def stripes(root):
    """Three kinds of images, 4×4, each with one bright row."""

    def make(n):
        labels = torch.arange(n) % 3
        images = torch.zeros(n, 1, 4, 4, dtype=torch.uint8)
        images[torch.arange(n), 0, labels] = 9
        return Images(images, labels, 3)

    return make(60), make(30)


def first_come(net, data, exp):
    """A weight is worth the more, the earlier it comes."""
    return torch.arange(len(net.weights), 0, -1.0)


def first_layer(net):
    return net.parameters[0].square().sum()


def squared(logits, labels, weight):
    return weight * (logits - nn.functional.one_hot(labels, logits.shape[1])).square().mean()


def next_class(pool, parts, exp, rng):
    return (pool.labels + 1) % pool.classes


TOYS = {
    "arch": (models.ARCHITECTURES, Architecture("Bottleneck", 1e-3, bottleneck, prunable=("Conv2d",))),
    "dataset": (datasets.DATASETS, Dataset("Stripes", (1, 4, 4), 3, 60, 30, stripes, largest=9)),
    "criterion": (pruning.CRITERIA, first_come),
    "regulariser": (training.REGULARISERS, first_layer),
    "loss": (losses.LOSSES, squared),
    "noise_kind": (data.NOISE, next_class),
    "teacher.rule": (distillation.TEACHERS, TeacherRule(lambda accuracy: len(accuracy) - 1, is_pruned=True)),
}
"""By the field that names it: the registry and the toy, which is called ``toy``."""

ADDED_IN = {
    "arch": "models.py, ARCHITECTURES",
    "dataset": "datasets.py, DATASETS",
    "criterion": "pruning.py, CRITERIA",
    "regulariser": "training.py, REGULARISERS",
    "loss": "losses.py, LOSSES",
    "noise_kind": "data.py, NOISE",
    "teacher.rule": "distillation.py, TEACHERS",
}


def named(field, name="toy", **changes):
    """The smallest curve with a part of that name."""
    if field == "teacher.rule":
        teacher = {"rule": name, "experiment": smallest().model_dump(mode="json") | changes}
        return smallest(teacher=teacher, temperature=4, alpha=0.9)
    beside = {"regulariser": {"coefficient": 0.1}, "loss": {"loss_parameter": 1.0}}
    return smallest(**{field: name}, **beside.get(field, {}), **changes)


@pytest.fixture
def enter(monkeypatch):
    """Enter toys into their registries."""

    def run(*fields):
        for field in fields:
            registry, toy = TOYS[field]
            monkeypatch.setitem(registry, "toy", toy)

    return run


@pytest.mark.parametrize("field", TOYS)
def test_a_name_that_no_table_has_is_refused_with_the_field_and_the_file_to_add_it_in(field, enter):
    with pytest.raises(ConfigError) as error:
        named(field)
    assert str(error.value).startswith(f"{field}: should be one of ")
    assert f"; others are added in sdd_utils/{ADDED_IN[field]} (got 'toy')" in str(error.value)
    enter(field)
    assert "toy" in named(field).canonical
    with pytest.raises(ConfigError, match=f"{field}: should be one of .*, toy; others are added in"):
        named(field, "other")


def test_an_architecture_is_trained_and_pruned_where_it_says_and_named_in_figures(enter):
    enter("arch")
    exp = named("arch", width=4, weight_decay=1e-3)
    assert (exp.method, named("arch", width=4).method) == ("vanilla", "l2")  # by its own regular λ
    before, levels = new_network(exp), curve(exp)
    assert list(before.layers) == ["0"]
    assert [level.remaining_params for level in levels] == [36, 18, 9]
    assert predict(levels[-1].network.model, load(exp).test).shape == (797, 10)
    linear = [net.model[3].weight.detach() for net in (before, levels[-1].network)]
    assert (linear[1] != 0).all()
    assert not torch.equal(*linear)
    assert setting_name("toy", 0.3) == "Bottleneck, ε = 0.3"


def test_a_dataset_is_split_normalised_learnt_and_described(enter):
    enter("dataset")
    exp = named("dataset", noise_rate=0.0, batch_size=4, epochs=5)
    there = load(exp)
    assert [len(part) for part in (there.train, there.val, there.test)] == [48, 12, 30]
    assert there.train.normalise(there.train.images).std().item() == pytest.approx(1)
    levels = curve(exp)
    assert levels[0].network.model[-1].out_features == 3
    assert levels[0].test_acc == 1.0
    assert download("toy") == "toy: 60 training images and 30 test images, 3 classes"
    with pytest.raises(ConfigError, match="train_subset: 61 images are more than the 60 of toy"):
        named("dataset", train_subset=61)


def test_the_weights_that_a_criterion_thinks_least_of_are_the_ones_pruned(enter):
    enter("criterion")
    exp = named("criterion")
    for level in iterative_pruning(exp, load(exp)):
        mask = level.network.mask
        assert mask[: level.remaining_params].all()
        assert not mask[level.remaining_params :].any()
    assert level.level == 2
    assert level.sparsity == pytest.approx(0.75, abs=1e-3)


def test_a_criterion_may_look_at_the_data_and_at_gradients(monkeypatch):
    def saliency(net, data, exp):
        logits = net.model(data.train.normalise(data.train.images))
        net.backward(nn.functional.cross_entropy(logits, data.train.labels))
        return (net.weights * net.vector.grad[: len(net.mask)]).abs()

    monkeypatch.setitem(pruning.CRITERIA, "toy", saliency)
    saliently, plainly = (curve(exp)[-1].network for exp in (named("criterion"), smallest()))
    assert saliently.remaining == plainly.remaining
    assert not torch.equal(saliently.mask, plainly.mask)


def test_a_regulariser_makes_smaller_what_it_punishes_and_names_the_method(enter):
    enter("regulariser")
    assert named("regulariser").method == "toy"
    dense = smallest(levels=0), named("regulariser", levels=0)
    free, punished = (curve(exp)[0].network.parameters for exp in dense)
    sizes = [[weights.square().mean().item() for weights in (first, second)] for first, second, *_ in (free, punished)]
    assert sizes[1][0] < 0.9 * sizes[0][0]
    assert sizes[1][1] == pytest.approx(sizes[0][1], rel=0.1)


def test_a_loss_is_what_is_trained_on_and_names_the_method(enter):
    enter("loss")
    exp = named("loss", levels=0, epochs=5)
    assert exp.method == "toy"
    data, (level,) = load(exp), curve(exp)
    logits = [predict(net.model, data.train) for net in (new_network(exp), level.network)]
    before, after = (squared(answers, data.train.labels, 1.0) for answers in logits)
    assert after < 0.8 * before


def test_the_labels_of_a_noise_are_trained_and_validated_on_and_the_test_is_clean(enter):
    enter("noise_kind")
    exp = named("noise_kind", epochs=3, levels=0)
    there, (level,) = load(exp), curve(exp)
    for part in (there.train, there.val):
        assert torch.equal(part.labels, (part.clean + 1) % 10)
    assert not there.test.corrupted.any()
    said = predict(level.network.model, there.test).argmax(1)
    assert (said == (there.test.labels + 1) % 10).float().mean() > 0.5 > level.test_acc
    assert level.memorised == pytest.approx(level.train_acc)


def test_a_rule_picks_the_level_that_teaches_in_memory_and_on_disk(enter, tmp_path, monkeypatch):
    enter("teacher.rule")
    exp, taught_by = named("teacher.rule"), []
    train = pruning_loop.train_level

    def spy(net, data, exp, level, teacher, *more):
        taught_by.append(teacher and round(teacher.sparsity, 2))
        return train(net, data, exp, level, teacher, *more)

    monkeypatch.setattr(pruning_loop, "train_level", spy)
    curve(exp)
    assert taught_by == [None] * 3 + [0.75] * 3
    taught_by.clear()
    run_experiment(exp.teacher.experiment, tmp_path)
    run_experiment(exp, tmp_path)
    assert taught_by == [None] * 3 + [0.75] * 3
    with pytest.raises(ConfigError, match=r"teacher\.rule: toy needs a teacher experiment with levels ≥ 1"):
        named("teacher.rule", levels=0)


def test_a_profile_may_name_all_of_them(enter):
    """Its grid lists architectures, datasets and teachers' rules; the rest are settings."""
    enter(*TOYS)
    students = {"noise_rates": [0.1], "teachers": ["toy"], "temperatures": [4], "alphas": [0.9]}
    settings = {"width": 2, "criterion": "toy", "noise_kind": "toy", "weight_decay": 1e-3}
    punished = [{"noise_rates": [0.1], "settings": {"regulariser": "toy", "coefficient": 0.1}}]
    plan = {"settings": settings, "seeds": 1, "noise_rates": [0.1], "variants": punished, "distillation": students}
    profile = load_profile("smoke").model_dump() | {"datasets": {"toy": {}}, "architectures": {"toy": plan}}
    profile |= {"tour": {"arch": "toy", "noise_rate": 0.1}, "base": smallest().model_dump(exclude_defaults=True)}
    profile["base"] = {k: v for k, v in profile["base"].items() if k not in ("arch", "width", "noise_rate")}
    plain, other, student = Profile.parse(profile).experiments()
    assert (plain.arch, plain.dataset, plain.criterion, plain.method) == ("toy", "toy", "toy", "vanilla")
    assert other.method == "toy"
    assert student.teacher.rule == "toy"
    assert student.teacher.experiment == plain


def test_all_of_them_together_run_durably_with_the_numbers_of_the_loop(enter, tmp_path, monkeypatch):
    enter("criterion", "regulariser", "noise_kind", "teacher.rule", "dataset")
    monkeypatch.setitem(models.ARCHITECTURES, "toy", Architecture("Flat", 1e-4, flat, prunable=("Linear",)))
    parts = {"arch": "toy", "dataset": "toy", "criterion": "toy", "noise_kind": "toy", "regulariser": "toy"}
    parts |= {"coefficient": 1e-3, "batch_size": 5}
    exp = smallest(**parts, teacher={"rule": "toy", "experiment": smallest(**parts)}, temperature=4, alpha=0.5)
    check_levels(new_network(exp), exp)
    run_experiment(exp.teacher.experiment, tmp_path)
    written = pd.read_csv(run_experiment(exp, tmp_path) / "levels.csv")
    measured = read_csv(io.StringIO(as_csv(pd.DataFrame(level.row for level in curve(exp)))))
    pd.testing.assert_frame_equal(measured, written[list(measured)], check_exact=True)
    assert set(written["teacher"]) == {"toy"}
    assert set(written["dataset"]) == {"toy"}
    assert (written["train_flops"] > 0).all()


def flat(exp):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, exp.facts.classes))


@pytest.fixture
def of_a_new_method(monkeypatch):
    """The committed reference of digits with curves of a method that is not known elsewhere, as good as vanilla's."""
    levels = load_levels("digits")
    mine = levels[levels["method"] == "vanilla"].assign(method="toy", run_id=lambda t: "toy-" + t["run_id"])
    mine["train_flops"] *= 2
    monkeypatch.setitem(methods.METHODS, "toy", methods.Method("toy method", methods.PURPLE, "toy"))
    yield pd.concat([levels, mine], ignore_index=True)
    plt.close("all")


def legend(figure):
    return [text.get_text() for holder in (figure, *figure.axes) for text in texts_of(holder)]


def texts_of(holder):
    legends = holder.legends if hasattr(holder, "legends") else filter(None, [holder.get_legend()])
    return [text for one in legends for text in one.get_texts()]


def test_a_method_is_drawn_counted_and_offered_beside_the_others(of_a_new_method):
    levels = of_a_new_method
    shown = ["vanilla", "sparse teacher", "dense teacher", "early-stopped teacher", "early stopping"]
    shown += ["early-stopped teacher and student", "toy method"]
    assert legend(plots.cure(levels, "mlp", 0.3)) == shown
    assert "toy method" in legend(plots.frontier(levels))
    mine = spent(levels).query("pipeline == 'toy' and arch == 'mlp' and noise_rate == 0.3 and seed == 0")
    own = vanilla(levels, "mlp", 0.3).query("seed == 0")["train_flops"]
    assert mine["train_flops"].tolist() == pytest.approx((2 * own.cumsum()).tolist())
    assert "toy" in set(candidates(spent(levels), "mlp", 0.3)["pipeline"])


def test_a_method_without_curves_changes_no_figure_and_no_table(of_a_new_method):
    levels = load_levels("digits")
    assert "toy method" not in legend(plots.cure(levels, "mlp", 0.3)) + legend(plots.frontier(levels))
    assert "toy" not in set(spent(levels)["pipeline"])


def test_a_claim_is_judged_in_every_setting_and_those_of_before_stay_as_they_are(monkeypatch):
    levels = load_levels("digits")
    before = claims_table(levels)
    monkeypatch.setattr(claims, "CLAIMS", dict(claims.CLAIMS))

    @claim("X1")
    def learns(setting):
        """**X1**, a dense network is right more often than not."""
        accuracy = Estimate.of(setting.plain.query("level == 0")["test_acc"])
        verdict = "holds" if accuracy.low > 0.5 else "fails"
        yield setting.row("vanilla", "a dense network learns", accuracy, accuracy.p_value(above=0.5), verdict, "here")

    after = claims_table(levels)
    mine = after[after["claim"] == "X1"]
    assert len(mine) == (before["claim"] == "C1").sum()  # one a setting
    assert set(mine["verdict"]) == {"holds"}
    assert mine["statement"].str.endswith(": a dense network learns").all()
    assert mine["ci_low"].between(0.5, 1).all()
    pd.testing.assert_frame_equal(after[after["claim"] != "X1"].reset_index(drop=True), before)
