"""What the README and the rooms' READMEs say is what the committed tables hold."""

import re

import nbformat
import pandas as pd
import pytest
from conftest import answer_of, parameters_of

from scripts.notebooks import NOTEBOOKS
from sdd_utils.analysis import tuning
from sdd_utils.analysis.claims import holm
from sdd_utils.analysis.cost import minus, spent
from sdd_utils.analysis.curves import vanilla, vanilla_settings
from sdd_utils.analysis.dip import curves_of, measure_dip
from sdd_utils.analysis.methods import METHODS, REMEDIES, pipelines
from sdd_utils.analysis.words import ranged
from sdd_utils.files import ROOT
from sdd_utils.profiles import load_profile
from sdd_utils.tables import LEVEL_COLUMNS, REFERENCE, load_levels

README = (ROOT / "README.md").read_text(encoding="utf-8")
CLAIMS = pd.read_csv(REFERENCE / "digits" / "claims.csv")
WAYS = ["sparse", "dense", "early_stopped", "early", "kd-early"]
MARKS = {"holds": "✔", "fails": "✘", "inconclusive": "○", "not applicable": "–"}
ROOMS = ["notebooks/profiles", "results", "sdd_utils", "sdd_utils/runner", "benchmarks"]


def room(name):
    return (ROOT / name / "README.md").read_text(encoding="utf-8")


def cells_of(notebook):
    return nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells


def test_it_is_short():
    assert README.count("\n") <= 150


def shown(claim, way=""):
    """The committed rows of one claim at ε = 0.3, of one way alone if it is named."""
    rows = CLAIMS[(CLAIMS["claim"] == claim) & (CLAIMS["noise_rate"] == 0.3)]
    return rows[rows["pipeline"].isin([way] if way else ["vanilla", "l2"])]


def marks(claim, way=""):
    """The committed verdicts on one claim at ε = 0.3 as README shows them: MLP, ResNet-18, ViT."""
    verdicts = shown(claim, way).set_index("arch")["verdict"]
    return [MARKS[verdicts[arch]] for arch in ("mlp", "resnet18", "vit")]


def measured(claim, way):
    return shown(claim, way)["measured"]


@pytest.mark.parametrize("claim", ["C1", "C2a", "C2b"])
def test_the_table_of_claims_shows_the_committed_verdicts(claim):
    (line,) = [line for line in README.splitlines() if line.startswith(f"| **{claim}**")]
    assert line.endswith(f"| {' | '.join(marks(claim))} |")


@pytest.mark.parametrize("way", WAYS)
def test_the_table_of_remedies_shows_the_committed_verdicts(way):
    (line,) = [line for line in README.splitlines() if re.match(rf"\| {METHODS[way].label}\*? \|", line)]
    numbers = {"C4": f" {ranged(measured('C4', way))}", "C5a": f" {ranged(measured('C5a', way), 2)}"}
    cells = [" ".join(marks(claim, way)) + numbers.get(claim, "") for claim in ("C3", "C4", "C5a", "C5b")]
    assert line.endswith(f"| {' | '.join(cells)} |")


def test_what_it_says_in_short_follows_from_the_verdicts():
    text = " ".join(README.split())
    avoids = {way: marks("C3", way).count("✔") for way in WAYS}
    assert avoids == {"sparse": 1, "dense": 0, "early_stopped": 3, "early": 2, "kd-early": 2}
    assert "A rise is *removed* where surely less than half of it is left" in text
    assert (
        "students of the paper's sparse teacher surely lose the rise in one, at twice the cost of pruning alone" in text
    )
    assert measured("C5a", "sparse").round(1).between(1.9, 2.0).all()
    assert (
        "early do in all three, at about the cost of pruning alone; early stopping without a teacher does in two"
        in text
    )
    judged = {profile: pd.read_csv(REFERENCE / profile / "claims.csv") for profile in ON_PHOTOGRAPHS}
    of_each = pd.concat(judged).drop_duplicates(["claim", "arch", "dataset", "pipeline", "measured"])
    of_each = of_each[of_each["claim"] == "C3"].groupby("pipeline")["verdict"].agg(list)
    counts = {way: f"{of_each[way].count('holds')} of {len(of_each[way])}" for way in WAYS}
    assert f"it is {counts['sparse']} settings, {counts['early_stopped']} and {counts['early']}." in text
    assert "**sparse teacher** removes it in one network of three (in one as well if picked on the test images)" in text
    assert "in MNIST's, and in 6 of the 9 varied settings of the digits in which vanilla rises" in text
    assert "sparse teacher in 6 of 9" in answer_of(cells_of("11_variations"))
    on_test = pd.read_csv(REFERENCE / "digits-selection" / "claims.csv").query("claim == 'C3'")["verdict"]
    assert (on_test == "holds").sum() == avoids["sparse"]
    levels = load_levels("digits")
    assert "removes it in none at temperature τ = 2 and teacher's weight α = 0.8, as in all other results" in text
    for path in REFERENCE.glob("*/levels.csv"):
        students = load_levels(path.parent.name).query("teacher != 'none'")
        pairs = set(zip(students["temperature"], students["alpha"], strict=True))
        assert pairs <= {(2, 0.8)} or path.parent.name == "digits-tau-alpha"
    grid = tuning.grid(load_levels("digits-tau-alpha"))
    pairs = grid.query("arch == 'mlp' and teacher == 'dense'")["gone"]
    assert f"though in the MLP at {pairs.sum()} of {len(pairs)} pairs" in text
    best = grid.loc[grid.groupby(["teacher", "arch"])["val"].idxmax()].query("gone")
    does = best.groupby("teacher")["arch"].agg(set).to_dict()
    assert "it does in the MLP, the sparse teacher in ResNet-18 and ViT, the early-stopped one in all three" in text
    assert does == {"dense": {"mlp"}, "sparse": {"resnet18", "vit"}, "early_stopped": {"mlp", "resnet18", "vit"}}
    assert {mark for way in ("sparse", "dense") for mark in marks("C5a", way)} == {"✘"}
    assert "Sparse and dense teachers, charged in full, cost more than vanilla" in text
    assert "removes it in all three, at about vanilla's cost; early stopping alone does in two, for less than" in text
    assert measured("C5a", "early_stopped").between(0.9, 1.1).all()
    assert measured("C5a", "early").max() < 0.5
    beside = minus(levels, "early").query("pipeline in ['sparse', 'dense', 'early_stopped', 'kd-early']")
    sure = beside[[gain.low > 0 for gain in beside["bottom"]]]
    assert [*zip(sure["arch"], sure["pipeline"], strict=True)] == [
        ("resnet18", "early_stopped"),
        ("resnet18", "kd-early"),
    ]
    alone, both = (f"{gain.value:.1f}" for gain in sure["bottom"])
    assert "only the ResNet-18's of the early-stopped teacher are surely more accurate than early stopping" in text
    assert f"(by {alone} points; stopped early too, by {both})" in text
    costs = spent(levels).groupby(["arch", "noise_rate", "seed", "pipeline"])["train_flops"].max()
    search = costs.xs(0.3, level="noise_rate").unstack("pipeline").eval("l2 / vanilla").groupby("arch").mean()
    assert search.round().tolist() == [3, 2, 2]
    assert "With its search it costs two to three times what vanilla does" in text
    known = 100 * levels.query("arch == 'resnet18' and method == 'l2'").groupby("level")["memorised"].mean()
    assert f"network has memorised {known[0]:.0f} % of the wrong labels, and {known[1]:.1f} % after one pruning" in text
    assert marks("C2b") == ["✔", "✘", "✘"]  # of the ResNet-18 the paper's claim is that λ does not


CIFAR = {
    ("cifar10-subset", "resnet18"): "CIFAR-10, ResNet-18",
    ("cifar10-subset-vit", "vit"): "CIFAR-10, ViT",
    ("cifar10-subset-vgg", "vgg_like"): "CIFAR-10, VGG-like, teacher ResNet-18",
    ("cifar100-subset-vit", "vit"): "CIFAR-100, 20 classes, ViT",
    ("cifar100n-subset", "resnet18"): "CIFAR-100N, 20 classes, ResNet-18",
}


ON_PHOTOGRAPHS = [*dict.fromkeys(profile for profile, _ in CIFAR), "cifar10-subset-timm"]


def row_of_cifar(profile, arch):
    """The row of README's table of CIFAR, from the reference."""
    levels, claims = load_levels(profile), pd.read_csv(REFERENCE / profile / "claims.csv").query("arch == @arch")
    setting = vanilla_settings(levels[levels["arch"] == arch])[0]
    dip, ways = measure_dip(curves_of(vanilla(levels, *setting))), pipelines(levels, *setting)
    cells = [CIFAR[profile, arch]]
    for way in ("vanilla", "l2", *WAYS):
        mean = 100 * curves_of(ways[way]).mean(axis=0) if way in ways else None
        claim = "C2b" if way == "l2" else "C3"
        verdict = claims[(claims["claim"] == claim) & (claims["pipeline"] == way)]["verdict"].tolist()
        mark = "".join(MARKS[one] for one in verdict)
        if way == "l2" and arch == "resnet18":  # there C2b is that it does not
            mark = mark.translate(str.maketrans("✔✘", "✘✔"))
        there = f"{mean[dip.valley.bottom]:.1f} → {mean[dip.valley.sweet]:.1f}" if way in ways else "–"
        cells.append(f"{there} {mark}".strip())
    return f"| {' | '.join(cells)} |"


def test_its_table_of_cifar_shows_the_committed_numbers():
    rows = [line for line in README.splitlines() if line.startswith("| CIFAR-")]
    assert rows == [row_of_cifar(*one) for one in CIFAR]
    text = " ".join(README.split())
    claims = pd.concat([pd.read_csv(REFERENCE / profile / "claims.csv") for profile, _ in CIFAR])
    assert "No student, nor early stopping, is seen to gain 10 points (**C4**)." in text
    assert "The larger λ of CIFAR-10's ResNet-18 is, much of it at the first pruning" in text
    assert "holds" not in set(claims.query("claim == 'C4'")["verdict"])
    assert "With people's labels (**C6**) all is open." in text
    assert set(claims.query("claim == 'C6' and arch == 'resnet18'")["verdict"]) == {"inconclusive"}
    gains = pd.read_csv(REFERENCE / "cifar10-subset-vgg" / "claims.csv").query("claim == 'C4' and arch == 'vgg_like'")
    gains = gains.set_index("pipeline")
    assert set(gains.index[gains["ci_low"] > 0]) == {"early"}
    early = f"{gains.loc['early', 'measured']:.1f}"
    assert f"No VGG-like student is seen to beat vanilla at its low; early stopping is, by {early} points" in text
    larger = {}
    for profile, arch in CIFAR:
        found = minus(load_levels(profile), "vanilla").query("pipeline == 'l2' and arch == @arch")
        if len(found):
            larger[profile, arch] = found["bottom"].item().low
    assert [one for one, low in larger.items() if low >= 10] == [("cifar10-subset", "resnet18")]
    assert len(larger) == 4
    levels = load_levels("cifar10-subset")
    dense, first = 100 * curves_of(METHODS["l2"].rows(levels, "resnet18", 0.2)).mean(axis=0)[:2]
    assert f"from where on training is shorter ({dense:.1f} → {first:.1f} %)" in text
    plain = curves_of(vanilla(levels, "resnet18", 0.2))
    apart = curves_of(load_levels("cifar10-subset-float32")) - plain
    assert "vanilla curve in float32 differs by less than a point" in room("results")
    assert abs(100 * apart.mean(axis=0)).max() < 1


def test_what_it_says_of_the_images_of_cifar_is_in_the_profiles():
    text = " ".join(README.split())
    every = [exp for profile, _ in CIFAR for exp in load_profile(profile).experiments()]
    human = {exp.noise_rate for exp in every if exp.noise_kind == "human"}
    ((images, rate),) = {
        (round(exp.train_subset * (1 - exp.val_share)), exp.noise_rate) for exp in every if exp.noise_kind != "human"
    }
    assert (
        f"{images:,} training images, {100 * rate:.0f} % wrong labels (CIFAR-100N: {100 * human.pop():.0f} %," in text
    )
    assert {exp.seed for exp in every} == set(range(5))
    assert "narrow networks, five seeds" in text


def test_its_row_of_cifar_names_the_rises_in_their_order():
    (row,) = [line for line in README.splitlines() if line.startswith("| [07_cifar]")]
    names = ("in a ResNet-18", "in a ViT", "in a VGG-like network", "in a ViT on CIFAR-100", "with people's labels")
    claims = [pd.read_csv(REFERENCE / profile / "claims.csv").query("arch == @arch") for profile, arch in CIFAR]
    rises = [one.query("claim == 'C1'")["measured"].item() for one in claims]
    first, *rest = (
        f"{rise:.1f}{' points' * (k == 0)} {name}" for k, (rise, name) in enumerate(zip(rises, names, strict=True))
    )
    assert f"| a rise of {', '.join([first, *rest])}; an early-stopped teacher removes the first and the third" in row
    held = [set(one.query("claim == 'C3' and verdict == 'holds'")["pipeline"]) for one in claims]
    gone = {way: [k for k, ways in enumerate(held) if way in ways] for way in WAYS}
    assert gone["early_stopped"] == [0, 2]
    assert gone["kd-early"] == [0, 1, 3]
    assert "with early-stopped students the first two and the fourth |" in row


def test_what_it_says_of_networks_of_timm_is_what_was_measured():
    (row,) = [line for line in README.splitlines() if line.startswith("| [16_networks]")]
    claims = pd.read_csv(REFERENCE / "cifar10-subset-timm" / "claims.csv")
    rises = claims.query("claim == 'C1' and verdict == 'holds'")["measured"]
    gone = claims.query("claim == 'C3' and verdict == 'holds'")["pipeline"].value_counts().reindex(WAYS, fill_value=0)
    assert f"a rise of {ranged(rises)} points in {len(rises)} of 3; a sparse or an early-stopped teacher removes" in row
    gone = gone.map({1: "one", 2: "two"})
    assert gone["sparse"] == gone["early_stopped"]
    sooner = "(EfficientNet's students collapse sooner)"
    ways = f"{gone['sparse']} of them {sooner}, early stopping {gone['early']}, an early-stopped teacher and student"
    assert f"{ways} {gone['kd-early']};" in row
    spared = load_levels("cifar10-subset-spared")
    left = [measure_dip(curves_of(vanilla(spared, *one))).rebound.value for one in vanilla_settings(spared)]
    assert f"sparing depthwise convolutions leaves {ranged(left)}, and for as many weights in all loses" in row
    said = [line for line in answer_of(cells_of("16_networks")).splitlines() if "Depthwise" in line]
    assert len(said) == 3
    assert not any("lower at no level" in line for line in said)
    (of_efficientnet,) = [line for line in said if "test_efficientnet" in line]
    students = re.search(
        r"by at most \(points\): sparse teacher \(−(.*?) .*, early-stopped teacher \(−(.*?) ", of_efficientnet
    )
    assert min(map(float, students.groups())) > 10


def test_what_it_says_of_other_noise_rates_follows_from_their_verdicts():
    text = " ".join(README.split())
    claims = pd.read_csv(REFERENCE / "digits-full" / "claims.csv")
    assert set(claims.query("claim == 'C1'")["n_seeds"]) == {10}
    rises = claims.query("claim == 'C1'").set_index(["arch", "noise_rate"])["verdict"] == "holds"
    gone = claims.query("claim == 'C3' and verdict == 'holds'")
    assert rises[pd.MultiIndex.from_frame(gone[["arch", "noise_rate"]])].all()
    counts, of = gone["pipeline"].value_counts().reindex([*WAYS], fill_value=0), rises.sum()
    assert (
        f"| a rise in {of} of {len(rises)} settings; gone with an early-stopped teacher in {counts['early_stopped']}"
        in text
    )
    costs = claims.query("claim == 'C5a' and pipeline == 'kd-early'").set_index(["arch", "noise_rate"])["measured"]
    costs = ranged(costs[rises], 2)
    assert f"of {of}, also with early-stopped students ({costs} of vanilla's FLOPs), with early stopping alone" in text
    assert counts["kd-early"] == of
    assert f"alone in {counts['early']}, with the sparse teacher in {counts['sparse']}" in text
    assert f"with the dense in {counts['dense']} |" in text
    levels = load_levels("digits-full")
    dips = {one: measure_dip(curves_of(vanilla(levels, *one))) for one in rises.index}
    assert "ResNet-18 and ViT of the digits have none that is sure at any noise rate" in text
    assert {arch for (arch, _), dip in dips.items() if dip.depth.low > 0 and dip.is_double_descent} == {"mlp"}
    assert "and at 30 % their low, where C4 is measured, comes within three prunings" in text
    last = re.findall(r"([\d.]+) % sparsity", " ".join(shown("C4", "sparse").query("arch != 'mlp'")["evidence"]))
    assert max(map(float, last)) <= round(100 * (1 - 0.64**3), 1)
    plain = levels.query("arch == 'vit' and noise_rate == 0.3 and method in ['vanilla', 'l2']")
    penalty = plain.groupby(["weight_decay", "level"])["test_acc"].mean()
    peak = dips["vit", 0.3].valley.sweet
    low, high = (f"{100 * penalty[decay, peak]:.1f} %" for decay in (3, 0.03))
    best, left = penalty[3].max(), 100 * 0.64 ** penalty[3].idxmax()
    assert best > penalty[0.03].max()
    told = f"λ = 3 (ten seeds) reaches {100 * best:.1f} % with {left:.0f} % of the weights, above vanilla's best"
    assert f"{told}, but {low} at the top of vanilla's rise ({high})" in text


def test_what_it_says_of_other_remedies_follows_from_their_verdicts():
    text = " ".join(README.split())
    claims = pd.read_csv(REFERENCE / "digits-remedies" / "claims.csv")
    gone = claims.query("claim == 'C3' and verdict == 'holds'")["pipeline"].value_counts()
    assert len(claims.query("claim == 'C1' and verdict == 'holds'")) == 3
    assert gone.reindex([*REMEDIES, "early"]).dropna().to_dict() == {"gce": 2, "early": 2}
    assert "| alone, generalised cross-entropy or early stopping does in 2 of 3 settings each; with the sparse" in text
    assert gone.idxmax() == "sparse-early"
    times = re.search("for ([0-9.]+ to [0-9.]+) times its FLOPs", answer_of(cells_of("10_remedies")))[1]
    assert (
        f"with the sparse teacher early stopping does in {gone.max()}, for {times} times the FLOPs of early stopping"
        in text
    )


def test_its_first_figure_is_described_by_its_table():
    levels, text = load_levels("mnist"), " ".join(README.split())
    means = levels.groupby(["method", "level"])[["sparsity", "test_acc"]].mean().mul(100)
    plain, pruned = means.loc["vanilla"], means.loc["vanilla"].iloc[1:]
    low = pruned.loc[: pruned["test_acc"].idxmax()].sort_values("test_acc").iloc[0]
    top = pruned.loc[pruned["test_acc"].idxmax()]
    bottom, peak = (f"{level['test_acc']:.1f} % with {100 - level['sparsity']:.1f} %" for level in (low, top))
    assert f"has {plain['test_acc'].iloc[0]:.1f} % when dense, {bottom} of the weights left and {peak}" in text
    peak = pruned["test_acc"].idxmax()
    larger = levels.query("method == 'l2'").groupby("level")["test_acc"].mean()
    assert f"λ = 0.001 has {100 * larger[peak]:.1f} % where vanilla peaks, and rises less, but whether by half" in text
    flops = levels.groupby("method")["train_flops"].sum()
    share = f"{flops['early'] / flops['vanilla']:.2f} of vanilla's FLOPs, all levels"
    assert f"nor does early stopping, alone ({share}) or with one." in text
    claims = pd.read_csv(REFERENCE / "mnist" / "claims.csv")
    verdicts = claims[claims["claim"].isin(["C2a", "C2b"])].set_index("claim")["verdict"]
    assert verdicts.to_dict() == {"C2a": "holds", "C2b": "inconclusive"}
    avoids = claims[claims["claim"] == "C3"]
    verdicts = dict(zip(avoids["pipeline"], avoids["verdict"], strict=True))
    assert "of the dense teacher dip as well, those of the sparse and of an early-stopped one do not" in text
    assert {way for way, verdict in verdicts.items() if verdict == "holds"} == set(WAYS) - {"dense"}
    assert verdicts["dense"] == "fails"


def test_it_says_how_many_verdicts_would_hold_by_chance():
    judged = (CLAIMS["verdict"] != "not applicable").sum()
    holding = (CLAIMS["verdict"] == "holds").sum()
    text = " ".join(README.split())
    theirs = CLAIMS["pipeline"].map(lambda name: pd.isna(name) or METHODS[name].in_the_paper)
    counts = [
        f"{(part['verdict'] == 'holds').sum()} of {(part['verdict'] != 'not applicable').sum()}"
        for part in (CLAIMS[theirs], CLAIMS[~theirs])
    ]
    compared = CLAIMS[theirs & CLAIMS["claim"].isin(["C3", "C4", "C5a", "C5b"])]["verdict"]
    counts[0] += f" on the paper's ways (on C3 to C5, {(compared == 'holds').sum()} of {len(compared)})"
    others = CLAIMS.query("claim == 'C1' and noise_rate != 0.3").set_index("noise_rate")["verdict"].map(MARKS)
    these = f"these, and C1 of the MLP at ε = 0.1, {others[0.1]}, and 0.5, {others[0.5]}"
    assert set(CLAIMS.query("noise_rate != 0.3 and verdict != 'not applicable'")["claim"]) == {"C1"}
    assert f"Of {judged} verdicts ({these}) {holding} are «holds»: {counts[0]}, and {counts[1]} on ours" in text
    assert f"About {0.025 * judged:.0f} would if every claim were" in text
    assert f"narrowly false; with Holm's correction {holm(CLAIMS)} do." in text
    assert len(CLAIMS.query("claim == 'C1'")) == 5


def test_its_code_runs(capsys, tmp_path):
    study, loop = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(loop.replace('"digits"', '"smoke"'), {})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [round(float(sparsity), 2) for sparsity, _ in printed] == [0, 0.5, 0.75, 0.88, 0.94, 0.97, 0.98]
    names = {}
    exec(study.replace('results="runs"', 'results="reference"'), names)
    assert set(names["levels"]["method"]) == {"vanilla", "kd", "early"}


def test_every_notebook_is_listed_with_what_it_trains():
    minutes = load_levels("digits").groupby("method")["seconds"].sum() / 60
    minutes["others"] = minutes.drop(["vanilla", "l2"]).sum()
    trains = {"01_baseline": "vanilla", "02_l2_sweep": "l2", "03_distillation": "others"}
    for name in NOTEBOOKS:
        (line,) = [line for line in README.splitlines() if line.startswith(f"| [{name}]")]
        if name in trains:
            assert line.endswith(f" {minutes[trains[name]]:.0f} min |")
        elif "profile" in line:
            settings = parameters_of(cells_of(name))
            own = settings["profiles"] if "profiles" in settings else [settings["profile"]]
            found = pd.concat([load_levels(profile) for profile in own if profile != "digits"])
            took = found.drop_duplicates(["run_id", "level"])["seconds"].sum() / 60  # teachers may be in several
            assert line.endswith(f", {took:.0f} min |")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_numbers_in_the_list_of_notebooks_are_in_their_answers(name):
    answer = next(line.split("|")[3] for line in README.splitlines() if line.startswith(f"| [{name}]"))
    assert set(re.findall(r"\d+(?:\.\d+)?", answer)) <= set(re.findall(r"\d+(?:\.\d+)?", answer_of(cells_of(name))))


@pytest.mark.parametrize("text", [README, *map(room, ROOMS)], ids=["README", *ROOMS])
def test_links_lead_somewhere(text):
    home = ROOT if text == README else ROOT / next(name for name in ROOMS if room(name) == text)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (home / target).exists(), target


def test_every_module_is_listed():
    rows = "\n".join(re.findall(r"^\| (`[^|]*) \|", room("sdd_utils"), re.MULTILINE))
    named = set(re.findall(r"`(\w+(?:\.py|/))`", rows))
    package = ROOT / "sdd_utils"
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert named == modules | {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}


def test_every_profile_is_listed_with_the_minutes_that_it_took():
    text = room("notebooks/profiles")
    for path in REFERENCE.glob("*/levels.csv"):  # a profile of somebody's own need not be listed
        name = path.parent.name
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        assert line.endswith(f"| {load_levels(name)['seconds'].sum() / 60:.0f} min |")


def test_every_column_is_explained():
    table = room("results").split("## levels.csv")[1].split("##")[0]
    explained = {
        name
        for line in table.splitlines()
        for name in re.findall(r"[a-z0-9_]+", line.split("|")[1:2][0] if "|" in line else "")
    }
    assert set(LEVEL_COLUMNS) <= explained


@pytest.mark.parametrize(("arch", "shown"), [("mlp", "MLP"), ("vit", "ViT"), ("resnet18", "ResNet-18")])
def test_the_table_of_speeds_is_the_committed_bench(arch, shown):
    bench = pd.read_csv(REFERENCE / "bench" / "amd-epyc-2-cores.csv").query("arch == @arch and level == 0")
    rows = bench[bench["method"] == "vanilla"].set_index("path")
    paths = ["conventional", "conventional, no workers", "ours"]
    speeds = " | ".join(f"{rows.loc[path, 'images_per_second']:,.0f}" for path in paths)
    assert f"| {shown} | {speeds} | {rows.loc['ours', 'times_conventional']:.1f} |" in room("benchmarks")


def test_the_tables_of_scaling_are_the_committed_ones():
    text = room("benchmarks")
    scale = pd.read_csv(REFERENCE / "bench" / "scale-amd-epyc-2-cores.csv")
    for back_end, shown in [("local", "local processes"), ("ray", "Ray")]:
        rows = scale[(scale["what"] == "training") & (scale["back_end"] == back_end)].set_index("workers")
        speeds = " | ".join(f"{rows.loc[number, 'levels_per_minute']:.0f}" for number in (1, 2))
        assert f"| {shown} | {speeds} |" in text
    slept = scale[scale["what"] == "sleeping"].set_index("back_end")["overhead"]
    shares = [f"{100 * slept[back_end]:.1f} %" for back_end in ("threads", "ray")]
    assert f"take {shares[0]} longer than" in text
    assert f"and {shares[1]} on Ray" in text
    for row in pd.read_csv(REFERENCE / "bench" / "makespan-paper-amd-epyc-2-cores.csv").itertuples():
        cells = f"{row.devices} | {row.hours:,.0f} | {row.times_one_device:.1f} | {100 * row.busy:.0f} %"
        assert f"| {cells} |" in text
