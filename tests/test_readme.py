"""The README's numbers are the committed ones."""

import pandas as pd
import pytest

from sdd_utils.profiles import PROFILES
from sdd_utils.results import REFERENCE, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CLAIMS = pd.read_csv(REFERENCE / "digits" / "claims.csv")
BY_TEACHER = [(claim, teacher) for claim in ("C3", "C4", "C5a", "C5b") for teacher in ("sparse", "dense")]
ROWS = [("C1", ""), ("C2a", ""), ("C2b", ""), *BY_TEACHER]


@pytest.mark.parametrize(("claim", "teacher"), ROWS)
def test_the_table_of_claims_shows_the_committed_verdicts(claim, teacher):
    shown = CLAIMS[(CLAIMS["claim"] == claim) & CLAIMS["statement"].str.contains(f"ε = 0.3: .*{teacher}")]
    cells = [cell(row, digits=2 if claim.startswith("C5") else 1) for row in shown.itertuples()]
    assert len(cells) == 3
    assert f"| {' | '.join(cells)} |" in README


def cell(row, digits=1):
    text = f"{row.verdict} {row.measured + 0:.{digits}f} [{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]"
    return text.replace("-", "−")


CIFAR = [
    ("`cifar10-small-vit`", "cifar10-small-vit", "ViT", "0.2"),
    ("`cifar10-small`", "cifar10-small", "ResNet-18", "0.5"),
    ("`cifar10-small`", "cifar10-small", "ResNet-18", "0.2"),
    ("`cifar10-tiny`", "cifar10-tiny", "ResNet-18", "0.2"),
    ("`cifar10n-tiny`", "cifar10n-tiny", "ResNet-18", "0.4021"),
]
FULL = [(arch, "digits-full", arch, rate) for arch in ("MLP", "ResNet-18", "ViT") for rate in ("0.1", "0.3", "0.5")]


@pytest.mark.parametrize(("shown", "profile", "arch", "rate"), [*FULL, *CIFAR])
def test_the_other_tables_show_the_committed_verdicts(shown, profile, arch, rate):
    full = pd.read_csv(REFERENCE / profile / "claims.csv")
    mine = full[full["statement"].str.startswith(f"{arch}, ε = {rate}: ")]
    cells = []
    for claim, teacher in [("C1", ""), ("C3", "sparse"), ("C3", "dense"), ("C4", "sparse"), ("C4", "dense")]:
        rows = mine[(mine["claim"] == claim) & mine["statement"].str.contains(teacher)]
        assert len(rows) < 2
        cells += [cell(row) for row in rows.itertuples()] or ["–"]
    assert f"| {shown}, ε = {rate} | {' | '.join(cells)} |" in README


def test_every_profile_is_listed():
    assert all(f"| `{path.stem}` |" in README for path in PROFILES.glob("*.yaml"))


@pytest.mark.parametrize(("arch", "shown"), [("mlp", "MLP"), ("vit", "ViT"), ("resnet18", "ResNet-18")])
def test_the_table_of_speeds_is_the_committed_bench(arch, shown):
    bench = pd.read_csv(REFERENCE / "bench" / "amd-epyc-2-cores.csv").query("arch == @arch and level == 0")
    rows = bench[bench["method"] == "vanilla"].set_index("path")
    paths = ["conventional", "conventional, no workers", "ours"]
    speeds = " | ".join(f"{rows.loc[path, 'images_per_second']:,.0f}" for path in paths)
    assert f"| {shown} | {speeds} | {rows.loc['ours', 'times_conventional']:.1f} |" in README


def test_the_tables_of_scaling_are_the_committed_ones():
    scale = pd.read_csv(REFERENCE / "bench" / "scale-amd-epyc-2-cores.csv")
    for back_end, shown in [("local", "local processes"), ("ray", "Ray")]:
        rows = scale[(scale["what"] == "training") & (scale["back_end"] == back_end)].set_index("workers")
        speeds = " | ".join(f"{rows.loc[number, 'levels_per_minute']:.0f}" for number in (1, 2))
        assert f"| {shown} | {speeds} |" in README
    slept = scale[scale["what"] == "sleeping"].set_index("back_end")["overhead"]
    assert slept.max() < 0.05
    shares = [f"{100 * slept[back_end]:.1f} %" for back_end in ("threads", "ray")]
    assert f"take {shares[0]} longer than" in README
    assert f"and {shares[1]} on Ray" in README
    for row in pd.read_csv(REFERENCE / "bench" / "makespan-paper-amd-epyc-2-cores.csv").itertuples():
        cells = f"{row.devices} | {row.hours:,.0f} | {row.times_one_device:.1f} | {100 * row.busy:.0f} %"
        assert f"| {cells} |" in README
