import pytest
from conftest import SMALL, SMALL_VIT

from sdd_utils.config import Experiment
from sdd_utils.datasets import DATASETS
from sdd_utils.errors import ConfigError
from sdd_utils.models import ARCHITECTURES
from sdd_utils.profiles import PROFILES, Distillation, Profile, Variant, load_profile, select

TEACHER = {"rule": "dense", "experiment": SMALL}
WRONG = [
    ({"noise_rate": 1.0}, "noise_rate: input should be less than 1 (got 1.0)"),
    ({"noise_rate": -0.1}, "noise_rate: input should be greater than or equal to 0 (got -0.1)"),
    ({"noise_kind": "human"}, "human_labels: missing; it must be given when noise_kind is human"),
    (
        {"arch": "resnet19"},
        f"arch: should be one of {', '.join(ARCHITECTURES)}; others are added in sdd_utils/models.py, ARCHITECTURES "
        "(got 'resnet19')",
    ),
    (
        {"dataset": "stl10"},
        f"dataset: should be one of {', '.join(DATASETS)}; others "
        "are added in sdd_utils/datasets.py, DATASETS (got 'stl10')",
    ),
    (
        {"noise_kind": "pair"},
        "noise_kind: should be one of symmetric, pair_flip, asymmetric, human; others are added in sdd_utils/data.py, "
        "NOISE (got 'pair')",
    ),
    (
        {"criterion": "luck"},
        "criterion: should be one of magnitude, gradient, random; others are added in sdd_utils/pruning.py, "
        "CRITERIA (got 'luck')",
    ),
    (
        {"regulariser": "l3", "coefficient": 1},
        "regulariser: should be one of l1; others are added in sdd_utils/training.py, REGULARISERS (got 'l3')",
    ),
    ({"regulariser": "l1"}, "coefficient: missing; it must be given when there is a regulariser"),
    ({"coefficient": 1}, "coefficient: given, but it means something only when there is a regulariser"),
    ({"loss": "mse"}, "loss: should be one of smoothing, gce, sce; others are added in sdd_utils/losses.py, LOSSES"),
    ({"loss": "gce"}, "loss_parameter: missing; it must be given when there is a loss"),
    ({"loss": "gce", "loss_parameter": 1.1}, "loss_parameter: input should be less than or equal to 1 (got 1.1)"),
    ({"loss_parameter": 0.7}, "loss_parameter: given, but it means something only when there is a loss"),
    ({"mixup": 0}, "mixup: input should be greater than 0 (got 0)"),
    ({"dropout": 1}, "dropout: input should be less than 1 (got 1)"),
    ({"noise_kind": "asymmetric"}, "noise_rate: 0.3 is more than 0.2: of 4 of 10 classes most labels would be wrong"),
    (
        {"noise_kind": "asymmetric", "dataset": "cifar100"},
        "noise_kind: asymmetric needs classes that are confused, as digits, mnist, cifar10 have them",
    ),
    ({"prune_share": 1}, "prune_share: input should be less than 1 (got 1)"),
    ({"prune_share": 0}, "prune_share: input should be greater than 0 (got 0)"),
    ({"val_share": 0}, "val_share: input should be greater than 0 (got 0)"),
    ({"epochs": 0}, "epochs: input should be greater than or equal to 1 (got 0)"),
    ({"lr": float("nan")}, "lr: input should be a finite number (got nan)"),
    ({"lr": "fast"}, "lr: input should be a valid number (got 'fast')"),
    ({"widht": 3}, "widht: unknown field; the fields are seed, dataset"),
    ({"vit": {"patches": 4}}, "vit.patches: unknown field"),
    ({"momentum": None}, "momentum: missing; it must be given when optimizer is sgd"),
    ({"optimizer": "adamw"}, "momentum: given, but it means something only when optimizer is sgd"),
    ({"milestones": (0.75, 0.5)}, "milestones: [0.75, 0.5] must increase"),
    ({"milestones": (1.0,)}, "milestones.0: input should be less than 1 (got 1.0)"),
    ({"arch": "vit"}, "vit: missing; it must be given when arch is vit"),
    ({"vit": {}}, "vit: given, but it means something only when arch is vit"),
    ({"teacher": TEACHER}, "temperature: missing; it must be given when there is a teacher"),
    ({"teacher": TEACHER, "temperature": 4}, "alpha: missing; it must be given when there is a teacher"),
    ({"selection": "test"}, "selection: test means something only when the teacher is sparse"),
    ({"temperature": 4}, "temperature: given, but it means something only when there is a teacher"),
    ({"teacher": TEACHER, "temperature": 0, "alpha": 0.9}, "temperature: input should be greater than 0 (got 0)"),
    ({"teacher": TEACHER, "temperature": 4, "alpha": 2}, "alpha: input should be less than or equal to 1 (got 2)"),
    (
        {"teacher": {"rule": "best", "experiment": SMALL}, "temperature": 4, "alpha": 0.9},
        "teacher.rule: should be one of sparse, dense, early_stopped; others are added in "
        "sdd_utils/distillation.py, TEACHERS (got 'best')",
    ),
    (
        {"teacher": {"rule": "sparse", "experiment": SMALL | {"levels": 0}}, "temperature": 4, "alpha": 0.9},
        "teacher.rule: sparse needs a teacher experiment with levels ≥ 1",
    ),
    (
        {"teacher": TEACHER, "temperature": 4, "alpha": 0.9, "seed": 1},
        "teacher.experiment.seed: 0 differs from the student's",
    ),
]


PEOPLES = {"dataset": "cifar10n", "noise_kind": "human", "human_labels": "worse_label", "noise_rate": 0.4021}
OTHER_DATA = [
    (SMALL, {"noise_rate": 0.1}),
    (SMALL, {"train_subset": 900}),
    (SMALL, {"test_subset": 100}),
    (SMALL, {"val_share": 0.3}),
    (PEOPLES, {"human_labels": "aggre_label", "noise_rate": 0.0901}),
]


@pytest.mark.parametrize(("base", "change"), OTHER_DATA)
def test_a_teacher_that_has_seen_other_data_is_refused(base, change):
    """Among the images that it was trained on could be some that the student is tested on."""
    mine = SMALL | base
    distilled = mine | {"teacher": {"rule": "dense", "experiment": mine | change}, "temperature": 4, "alpha": 0.9}
    with pytest.raises(ConfigError, match=f"teacher.experiment.{next(iter(change))}: .* differs from the student's"):
        Experiment.parse(distilled)


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message.split(" (")[0] for _, message in WRONG])
def test_wrong_settings_are_refused_with_the_field_and_what_is_allowed(change, message):
    with pytest.raises(ConfigError) as error:
        Experiment.parse(SMALL | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_too_long_to_be_written_out_is_refused_by_its_field(small, digits):
    with pytest.raises(ConfigError) as refused:
        small(levels=10**digits, seed=10**digits)
    seed, levels = str(refused.value).splitlines()
    assert seed.startswith("seed: input should be less than or equal to 1000000000 (got ")
    assert levels.startswith("levels: input should be less than or equal to 1000 (got ")
    assert len(levels) < 120


def test_numbers_of_a_selection_are_compared_as_numbers(small):
    experiments = [small(noise_rate=rate, weight_decay=decay) for rate in (0.3, 0.5) for decay in (1e-4, 1.0)]
    for only, chosen in [
        ("noise_rate=0.30", [0, 1]),
        ("weight_decay=1e-4", [0, 2]),
        ("seed=00,weight_decay=1", [1, 3]),
    ]:
        assert select(experiments, only) == [experiments[i] for i in chosen]


def test_two_wrong_fields_give_two_lines():
    with pytest.raises(ConfigError) as error:
        Experiment.parse(SMALL | {"epochs": 0, "noise_rate": 2}, "here: ")
    lines = str(error.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["noise_rate", "epochs"]


def test_vit_width_must_be_divisible_by_its_heads():
    with pytest.raises(ConfigError, match=r"width: 16 is not divisible by vit\.heads = 3"):
        Experiment.parse(SMALL_VIT | {"vit": {"heads": 3}})


def test_a_vit_has_a_dropout_of_its_own():
    with pytest.raises(ConfigError, match=r"dropout: a vit has its own, vit\.dropout"):
        Experiment.parse(SMALL_VIT | {"dropout": 0.5})


def test_equal_settings_have_equal_run_ids_and_a_change_gives_another(small, student):
    assert small().run_id == small(dataset="digits", lr=0.1, retrain="lr").run_id
    others = [
        small(seed=1),
        small(noise_rate=0.2),
        small(epochs=3),
        small(lr=0.2),
        small(retrain="init"),
        small(weight_decay=1e-3),
        small(regulariser="l1", coefficient=1e-4),
        small(regulariser="l1", coefficient=1e-3),
        student(),
        student("sparse"),
        student(width=32),
    ]
    assert len({e.run_id for e in [small(), *others]}) == 1 + len(others)


def test_a_changed_copy_has_its_own_run_id(small):
    exp = small()
    assert exp.run_id  # asked for before the copy, so that nothing remembered may travel along
    assert exp.model_copy(update={"seed": 1}).run_id == small(seed=1).run_id


def test_run_id_is_pinned(small):
    """Committed results are found by these names, so a change of the canonical form must be deliberate."""
    assert small().run_id == "digits-mlp16-sym0.3-vanilla-wd0.0001-s0-70213b91"


def test_method_follows_from_the_settings(small, student):
    assert small().method == "vanilla"
    assert small(weight_decay=1e-3).method == "l2"
    assert small(SMALL_VIT).method == "vanilla"
    assert small(weight_decay=1e-3, regular_weight_decay=1e-3).method == "vanilla"
    assert small(regular_weight_decay=1e-3).method == "l2"
    assert small(regulariser="l1", coefficient=1e-4).method == "l1"
    assert student().method == "kd"
    assert small(loss="gce", loss_parameter=0.7, mixup=1, dropout=0.5).method == "gce-mixup-dropout"
    assert small(patience=3).method == "early"
    assert small(mixup=1, patience=3).method == "mixup-early"
    assert small(weight_decay=1e-3, patience=3).method == "l2-early"
    distilled = small(teacher={"rule": "dense", "experiment": small()}, temperature=4, alpha=0.9, patience=3)
    assert distilled.method == "kd-early"
    assert "-kd-dense-early-" in distilled.run_id


@pytest.mark.parametrize(("rule", "patience"), [("early_stopped", None), ("dense", 3), ("sparse", 3)])
def test_an_early_stopped_teacher_and_no_other_was_stopped_early(small, rule, patience):
    teacher = {"rule": rule, "experiment": small(patience=patience)}
    with pytest.raises(ConfigError, match=r"teacher\.experiment\.patience: an early_stopped teacher has one, and no"):
        small(teacher=teacher, temperature=4, alpha=0.9)


def test_the_dense_level_may_have_epochs_of_its_own(small):
    assert [small(dense_epochs=7).epochs_of(level) for level in (0, 1, 4)] == [7, 2, 2]
    assert [small().epochs_of(level) for level in (0, 1)] == [2, 2]


def test_a_configuration_survives_its_json(student):
    exp = student("sparse")
    assert Experiment.parse(exp.model_dump(mode="json")) == exp


@pytest.mark.parametrize("name", sorted(path.stem for path in PROFILES.glob("*.yaml")))
def test_profiles_are_valid_and_state_their_teachers_among_their_own_runs(name):
    experiments = load_profile(name).experiments()
    run_ids = {e.run_id for e in experiments}
    curves = [e.teacher.experiment for e in experiments if e.teacher]
    assert all(curve.run_id in run_ids for curve in curves)


def test_an_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"profile: there is no 'digit'; known are .*digits.*smoke"):
        load_profile("digit")


PROFILE = """
profile: mine
about: x
tour: {arch: mlp, noise_rate: 0.3}
base: {}
architectures:
  mlp: {settings: {}, seeds: 1, noise_rates: [0.3]}
"""


LIKE = "profile: mine\nabout: x\nlike: first\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Profiles of its own: first, and second, which is like it but for its number of levels."""
    monkeypatch.setattr("sdd_utils.profiles.PROFILES", tmp_path)
    monkeypatch.setattr("sdd_utils.profiles.ROOT", tmp_path)
    first = PROFILE.replace("base: {}", "base: {levels: 3, prune_share: 0.36}").replace(
        "settings: {}", "settings: {lr: 0.1}"
    )
    (tmp_path / "first.yaml").write_text(first.replace("profile: mine", "profile: first"))
    (tmp_path / "second.yaml").write_text("profile: second\nabout: y\nlike: first\nbase: {levels: 7}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Input should be a valid dictionary"),
        ("profile: [", "not YAML"),
        (PROFILE.replace("profile: mine", "profile: other"), "is 'other', but the file is called 'mine'"),
        (PROFILE + "archs: {}\n", "archs: unknown field"),
        (PROFILE.replace("arch: mlp", "arch: vit"), "must be the arch and noise_rate of a vanilla curve"),
        (PROFILE.replace("noise_rate: 0.3", "noise_rate: 0.2"), "tour: {'arch': 'mlp', 'noise_rate': 0.2} must be"),
        (PROFILE.replace("base: {}", "base: {seed: 1}"), "base.seed: is set by the grid, and cannot be set here"),
        ("profile: mine\nlike: yours\n", "like: there is no 'yours'; known are first, mine, second"),
        ("profile: mine\nlike: [first]\n", "like: there is no ['first']; known are"),
        ("profile: mine\nlike: second\n", "like: second is itself like first; name one that is not"),
        ("profile: mine\nlike: mine\n", "like: mine is itself like mine"),
        (LIKE + "base: []\n", "base: input should be a valid dictionary (got [])"),
        (LIKE + "base: {lr: 1.0}\n", "base.lr: architectures.mlp.settings of first sets it, and"),
        ("profile: mine\nlike: first\n", "about: input should be a valid string"),
        ("about: x\nlike: first\n", "profile: input should be a valid string"),
    ],
)
def test_wrong_profiles_are_refused_with_the_file(folder, text, message):
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml: ") as error:
        load_profile("mine")
    assert message in str(error.value)


def test_a_profile_may_be_like_another_but_for_what_stands_in_it(folder):
    first, second = load_profile("first"), load_profile("second")
    assert second.base == {"levels": 7, "prune_share": 0.36}
    assert (second.about, second.tour, second.architectures) == ("y", first.tour, first.architectures)
    (folder / "mine.yaml").write_text(f"{PROFILE.replace('base: {}', 'base: {lr: 0.2}')}like: first\n")
    assert load_profile("mine").base == first.base | {"lr": 0.2}  # where an architecture says nothing of it
    assert load_profile("mine").architectures["mlp"].settings == {}
    (folder / "mine.yaml").write_text(f"{LIKE}base: {{levels: null, amp: null}}\n")  # the default again
    assert load_profile("mine").base == {"prune_share": 0.36}
    (folder / "mine.yaml").write_text(LIKE)
    (folder / "first.yaml").write_text(f"{PROFILE}archs: {{}}\n")
    with pytest.raises(ConfigError, match=r"first\.yaml: archs: unknown field"):
        load_profile("mine")


def test_settings_that_are_listed_are_a_curve_each():
    plan = load_profile("digits-remedies").architectures["mlp"]
    differences = [{"patience": 3}, {"mixup": 1.0}]
    students = {**plan.distillation[0].model_dump(), "settings": [{}, {"dropout": 0.5}]}
    settings = {"variants": {"noise_rates": [0.3], "settings": differences}, "distillation": students, "seeds": 1}
    profile = load_profile("digits-remedies").model_dump(exclude_defaults=True)
    profile["architectures"] = {"mlp": plan.model_dump() | settings}
    found = Profile.parse(profile, "").experiments()
    assert [exp.method for exp in found] == ["vanilla", "early", "mixup", "kd", "kd-dropout"]
    settings["variants"] = [{"noise_rates": [0.3], "settings": one} for one in differences]
    profile["architectures"] = {"mlp": plan.model_dump() | settings}
    assert Profile.parse(profile, "").experiments() == found
    settings["variants"][1]["settings"] = []
    profile["architectures"] = {"mlp": plan.model_dump() | settings}
    with pytest.raises(ConfigError, match=r"architectures\.mlp\.variants\.1\.settings: "):
        Profile.parse(profile, "")


def test_a_wrong_setting_in_a_profile_names_file_architecture_and_field():
    profile = load_profile("smoke")
    mlp = profile.architectures["mlp"]
    broken = profile.model_copy(update={"base": profile.base | {"levels": -1}, "architectures": {"mlp": mlp}})
    with pytest.raises(ConfigError, match=r"^smoke: architectures\.mlp: levels: "):
        broken.experiments()


def test_an_experiment_that_is_described_twice_is_refused():
    profile = load_profile("smoke")
    mlp = profile.architectures["mlp"].model_copy(update={"noise_rates": [0.3, 0.3]})
    with pytest.raises(ConfigError, match="is described twice"):
        profile.model_copy(update={"architectures": {"mlp": mlp}}).experiments()


# Of the ResNet-18, of which there is one seed
OF_ANOTHER = Distillation.parse(
    {"teacher_arch": "resnet18", "noise_rates": [0.3], "teachers": ["dense"], "temperatures": [2.0], "alphas": [0.8]}
)


@pytest.mark.parametrize(
    ("arch", "without", "said"),
    [
        ("vit", {"variants": []}, "variants: none is early stopping alone, a patience, and early_stopped"),
        (
            "vit",
            {"variants": [Variant(noise_rates=[0.3], settings=[{"patience": 5, "mixup": 1.0}])]},
            "variants: none is early stopping alone",
        ),
        (
            "mlp",
            {"distillation": [OF_ANOTHER]},
            "digits-resnet18.*-s1-.*, the dense teacher of .*, is not in the profile",
        ),
        ("mlp", {"noise_rates": []}, "noise_rates: no curve at ε = 0.3 is vanilla, to compare 'l2' with"),
    ],
)
def test_a_student_whose_teacher_is_no_curve_of_the_profile_is_refused(arch, without, said):
    """Else nobody could say what the teacher is, or what it cost."""
    profile = load_profile("smoke")
    plan = profile.architectures[arch].model_copy(update=without)
    said = rf"^smoke: architectures\.{arch}: {said}"
    with pytest.raises(ConfigError, match=said):
        profile.model_copy(update={"architectures": profile.architectures | {arch: plan}}).experiments()


def test_a_profile_may_pick_its_sparse_teachers_on_the_test_set():
    usual, by_test = (load_profile("smoke").model_copy(update={"selection": s}) for s in ("validation", "test"))
    changed = [exp for exp in by_test.experiments() if exp.run_id not in {e.run_id for e in usual.experiments()}]
    assert {(exp.selection, exp.teacher.rule) for exp in changed} == {("test", "sparse")}
    assert len(changed) == sum(exp.teacher is not None and exp.teacher.rule == "sparse" for exp in usual.experiments())


def test_several_datasets_give_every_curve_once_for_each():
    found = load_profile("paper").experiments()
    by_dataset = {name: [exp for exp in found if exp.dataset == name] for name in ("cifar10", "cifar100", "cifar100n")}
    assert [len(part) for part in by_dataset.values()] == [135, 135, 45]  # 3 noise rates twice, people's once
    assert {(exp.noise_kind, exp.noise_rate) for exp in by_dataset["cifar100n"]} == {("human", 0.402)}


def test_a_student_may_have_a_teacher_of_another_architecture():
    students = [exp for exp in load_profile("paper").experiments() if exp.arch == "vgg_like" and exp.teacher]
    assert {exp.teacher.experiment.arch for exp in students} == {"resnet18"}
    known = {exp.run_id for exp in load_profile("paper").experiments()}
    assert {exp.teacher.experiment.run_id for exp in students} <= known
