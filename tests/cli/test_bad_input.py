"""What a person can get wrong, and the one line that tells them: through the command line, with exit status 2."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import SMALL, SMALL_VIT
from inject import forge
from safetensors.torch import load_file

from scripts.figures import figures_command
from sdd_utils.cli.commands import cli, main
from sdd_utils.config import Experiment
from sdd_utils.datasets import DATASETS
from sdd_utils.profiles import load_profile
from sdd_utils.runner import integrity
from sdd_utils.runner.run import run_experiment
from sdd_utils.tables import REFERENCE

MLP = {key: list(v) if isinstance(v, tuple) else v for key, v in SMALL.items() if key not in ("arch", "noise_rate")}
VIT = {key: value for key, value in SMALL_VIT.items() if key not in ("arch", "noise_rate")}
PLAN = {"seeds": 1, "noise_rates": [0.3]}
STUDENTS = {"noise_rates": [0.3], "teachers": ["dense"], "temperatures": [4], "alphas": [0.9]}
SPARSE = STUDENTS | {"teachers": ["sparse"]}


def profile(arch="mlp", settings=MLP, **plan):
    return {
        "profile": "mine",
        "about": "x",
        "tour": {"arch": arch, "noise_rate": 0.3},
        "base": {},
        "architectures": {arch: {"settings": settings} | PLAN | plan},
    }


@pytest.fixture
def say(home, monkeypatch, capsys):
    """Run the command line in an empty place; gives what it printed to stderr, having checked that it was refused."""
    (home / "runs").mkdir()
    write_profile(home, profile())

    def run(*arguments: str, command=cli) -> str:
        monkeypatch.setattr("sys.argv", ["sdd_utils", *arguments])
        with pytest.raises(SystemExit) as end:
            main(command)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert end.value.code == 2
        assert len(said) == 1
        return said[0].removeprefix("error: ")

    return run


def write_profile(tmp_path, content):
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (tmp_path / "profiles" / "mine.yaml").write_text(text)


def mine(tmp_path, *more):
    return ("run", "--profile", "mine", "--results", str(tmp_path / "runs"), *more)


HUMAN = {"dataset": "cifar10n", "noise_kind": "human", "human_labels": "worse_label"}
SETTINGS = [
    ({"epochs": 0}, "epochs: input should be greater than or equal to 1 (got 0)"),
    ({"epochs": 2.5}, "epochs: input should be a valid integer (got 2.5)"),
    ({"epochs": "many"}, "epochs: input should be a valid integer (got 'many')"),
    ({"epochs": None}, "epochs: input should be a valid integer (got None)"),
    ({"batch_size": -5}, "batch_size: input should be greater than or equal to 1 (got -5)"),
    ({"width": 0}, "width: input should be greater than or equal to 1 (got 0)"),
    ({"levels": -1}, "levels: input should be greater than or equal to 0 (got -1)"),
    ({"prune_share": 0}, "prune_share: input should be greater than 0 (got 0)"),
    ({"prune_share": 1}, "prune_share: input should be less than 1 (got 1)"),
    ({"val_share": 1}, "val_share: input should be less than 1 (got 1)"),
    ({"val_share": 0}, "val_share: input should be greater than 0 (got 0)"),
    ({"lr": 0}, "lr: input should be greater than 0 (got 0)"),
    ({"lr": float("inf")}, "lr: input should be a finite number (got inf)"),
    ({"lr": [0.1]}, "lr: input should be a valid number (got [0.1])"),
    ({"weight_decay": -1e-4}, "weight_decay: input should be greater than or equal to 0 (got -0.0001)"),
    ({"momentum": 1}, "momentum: input should be less than 1 (got 1)"),
    ({"momentum": None}, "momentum: missing; it must be given when optimizer is sgd"),
    ({"milestones": [0.75, 0.5]}, "milestones: [0.75, 0.5] must increase"),
    ({"milestones": [0]}, "milestones.0: input should be greater than 0 (got 0)"),
    ({"optimizer": "adam"}, "optimizer: input should be 'sgd' or 'adamw' (got 'adam')"),
    ({"optimizer": "adamw"}, "momentum: given, but it means something only when optimizer is sgd"),
    (
        {"dataset": "stl10"},
        f"dataset: should be one of {', '.join(DATASETS)}; others",
    ),
    (
        {"noise_kind": "pairflip"},
        "noise_kind: should be one of symmetric, pair_flip, asymmetric, human; others are added in sdd_utils/data",
    ),
    (
        {"criterion": "luck"},
        "criterion: should be one of magnitude, gradient, random; others are added in sdd_utils/pruning.py",
    ),
    ({"regulariser": "l3"}, "regulariser: should be one of l1; others are added in sdd_utils/training.py"),
    ({"regulariser": "l1"}, "coefficient: missing; it must be given when there is a regulariser"),
    ({"retrain": "finetune"}, "retrain: input should be 'lr', 'init' or 'random' (got 'finetune')"),
    ({"crop_padding": -1}, "crop_padding: input should be greater than or equal to 0 (got -1)"),
    ({"flip": "maybe"}, "flip: input should be a valid boolean (got 'maybe')"),
    ({"selection": "test"}, "selection: test means something only when the teacher is sparse"),
    ({"selection": "train"}, "selection: input should be 'validation' or 'test' (got 'train')"),
    ({"vit": {}}, "vit: given, but it means something only when arch is vit"),
    ({"temperature": 4}, "temperature: given, but it means something only when there is a teacher"),
    ({"alpha": 0.5}, "alpha: given, but it means something only when there is a teacher"),
    ({"dataset": "cifar10n"}, "noise_kind: must be human for cifar10n"),
    ({"noise_kind": "human"}, "human_labels: missing; it must be given when noise_kind is human"),
    ({"human_labels": "worse_label"}, "human_labels: given, but it means something only when noise_kind is human"),
    (
        HUMAN | {"dataset": "digits"},
        "noise_kind: human means nothing for digits; cifar10n and cifar100n and cifar100n_coarse alone have human "
        "labels",
    ),
    (HUMAN | {"human_labels": "best"}, "human_labels: cifar10n has worse_label, aggre_label, random_label1"),
    (HUMAN, "noise_rate: must be 0.4021 for worse_label, the share that people got wrong"),
    ({"train_subset": 1001}, "train_subset: 1001 images are more than the 1000 of digits"),
    ({"test_subset": 0}, "test_subset: input should be greater than or equal to 1 (got 0)"),
    ({"amp": "bf16"}, "amp: input should be a valid boolean (got 'bf16')"),
    ({"learning_rate": 0.1}, "learning_rate: unknown field; the fields are seed, dataset, image_size, train_subset"),
    # Numbers that no memory, no clock or no floating-point number has room for
    ({"levels": 1001}, "levels: input should be less than or equal to 1000 (got 1001)"),
    ({"epochs": 10**9}, "epochs: input should be less than or equal to 1000000 (got 1000000000)"),
    ({"patience": 10**17}, "patience: input should be less than or equal to 1000000 (got 100000000000000000)"),
    (
        {"batch_size": 1e300},
        "batch_size: input should be a valid integer (got 1e+300)",
    ),
    ({"crop_padding": 10**9}, "crop_padding: input should be less than or equal to 32 (got 1000000000)"),
    ({"vit": {"depth": 10**6}}, "vit.depth: input should be less than or equal to 1000 (got 1000000)"),
    ({"temperature": 1e308}, "temperature: input should be less than or equal to 1000000 (got 1e+308)"),
    ({"lr": "1e400"}, "lr: input should be a finite number (got inf)"),
    (
        {"dataset": "x" * 5000},
        f"dataset: should be one of {', '.join(DATASETS)}; others ",
    ),
    # Truth values, which Python takes for 0 and 1
    ({"epochs": True}, "epochs: input should be a valid integer (got True)"),
    ({"levels": False}, "levels: input should be a valid integer (got False)"),
    ({"lr": True}, "lr: input should be a valid number (got True)"),
    ({"milestones": [True]}, "milestones.0: input should be a valid number (got True)"),
]


@pytest.mark.parametrize(("change", "message"), SETTINGS)
def test_settings(say, tmp_path, change, message):
    write_profile(tmp_path, profile(settings=MLP | change))
    assert say(*mine(tmp_path)).startswith(f"mine: architectures.mlp: {message}")


GRID = [
    (profile(noise_rates=[0.3, 1.0]), "architectures.mlp.noise_rates.1: input should be less than 1 (got 1.0)"),
    (
        profile(noise_rates=[0.3, -0.1]),
        "architectures.mlp.noise_rates.1: input should be greater than or equal to 0 (got -0.1)",
    ),
    (profile(noise_rates=[0.3, 0.3]), "digits-mlp16-sym0.3-vanilla-wd0.0001-s0-"),
    (
        profile(noise_rates=[0.2]),
        "tour: {'arch': 'mlp', 'noise_rate': 0.3} must be the arch and noise_rate of a vanilla",
    ),
    (profile(noise_rates="all"), "architectures.mlp.noise_rates: input should be a valid list (got 'all')"),
    (profile(seeds=0), "architectures.mlp.seeds: input should be greater than or equal to 1 (got 0)"),
    (profile(seed=1), "architectures.mlp.seed: unknown field"),
    (profile(l2={"noise_rates": [0.3]}), "architectures.mlp.l2.weight_decays: missing; it has no default"),
    (profile(l2={"noise_rates": [0.3], "weight_decays": [1e-4]}), "is described twice"),
    (
        profile(distillation=STUDENTS | {"teachers": ["big"]}),
        "distillation.0.teachers.0: should be one of sparse, dense, early_stopped; others are "
        "added in sdd_utils/distillation.py, TEACHERS (got 'big')",
    ),
    (profile(distillation=STUDENTS | {"alphas": [2]}), "alpha: input should be less than or equal to 1 (got 2.0)"),
    (profile(distillation=STUDENTS | {"temperatures": [0]}), "temperature: input should be greater than 0 (got 0.0)"),
    (
        profile(distillation=[STUDENTS, STUDENTS | {"temperatures": [2]}]),
        "mine: architectures.mlp: two kinds of students (kd) of the dense teacher at ε = 0.3; give one a profile",
    ),
    (profile() | {"selection": "train"}, "selection: input should be 'validation' or 'test' (got 'train')"),
    (
        profile(settings=MLP | {"levels": 0}, distillation=SPARSE),
        "sparse needs a teacher exp",
    ),
    (
        profile(settings=MLP | {"seed": 3}),
        "architectures.mlp.settings.seed: is set by the grid, and cannot be set here",
    ),
    (
        profile("resnet19"),
        "architectures.resnet19: should be one of mlp, lenet, resnet18, vit, vgg_like; others are added in sdd_u",
    ),
    (profile("vit", {k: v for k, v in VIT.items() if k != "vit"}), "vit: missing; it must be given when arch is vit"),
    (profile("vit", VIT | {"width": 15}), "width: 15 is not divisible by vit.heads = 2"),
    (
        profile("vit", VIT | {"vit": VIT["vit"] | {"patch": 3}}),
        "vit.patch: 3 does not divide digits's 8 pixels a side",
    ),
    (profile("vit", VIT | {"vit": {"patches": 4}}), "vit.patches: unknown field"),
    (profile() | {"profile": "other"}, "profiles/mine.yaml: profile: is 'other', but the file is called 'mine'"),
    (profile() | {"profile": "../mine"}, "profiles/mine.yaml: profile: string should match pattern"),
    (
        profile() | {"datasets": {"stl10": {}}},
        "mine: architectures.mlp: dataset: should be one of digits, mnist, fashion_mnist, svhn, cifar10,",
    ),
    (
        profile() | {"datasets": {"digits": {"rates": [0.1]}}},
        "profiles/mine.yaml: datasets.digits.rates: unknown field",
    ),
    (
        profile() | {"datasets": {"digits": {}}, "base": {"dataset": "digits"}},
        "base.dataset: is set by the grid, and cannot be set here",
    ),
    (profile() | {"archs": {}}, "profiles/mine.yaml: archs: unknown field; the fields are profile, about, tour"),
    ({k: v for k, v in profile().items() if k != "base"}, "profiles/mine.yaml: base: missing; it has no default"),
    (profile() | {"base": [1]}, "profiles/mine.yaml: base: input should be a valid dictionary (got [1])"),
    ("", "profiles/mine.yaml: Input should be a valid dictionary"),
    ("- mine", "profiles/mine.yaml: Input should be a valid dictionary"),
    ("profile: [", "profiles/mine.yaml: not YAML: while parsing"),
    (
        "profile: !!python/object/apply:os.system [true]",
        "profiles/mine.yaml: not YAML: could not determine a constructor",
    ),
    ("profile: mine\nprofile: yours", "profiles/mine.yaml: not YAML: profile is there twice, in line 1 and after"),
]


def is_refused(say, tmp_path, content, message):
    """By name, before anything is trained."""
    write_profile(tmp_path, content)
    assert message in say(*mine(tmp_path))
    assert not any((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(("content", "message"), GRID)
def test_profiles(say, tmp_path, content, message):
    is_refused(say, tmp_path, content, message)


TEXT = yaml.safe_dump(profile())
PLAIN = "should be true, false, a decimal number of at most 18 digits, or in quotes"
YAML = [  # what stands there to a person is not what YAML makes of it
    ("epochs: 2", "epochs: 010", f"architectures.mlp.settings.epochs: {PLAIN} (got 010)"),
    ("epochs: 2", "epochs: yes", f"architectures.mlp.settings.epochs: {PLAIN} (got yes)"),
    ("epochs: 2", "epochs: 1:30", f"architectures.mlp.settings.epochs: {PLAIN} (got 1:30)"),
    ("epochs: 2", "epochs: 1_0", f"architectures.mlp.settings.epochs: {PLAIN} (got 1_0)"),
    ("epochs: 2", f"epochs: 0x{'f' * 4000}", f"architectures.mlp.settings.epochs: {PLAIN} (got 0x{'f' * 38})"),
    ("levels: 4", f"levels: 1{'0' * 400}", f"architectures.mlp.settings.levels: {PLAIN} (got 1{'0' * 39})"),
    ("levels: 4", f"levels: {'9' * 5000}", f"architectures.mlp.settings.levels: {PLAIN} (got {'9' * 40})"),
    ("lr: 0.1", "lr: 1_0.5", f"architectures.mlp.settings.lr: {PLAIN} (got 1_0.5)"),
    ("lr: 0.1", "lr: 1:30.5", f"architectures.mlp.settings.lr: {PLAIN} (got 1:30.5)"),
    ("- 0.3", "- 0o3", "architectures.mlp.noise_rates.0: input should be a valid number (got '0o3')"),
    ("lr: 0.1", "lr: 010e1", "architectures.mlp: lr: input should be a valid number (got '010e1')"),
    ("lr: 0.1", "lr: 1e٣", "architectures.mlp: lr: input should be a valid number (got '1e٣')"),
    # In quotes, where YAML has no say, and pydantic would read them its own way
    ("width: 16", "width: '010'", "architectures.mlp: width: input should be a valid integer (got '010')"),
    ("width: 16", "width: '1_6'", "architectures.mlp: width: input should be a valid integer (got '1_6')"),
    ("lr: 0.1", "lr: '0x1'", "architectures.mlp: lr: input should be a valid number (got '0x1')"),
    ("base: {}", "base: {flip: 'yes'}", "flip: input should be a valid boolean (got 'yes')"),
    ("base: {}", "base: {amp: 1}", "amp: input should be a valid boolean (got 1)"),
    ("about: x", "about: !!timestamp 'x'", "profiles/mine.yaml: not YAML: "),
    ("- 0.3", "- 00", f"architectures.mlp.noise_rates: {PLAIN} (got 00)"),
    ("about: x", "about: no", f"about: {PLAIN} (got no)"),
    ("about: x", "about: 2024-01-01", "about: input should be a valid string (got datetime.date(2024, 1, 1))"),
    ("base: {}", 'base: {"\\e[2J": 1}', "mine: architectures.mlp: \\x1b[2J: unknown field"),
    ("base: {}", "base: {on: 1}", f"{PLAIN} (got on)"),
    # Lists that lead back to themselves, or too deep
    ("base: {}", "base: &a {patience: *a}", "patience: input should be a valid integer (got {'patience': {"),
    ("base: {}", f"base: {'[' * 3000}", "not YAML: maximum recursion depth exceeded"),
    ("seeds: 1", "seeds: 10000000", "seeds: input should be less than or equal to 1000000 (got 10000000)"),
    (
        "seeds: 1",
        "seeds: 1000000",
        "mine: architectures.mlp: seeds: 1000000, times its lists, make more than 10000 runs",
    ),
]


@pytest.mark.parametrize(("written", "instead", "message"), YAML, ids=[f"{m[:30]}-{i[:20]}" for _, i, m in YAML])
def test_yaml_that_is_not_what_it_seems(say, tmp_path, written, instead, message):
    assert written in TEXT
    write_profile(tmp_path, TEXT.replace(written, instead))
    assert message in say(*mine(tmp_path))


@pytest.mark.parametrize("written", ["1e-1", "1E-1", "1.0e-1", "+.1e0", "0.01e1"])
def test_powers_of_ten_are_numbers(say, tmp_path, written):
    write_profile(tmp_path, TEXT.replace("lr: 0.1", f"lr: {written}"))
    assert {exp.lr for exp in load_profile("mine").experiments()} == {0.1}


def test_lists_whose_product_is_too_large(say, tmp_path):
    shares = [n / 1000 for n in range(100, 900)]
    write_profile(tmp_path, profile(l2={"noise_rates": shares, "weight_decays": shares}))
    assert "mine: architectures.mlp: seeds: 1, times its lists, make more than 10000 runs; give fewer" in say(
        *mine(tmp_path)
    )


NOTHING = [
    (profile(settings=MLP | {"val_share": 0.0001}), "val_share: 0.0001 of 1000 images leaves none for validation"),
    (profile(settings=MLP | {"val_share": 0.9999}), "val_share: 0.9999 of 1000 images leaves none for training"),
    (profile(settings=MLP | {"train_subset": 1}), "val_share: 0.2 of 1 images leaves none for validation"),
    (profile(settings=MLP | {"train_subset": 2}), "val_share: 0.2 of 2 images leaves none for validation"),
    (profile(noise_rates=[0.3, 0.0001]), "noise_rate: 0.0001 of 800 training images is not one wrong label"),
    (profile(noise_rates=[0.3, 0.001]), "noise_rate: 0.001 of 200 validation images is not one wrong label"),
    (profile("resnet18", MLP | {"batch_size": 1}), "batch_size: of 1, one of 800 images would be a batch of its own"),
    (
        profile() | {"datasets": {"digits": {"noise_rates": []}}},
        "datasets.digits.noise_rates: list should have at least",
    ),
    (profile(settings=MLP | {"weight_decay": 1e-3}), "λ = 0.001 regular? Then give it as regular_weight"),
    (
        profile(settings=MLP | {"patience": 3}),
        "architectures.mlp: noise_rates: no curve at ε = 0.3 is vanilla, to compare 'early' with",
    ),
    (
        profile(l2={"noise_rates": [0.1], "weight_decays": [0.02]}),
        "architectures.mlp: noise_rates: no curve at ε = 0.1 is vanilla, to compare 'l2' with",
    ),
    (
        profile(variants={"noise_rates": [0.3], "settings": {"patience": 1, "levels": 2}}),
        "mlp: levels: is 2 in 'early' curves, and 4 in the vanilla ones beside them; give one a profile of its own",
    ),
    (
        profile(distillation=STUDENTS | {"settings": {"prune_share": 0.5}}),
        "mlp: prune_share: is 0.5 in 'kd' curves, and 0.2 in the vanilla ones beside them",
    ),
    (
        profile(variants={"noise_rates": [0.3], "settings": [{"mixup": 1.0}, {"mixup": 1.0, "weight_decay": 0.02}]}),
        "mlp: two mixup curves at ε = 0.3; give one a profile of its own",
    ),
    (
        profile(distillation=STUDENTS | {"temperatures": [2, 4], "settings": [{}, {"epochs": 3}]}),
        "two kinds of students (kd) of the dense teacher at ε = 0.3, τ = 2, α = 0.9; give one a profile of its own",
    ),
    (
        profile(variants={"noise_rates": [0.3], "settings": {1: 2}}),
        "variants.0.settings.0.1: input should be a valid string (got 1)",
    ),
    (profile(noise_rates=[0.3, 0.9]), "noise_rate: 0.9 hides which label is right; give less than 0.9"),
    (
        profile(settings=MLP | {"noise_kind": "pair_flip"}, noise_rates=[0.3, 0.5]),
        "noise_rate: 0.5 hides which label is right; give less than 0.5",
    ),
    (profile("lenet", MLP | {"width": 2}), "architectures.lenet: width: 2 is too narrow for lenet, which needs 3"),
    (profile("vgg_like", MLP | {"batch_size": 47}), "batch_size: of 47, one of 800 images would be a batch of its own"),
    (profile("resnet18", MLP | {"batch_size": 17}), "batch_size: of 17, one of 800 images would be a batch of its own"),
    (profile(distillation=STUDENTS | {"temperatures": []}), "distillation.0.temperatures: list should have at least 1"),
    (profile(l2={"noise_rates": [], "weight_decays": [1]}), "l2.noise_rates: list should have at least 1 item"),
]


@pytest.mark.parametrize(("content", "message"), NOTHING)
def test_settings_that_are_valid_each_alone_and_come_to_nothing_together(say, tmp_path, content, message):
    """No image, no wrong label, no unit, no run."""
    is_refused(say, tmp_path, content, message)


OVERRULED = [
    (profile(variants=[{"noise_rates": [0.3], "settings": {"seed": 3}}]), "architectures.mlp.variants.0.settings.seed"),
    (profile(variants=[{"noise_rates": [0.3], "settings": {"arch": "vit"}}]), "mlp.variants.0.settings.arch"),
    (profile(variants=[{"noise_rates": [0.3], "settings": {"noise_rate": 0.1}}]), "variants.0.settings.noise_rate"),
    (profile(distillation=STUDENTS | {"settings": {"temperature": 3}}), "distillation.0.settings.temperature"),
    (profile(distillation=STUDENTS | {"settings": {"teacher": {}}}), "mlp.distillation.0.settings.teacher"),
    (profile() | {"datasets": {"digits": {"settings": {"seed": 3}}}}, "datasets.digits.settings.seed"),
    (profile() | {"datasets": {"digits": {"settings": {"dataset": "mnist"}}}}, "datasets.digits.settings.dataset"),
    (profile() | {"base": {"arch": "vit"}}, "base.arch"),
]


@pytest.mark.parametrize(("content", "field"), OVERRULED, ids=[field for _, field in OVERRULED])
def test_settings_that_the_grid_would_overrule_wherever_they_stand(say, tmp_path, content, field):
    is_refused(say, tmp_path, content, f"{field}: is set by the grid, and cannot be set here")


ALIKE = [
    (profile(noise_rates=[0.3, 0.3000000001]), "noise_rate: should have six significant digits at most"),
    (profile(settings=MLP | {"weight_decay": 1.0000000001e-4}), "weight_decay: should have six significant digits"),
    (profile(l2={"noise_rates": [0.3], "weight_decays": [1e-3, 1.00000001e-3]}), "weight_decay: should have six"),
    (profile(distillation=STUDENTS | {"alphas": [0.9, 0.90000001]}), "alpha: should have six significant digits"),
    (profile(distillation=STUDENTS | {"temperatures": [4, 4.0000001]}), "temperature: should have six significant"),
]


@pytest.mark.parametrize(("content", "message"), ALIKE)
def test_numbers_that_are_two_in_a_profile_and_one_in_its_tables(say, tmp_path, content, message):
    is_refused(say, tmp_path, content, message)


OPTIONS = [
    (("run", "--profile", "nine"), "profile: there is no 'nine'; known are mine (in profiles)"),
    (("run", "--profile", "../mine"), "profile: there is no '../mine'; known are mine"),
    (("claims", "--profile", "nine"), "profile: there is no 'nine'; known are mine"),
    (("status", "--profile", "nine"), "profile: there is no 'nine'; known are mine"),
    (("run", "--profile", "mine", "--only", "arch=vit"), "only: no run has arch=vit; there are mlp"),
    (
        ("run", "--profile", "mine", "--only", "kd"),
        "only: 'kd' is not field=value; the fields are arch, dataset, method",
    ),
    (
        ("run", "--profile", "mine", "--only", "size=3"),
        "only: 'size=3' is not field=value; the fields are arch, dataset, method",
    ),
    (
        ("run", "--profile", "mine", "--workers", "0"),
        "Invalid value for '--workers': 0 is not in the range 1<=x<=1000.",
    ),
    (
        ("run", "--profile", "mine", "--time-budget", "9"),
        "time-budget: '9' is not a duration such as 90s, 9m, 1h30m or 2d",
    ),
    (("run", "--profile", "mine", "--time-budget", "0m"), "time-budget: '0m' must be more than 0"),
    (("run", "--profile", "mine", "--time-budget", "-9m"), "time-budget: '-9m' must be more than 0"),
    (("run", "--profile", "mine", "--device", "cuda:9"), "device: 'cuda:9' cannot be used ("),
    (("run", "--profile", "mine", "--device", "tpu"), "device: 'tpu' cannot be used ("),
    (("run", "--profil", "mine"), "No such option '--profil'."),
    (("runn",), "No such command 'runn'."),
    (("status", "--profile", "mine", "--results", "/nowhere"), "results: there is no folder /nowhere"),
    (("verify", "--profile", "mine", "--results", "/nowhere"), "results: there is no folder /nowhere"),
    (("export", "--profile", "mine", "--results", "/nowhere"), "results: there is no folder /nowhere"),
    (("run", "--profile", "mine", "--workers", "9" * 400), f"{'9' * 400} is not in the range 1<=x<=1000."),
    (("run", "--profile", "mine", "--only", "noise_rate=0.31"), "only: no run has noise_rate=0.31; there are 0.3"),
    (("run", "--profile", "mine", "--time-budget", "1e400d"), "time-budget: '1e400d' is not a duration such as 90s"),
    # An empty variable, which would mean the working directory
    (("run", "--profile", "mine", "--results", ""), "Invalid value for '--results': it is empty"),
    (("data", "--dataset", "digits", "--root", ""), "Invalid value for '--root': it is empty"),
    (
        ("export", "--profile", "mine", "--out", "/nowhere/a.csv"),
        "out: /nowhere/a.csv is not a file that can be written",
    ),
    (("export", "--profile", "mine", "--out", "/"), "out: / is not a file that can be written; is its folder there?"),
    (("export", "--profile", "mine", "--out", ""), "Invalid value for '--out': it is empty"),
    # Control characters, which a terminal obeys
    (("status", "--profile", "mine", "--results", "/nowhere\x1b[2J"), "results: there is no folder /nowhere\\x1b[2J"),
    (("status", "--profile", "mine\x07"), "profile: there is no 'mine\\x07'"),
    (("status", "--profile", "mine", "--results", "/\u202e\udcff"), "results: there is no folder /\\u202e\\udcff"),
    (("\x1b]0;title",), "No such command '\\x1b]0;title'."),
    (("run", "--profile", "mine", "--results", "/proc/sdd"), "results: /proc/sdd/mine cannot be written ("),
    (
        ("run", "--profile", "mine", "--results", "/dev/null"),
        "results: /dev/null/mine cannot be written (Not a directory)",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), OPTIONS)
def test_options(say, arguments, message):
    assert message in say(*arguments)


@pytest.mark.parametrize("command", ["status", "export"])
def test_the_home_folder_is_known_by_its_sign(say, tmp_path, monkeypatch, command):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert say(command, "--profile", "mine", "--results=~/out") == f"results: there is no folder {tmp_path}/out"


def test_an_environment_that_means_no_number(say, tmp_path, monkeypatch):
    monkeypatch.setenv("SDD_LOG_SECONDS", "often")
    assert say(*mine(tmp_path)) == "SDD_LOG_SECONDS: should be a number of seconds (got 'often')"


MEMORY = {
    "of Python": lambda: bytes(10**15),
    "of numpy": lambda: np.empty(10**15),
    "of torch": lambda: torch.empty(10**15),
}


@pytest.mark.parametrize("where", ["in a run", "in a command"])
@pytest.mark.parametrize("kind", MEMORY)
def test_too_little_memory_is_said_in_one_line(say, tmp_path, monkeypatch, where, kind):
    place = "sdd_utils.runner.run.load" if where == "in a run" else "sdd_utils.runner.sweep.check_data"
    monkeypatch.setattr(place, lambda *_: MEMORY[kind]())
    said = say(*mine(tmp_path))
    assert re.search(r"there is too little memory( for another [\d.]+ \w+)?; fewer --workers, a smaller width or", said)


def test_results_that_are_not_there(say, tmp_path):
    where = ("--profile", "mine", "--results", str(tmp_path / "runs"))
    assert say("claims", *where).startswith("1 of 1 runs of mine are not finished (digits-mlp16-sym0.3-vanilla-")
    assert say("verify", *where) == f"no run of mine is finished in {tmp_path}/runs/mine; run the profile first"
    assert say("export", *where) == f"no level of mine is trained in {tmp_path}/runs/mine; run the profile first"


def test_a_loss_that_is_not_a_number(say, tmp_path):
    write_profile(tmp_path, profile(settings=MLP | {"lr": 1e30}))
    (exp,) = load_profile("mine").experiments()
    said = say(*mine(tmp_path))
    assert said.startswith(f"{exp.run_id}: TrainingDiverged: {exp.run_id}: loss is nan at level 0, epoch ")
    assert ", lr 1e+" in said
    assert pd.read_csv(tmp_path / "runs" / "mine" / exp.run_id / "levels.csv").empty
    assert not (tmp_path / "runs" / "mine" / exp.run_id / "SHA256SUMS").exists()


def rewrite(path, change):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table).to_csv(path, index=False)


TABLES = [
    (lambda t: t.drop(columns="test_acc"), "column test_acc is missing"),
    (lambda t: t.replace({"level": {"2": "two"}}), "level: 'two' in line 4 is not a number"),
    (lambda t: t.assign(val_acc="good"), "val_acc: 'good' in line 2 is not a number"),
    (lambda t: t.assign(test_acc="81.5"), "test_acc: 81.5 in line 2 is not between 0 and 1"),
    (lambda t: t.assign(test_acc=""), "test_acc: is missing in line 2"),
    (lambda t: t.assign(train_loss="inf"), "train_loss: inf in line 2 is not a number"),
    (lambda t: t.assign(remaining_params="9" * 400), "remaining_params: "),
    (lambda t: t.assign(sparsity="0.5"), "sparsity: does not increase from level to level in digits-"),
    (lambda t: t.iloc[::-1], "level: those of digits-"),
    (lambda t: t.drop(index=1), "level: those of digits-"),
]


@pytest.mark.parametrize(("change", "message"), TABLES)
def test_tables_of_the_reference(say, tmp_path, monkeypatch, change, message):
    """In a copy of the committed table, as an editor or a spreadsheet would leave it."""
    table = tmp_path / "reference" / "mine" / "levels.csv"
    table.parent.mkdir(parents=True)
    shutil.copy(REFERENCE / "digits" / "levels.csv", table)
    rewrite(table, lambda t: change(t[t["run_id"] == t["run_id"][0]]))
    monkeypatch.setattr("sdd_utils.tables.REFERENCE", tmp_path / "reference")
    monkeypatch.setattr("scripts.figures.REFERENCE", tmp_path / "reference")
    assert say(command=figures_command).startswith(f"{table}: {message}")


def test_tables_that_are_not_tables(say, tmp_path, monkeypatch):
    table = tmp_path / "reference" / "mine" / "levels.csv"
    table.parent.mkdir(parents=True)
    monkeypatch.setattr("sdd_utils.tables.REFERENCE", tmp_path / "reference")
    monkeypatch.setattr("scripts.figures.REFERENCE", tmp_path / "reference")
    for content in (b"", b'a,b\n1,2\n"', bytes(range(256))):
        table.write_bytes(content)
        assert say(command=figures_command).startswith(f"{table}: is not a CSV table: ")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished run of each of two experiments that differ in their seed."""
    folder = tmp_path_factory.mktemp("trained") / "mine"
    return [run_experiment(exp, folder) for exp in two_experiments()]


def two_experiments():
    return [Experiment.parse(SMALL | {"seed": seed}) for seed in (0, 1)]


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


LAST = "level-04.safetensors"


def of_another_experiment(run, other):
    shutil.copy(other / LAST, run / LAST)


def of_another_architecture(run, _):
    """Its run_id is right and so is its checksum: as good a forgery as can be made."""

    def change(tensors, metadata):
        tensors["vector"] = tensors["vector"][:100].clone()
        metadata["history"] = json.dumps({"rows": [], "histograms": [], "segments": []})

    forge(run / LAST, change)


CHECKPOINTS = {
    "a byte of a weight": (lambda run, _: flip(run / LAST, -100), "differs from its checksum"),
    "a byte of the header": (lambda run, _: flip(run / LAST, 20), "checkpoint"),
    "cut": (lambda run, _: (run / LAST).write_bytes(b"x" * 100), "cannot be read as a checkpoint"),
    "empty": (lambda run, _: (run / LAST).write_bytes(b""), "cannot be read as a checkpoint"),
    "another experiment's": (of_another_experiment, "is a checkpoint of another experiment, digits-mlp16"),
    "another architecture's": (of_another_architecture, "is of another architecture: vector is (100,), not ("),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_are_quarantined_with_the_reason_and_made_again(trained, tmp_path, caplog, case):
    spoil, message = CHECKPOINTS[case]
    exp, (good, other) = two_experiments()[0], trained
    run = tmp_path / "mine" / exp.run_id
    run.mkdir(parents=True)
    shutil.copy(good / LAST, run)
    spoil(run, other)
    run_experiment(exp, tmp_path / "mine")
    assert message in caplog.text
    assert f"renamed to {LAST}.damaged" in caplog.text
    assert (run / f"{LAST}.damaged").exists()
    again, expected = (load_file(r / LAST) for r in (run, good))
    assert all(torch.equal(again[name], expected[name]) for name in expected)


FILES = [
    "levels.csv",
    "weights.csv",
    "config.json",
    "provenance.json",
    "level-00.safetensors",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_damaged_result_is_named_and_never_read(say, trained, tmp_path, name, how):
    shutil.copytree(trained[0].parent, tmp_path / "runs" / "mine")
    run = tmp_path / "runs" / "mine" / trained[0].name
    if how == "missing":
        (run / name).unlink()
        why = "is missing"
    else:
        flip(run / name, 30)
        why = "differs from its checksum in SHA256SUMS"
    said = say("export", "--profile", "mine", "--results", str(tmp_path / "runs"))
    assert said == f"{run / name}: {why}; run the profile again to make it anew"


def test_a_list_of_checksums_that_leads_elsewhere_is_not_followed(say, trained, tmp_path):
    shutil.copytree(trained[0].parent, tmp_path / "runs" / "mine")
    sums = tmp_path / "runs" / "mine" / trained[0].name / "SHA256SUMS"
    sums.write_text(integrity._with_checksum([f"{'0' * 64}  ../../../../etc/passwd"]))
    said = say("export", "--profile", "mine", "--results", str(tmp_path / "runs"))
    assert said.startswith(f"{sums}: ")
    assert "names files outside of its folder" in said
