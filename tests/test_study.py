"""A profile as a notebook uses it: what is trained, what is read, what is refused."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml
from conftest import SMALL

from scripts.figures import save_figures
from scripts.notebooks import notebooks_of
from sdd_utils.analysis.claims import claims_table
from sdd_utils.errors import ConfigError, Damaged, ResultsMissing, SweepStopped, TrainingStopped
from sdd_utils.plots import distillation
from sdd_utils.profiles import load_profile
from sdd_utils.study import Study, studies
from sdd_utils.tables import FIGURES, LEVEL_COLUMNS, MEASURED_ON_THE_CLOCK, load_levels


def a_profile(home, name="mine", **mlp):
    """A profile like digits, as small as possible, in a home of its own."""
    settings = {**SMALL, "levels": 2, "prune_share": 0.9, "milestones": [0.5]}
    settings = {key: value for key, value in settings.items() if key not in ("arch", "noise_rate")}
    plan = {"settings": settings, "seeds": 2, "noise_rates": [0.3]} | mlp
    content = {"profile": name, "about": "", "tour": {"arch": "mlp", "noise_rate": 0.3}, "base": {}}
    (home / "profiles" / f"{name}.yaml").write_text(yaml.safe_dump(content | {"architectures": {"mlp": plan}}))
    return name


DISTILLED = {"noise_rates": [0.3], "teachers": ["sparse", "dense"], "temperatures": [2], "alphas": [0.8]}


def test_a_study_trains_what_it_is_asked_for_and_the_teachers_of_it(home):
    study = Study(a_profile(home, l2={"noise_rates": [0.3], "weight_decays": [0.02]}, distillation=DISTILLED), home)
    assert study.experiments()["levels"].tolist() == ["0/6"] * 4
    levels = study.run("dense")
    assert set(levels["teacher"]) == {"dense"}
    assert len(levels) == 2 * 3
    assert dict(zip(study.experiments()["teacher"], study.experiments()["levels"], strict=False)) == {
        "": "0/6",
        "sparse": "0/6",
        "dense": "6/6",
    }
    assert study.experiments("vanilla")["levels"].tolist() == ["6/6"]
    before = {path: path.stat().st_mtime_ns for path in home.rglob("levels.csv")}
    assert set(study.run("vanilla", "kd")["method"]) == {"vanilla", "kd"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_budget_saves_and_the_same_cell_goes_on(home):
    study = Study(a_profile(home), home, time_budget="1ms")
    with pytest.raises(TrainingStopped, match=r"Stopped: the time budget of 0.001 s is used up.*run the same again"):
        study.run("vanilla")
    with pytest.raises(ResultsMissing, match=r"2 of 2 runs of mine are not finished \(digits-mlp16"):
        study.levels()
    assert len(Study("mine", home, time_budget="1h").run("vanilla")) == 2 * 3


def test_a_reference_of_another_profile_than_todays_is_refused(home, monkeypatch):
    """All run_ids are others once a field is changed."""
    monkeypatch.setattr("sdd_utils.study.load_levels", lambda name: load_levels("digits"))
    study = Study(a_profile(home))
    with pytest.raises(
        ResultsMissing, match="none of these 2 runs is in the reference of mine: was the profile changed"
    ):
        study.levels()


def test_curves_that_a_profile_does_not_have_are_no_rows_of_the_same_table(home):
    study = Study(a_profile(home), home)
    assert list(study.run("kd").columns) == LEVEL_COLUMNS
    distillation(study.levels("kd"))


def test_a_curve_is_watched_level_by_level_interrupted_and_gone_on_with(home):
    study, seen = Study(a_profile(home), home), []

    def draw(levels):
        seen.append(levels["level"].tolist())
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.watch(draw)
    levels = study.watch(draw)
    assert seen == [[0], [0, 1], [0, 1, 2]]
    assert levels["seed"].tolist() == [0] * 3
    clockless = [column for column in levels if column not in MEASURED_ON_THE_CLOCK]
    pd.testing.assert_frame_equal(levels[clockless], study.run("vanilla").query("seed == 0")[clockless])
    assert study.watch(draw)["seed"].nunique() == 2
    assert len(seen) == 3


def test_of_the_reference_nothing_is_watched_and_all_seeds_are_read():
    assert Study("digits").watch(pytest.fail)["seed"].nunique() == 8


@pytest.mark.parametrize("table", ["levels.csv", "weights.csv"])
def test_a_number_that_was_altered_in_a_table_of_a_run_is_not_drawn(home, table):
    study = Study(a_profile(home), home)
    study.run()
    path = next(home.rglob(table))
    path.write_text(path.read_text().replace("1", "2", 1))
    for read in (study.levels, study.weights, study.figures):
        with pytest.raises(Damaged, match=f"{path}: differs from its checksum"):
            read()


def test_a_run_that_fails_is_named(home, monkeypatch):
    def fail(*_):
        raise ValueError("no such luck")

    monkeypatch.setattr("sdd_utils.runner.run.iterative_pruning", fail)
    with pytest.raises(SweepStopped, match=r"digits-mlp16-sym0\.3-vanilla.*: ValueError: no such luck"):
        Study(a_profile(home), home).run()


def test_errors_are_shown_in_a_notebook_without_a_traceback():
    assert TrainingStopped("why")._render_traceback_() == ["TrainingStopped: why"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"results": "refrence"}, 'results: should be "reference", "runs" or a path such as'),
        ({"profile": "digit"}, "profile: there is no 'digit'; known are"),
        ({"profile": 2024}, "profile: there is no 2024; known are"),
        ({"profile": None}, "profile: there is no None; known are"),
        ({"results": 7}, 'results: should be "reference", "runs" or a path such as'),
        ({"workers": "two"}, r"workers: should be a whole number from 1 to 1000, or None \(got 'two'\)"),
        ({"workers": 0}, r"workers: should be a whole number from 1 to 1000, or None \(got 0\)"),
        ({"workers": 1.5}, r"workers: should be a whole number from 1 to 1000, or None \(got 1.5\)"),
        ({"device": 0}, r'device: should be "cpu", "cuda", "cuda:1" or the like \(got 0\)'),
        ({"device": "gpu 1"}, r'device: should be "cpu", "cuda", "cuda:1" or the like \(got'),
        ({"time_budget": "soon"}, "time_budget: 'soon' is not a duration such as 90s"),
        ({"time_budget": -5}, "time_budget: -5 must be more than 0"),
        ({"time_budget": []}, r"time_budget: \[\] is not a duration such as 90s"),
        ({"dataset": 3}, "dataset: there is no 3 in digits; there are digits"),
        ({"dataset": "mnist"}, "dataset: there is no 'mnist' in digits; there are digits"),
    ],
)
def test_what_is_not_there_is_refused_by_name(settings, said):
    with pytest.raises(ConfigError, match=said):
        Study(**settings)


def test_a_method_that_is_none_is_refused_by_name():
    with pytest.raises(ConfigError, match="methods: there is no 'vanila'; there are"):
        Study("digits").run("vanila")


def test_a_method_of_a_teacher_of_its_own_is_found_by_its_name():
    remedies = Study("digits-remedies").run("sparse-early")
    assert remedies[["method", "teacher"]].drop_duplicates().to_numpy().tolist() == [["kd-early", "sparse"]]
    assert Study("digits").run("sparse-early").empty  # as of every method that a profile has not
    assert set(Study("digits-remedies").run("sparse")["method"]) > {"kd", "kd-mixup", "kd-early"}


def test_the_reference_is_read_and_nothing_is_trained(monkeypatch, tmp_path):
    monkeypatch.setattr("sdd_utils.runner.sweep.train", lambda *_, **__: pytest.fail("it trains"))
    monkeypatch.setattr("sdd_utils.study.write_bytes", lambda *_: pytest.fail("it writes a figure"))
    study = Study("digits")
    levels = study.run("vanilla", "kd")
    assert set(levels["method"]) == {"vanilla", "kd"}
    study.save(distillation(levels), "distillation")
    there = study.experiments("kd")
    each = there["arch"].map({"mlp": 15, "resnet18": 14, "vit": 14}) * there["runs"]
    assert there["levels"].tolist() == [f"{levels}/{levels}" for levels in each]
    assert (there["minutes"] > 0).all()


def test_the_figures_of_a_reference_are_the_committed_ones_by_name(tmp_path):
    written = save_figures("digits-random", tmp_path)
    committed = sorted(path.name for path in (FIGURES / "digits-random").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == committed
    assert {*written} == {path.partition(".")[0] for path in committed}


@pytest.mark.parametrize("only", ["arch=vit", "method=vanilla,method=kd", "seed=0"])
def test_figures_of_a_part_of_the_reference_are_of_that_part(only):
    study = Study("digits", only=only)
    assert {"tour", "weights"} <= study.figures().keys()
    plt.close("all")
    keys = ["arch", "noise_rate", "weight_decay"]
    assert {*study.weights()[keys].itertuples(index=False)} == {
        *study.levels("vanilla", "l2")[keys].itertuples(index=False)
    }


def test_of_a_reference_that_is_not_there_no_level_is_done():
    there = Study("paper").experiments()
    assert there["levels"].str.startswith("0/").all()
    assert there["minutes"].isna().all()


def test_a_grid_of_tau_and_alpha_is_a_study_of_its_own(home):
    grid = DISTILLED | {"temperatures": [1, 2], "alphas": [0.5, 1.0]}
    study = Study(a_profile(home, "tuning", distillation=[grid]), home)
    assert study.run()["run_id"].nunique() == 2 * (1 + 8)
    assert set(study.figures()) == {"rebound", "sweet"}


def test_a_regulariser_is_a_method_of_its_own(home):
    plan = {"variants": [{"noise_rates": [0.3], "settings": {"regulariser": "l1", "coefficient": 1e-4}}]}
    levels = Study(a_profile(home, **plan), home).run()
    assert set(levels["method"]) == {"vanilla", "l1"}
    assert set(claims_table(levels).query("claim == 'C3'")["pipeline"]) == {"l1"}
    assert "remedies" in Study("mine", home).figures()
    assert "10_remedies" in notebooks_of(load_profile("mine"))


def test_curves_that_nothing_tells_apart_are_refused_before_training(home):
    plan = {"variants": [{"noise_rates": [0.3], "settings": {"retrain": "init"}}]}
    with pytest.raises(ConfigError, match=r"mine: architectures\.mlp: two vanilla curves at ε = 0\.3 and λ = 0\.0001"):
        Study(a_profile(home, **plan), home)


def test_a_dataset_that_an_architecture_sets_is_found(home):
    settings = {**SMALL, "dataset": "mnist"}
    name = a_profile(home, settings={key: settings[key] for key in settings.keys() - {"arch", "noise_rate"}})
    assert Study(name, home).dataset == "mnist"
    assert Study(name, home).experiments()["dataset"].tolist() == ["mnist"]
    with pytest.raises(ConfigError, match="dataset: there is no 'digits' in mine; there are mnist"):
        Study(name, home, "digits")


def test_figures_of_curves_without_a_vanilla_one_are_refused():
    with pytest.raises(ConfigError, match="only: it selects no vanilla curve"):
        Study("digits", only="method=kd").figures()


def test_several_profiles_are_opened_by_name_and_refused_where_they_are_no_list():
    opened = studies(["smoke", "digits", "smoke"], only="arch=mlp")
    assert [(name, study.profile.profile) for name, study in opened.items()] == [("smoke",) * 2, ("digits",) * 2]
    assert set(opened["digits"].experiments()["arch"]) == {"mlp"}
    for wrong in ("digits", [], None):
        with pytest.raises(ConfigError, match="profiles: should be a list of names of profiles"):
            studies(wrong)
