"""What nbval cannot see: that notebooks take parameters, and that their answers follow from whatever they read."""

import re

import nbformat
import pandas as pd
import papermill
import pytest
from conftest import HANG, answer_of, parameters_of

from scripts.notebooks import NOTEBOOKS, notebooks_of
from sdd_utils.analysis.claims import claims_table
from sdd_utils.data import load
from sdd_utils.files import ROOT, read_csv
from sdd_utils.plots.charts import VEGA_LITE
from sdd_utils.profiles import load_profile, select
from sdd_utils.pruning_loop import iterative_pruning
from sdd_utils.study import Study

FOLDER = ROOT / "notebooks"
PATHS = [FOLDER / f"{name}.ipynb" for name in sorted(NOTEBOOKS)]  # ours; a user's may lie beside them

NUMBER = r"\d+[.,]\d+(?: ?%)?|\d+ ?%"
CONSTANTS = {
    "0.1", "0.2", "0.5",  # the paper's ε
    "0.03",  # the smallest λ that the paper shows weights of
    "20 %",  # of the weights are removed a level, in the paper
    "95 %",  # intervals
    "2208.08003",  # on arXiv
}  # fmt: skip
"""Numbers of the method, all that a text may say which is not computed."""

MEASURED = r"\d+\.\d+(?: \[[^]]*\])? (?:%|points|of (?:vanilla|the)\b)"
VERDICTS = {"holds": "holds", "fails": "fails", "is open": "inconclusive", "does not apply": "not applicable"}


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS])
def cells(request):
    return nbformat.read(request.param, as_version=4).cells


def tagged(cells, tag):
    return [cell for cell in cells if tag in cell.metadata.get("tags", [])]


def test_there_is_exactly_one_parameters_cell_and_it_reads_the_reference(cells):
    settings = parameters_of(cells)
    assert settings["results"] == "reference"
    for profile in settings.get("profiles") or [settings["profile"]]:
        assert (ROOT / "results" / "reference" / profile / "levels.csv").exists()


def test_every_ignored_output_has_a_reason_and_is_a_drawing(cells):
    for cell in tagged(cells, "nbval-ignore-output"):
        assert cell.metadata["reason"]
        assert cell.outputs
        assert all("image/png" in output.get("data", {}) for output in cell.outputs)


def test_it_was_executed_and_ends_with_its_answer(cells):
    assert cells[-2].source == "## Answer"
    assert tagged(cells, "answer") == [cells[-1]]
    assert answer_of(cells)
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


CURVES = re.compile(r"plots\.(tour|cure|baseline|l2_sweep|distillation|remedies)\(")


def test_its_curves_are_charts_that_nbval_compares(cells):
    for cell in cells:
        if CURVES.search(cell.source) and "study.watch" not in cell.source:  # which draws what it trains
            assert cell.outputs
            assert "nbval-ignore-output" not in cell.metadata.get("tags", [])
            assert all({VEGA_LITE, "image/png"} <= output["data"].keys() for output in cell.outputs)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_is_small(path):
    assert path.stat().st_size < 1_000_000


def test_no_cell_is_longer_than_a_screen(cells):
    assert max(len(cell.source.splitlines()) for cell in cells) <= 25


def test_no_text_contains_a_measured_number(cells):
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert {number for text in texts for number in re.findall(NUMBER, text)} <= CONSTANTS


@pytest.fixture(scope="module")
def claims():
    """The tables of claims of the reference that notebooks are committed on, and of others."""
    profiles = ("digits", "cifar10-subset", "cifar10-subset-vgg")
    return {profile: claims_table(Study(profile).levels()) for profile in profiles}


@pytest.mark.parametrize("name", sorted(notebooks_of(load_profile("digits"))))
def test_answers_follow_from_what_is_read(name, claims, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")  # drawn, but not made into pictures, which takes longer than all else
    source, executed = FOLDER / f"{name}.ipynb", tmp_path / "executed.ipynb"
    other = "cifar10-subset-vgg" if name == "03_distillation" else "cifar10-subset"  # teachers of another architecture
    parameters = {"profile": other, "results": "reference"}
    papermill.execute_notebook(source, executed, parameters, cwd=FOLDER, progress_bar=False, start_timeout=HANG)
    answers = []
    for profile, path in (("digits", source), (other, executed)):  # nbval executes the committed one
        cells = nbformat.read(path, as_version=4).cells
        static = "\n".join(cell.source for cell in cells)
        answers.append(answer_of(cells))
        assert not [number for number in re.findall(MEASURED, answers[-1]) if number in static]
        verdicts_agree(answers[-1], claims[profile])
    assert answers[0] != answers[1]


def verdicts_agree(answer, claims):
    """Every verdict that an answer gives, of a claim as a whole or of one setting, is that of the table of claims."""
    for claim, said in re.findall(r"\*\*(C\d\w?)\*\*, (.*)", answer):
        rows = claims[claims["claim"] == claim]
        counts = {verdict: re.findall(rf"{words} in (\d+)", said) for words, verdict in VERDICTS.items()}
        assert {verdict: int(number[0]) for verdict, number in counts.items() if number} == dict(
            rows["verdict"].value_counts()
        )
    for claim, words, setting in re.findall(rf"\*\*(C\d\w?)\*\* ({'|'.join(VERDICTS)}) for (.*)\.", answer):
        rows = claims[(claims["claim"] == claim) & claims["statement"].str.startswith(f"{setting}: ")]
        assert rows["verdict"].tolist() == [VERDICTS[words]]


EXPLORED = {"profiles": ["cifar10-subset"], "curves": "cifar10-subset: ResNet-18, ε = 0.2"}


def explored(tmp_path, **parameters):
    source, executed, how = FOLDER / "13_explore.ipynb", tmp_path / "executed.ipynb", {"start_timeout": HANG}
    papermill.execute_notebook(source, executed, EXPLORED | parameters, cwd=FOLDER, progress_bar=False, **how)
    return nbformat.read(executed, as_version=4).cells


def test_what_is_explored_can_be_taken_along(tmp_path):
    cells = explored(tmp_path, across="Wh", up="memorised (%)", export=str(tmp_path / "mine"))
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"curves.csv", "curves.pdf", "curves.png"}
    table, levels = pd.read_csv(tmp_path / "mine" / "curves.csv"), Study("cifar10-subset").levels()
    last = table[(table["way"] == "vanilla") & (table["curves"] == EXPLORED["curves"]) & (table["seed"] == 0)].iloc[-1]
    curve = levels[(levels["method"] == "vanilla") & (levels["seed"] == 0)]
    assert f"{last['Wh']:g}" == f"{1e3 * curve['energy_kwh'].sum():g}"  # six digits are written
    assert last["memorised (%)"] == pytest.approx(100 * curve["memorised"].iloc[-1])
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    (chart,) = [data[VEGA_LITE] for data in shown if VEGA_LITE in data]
    assert {param["name"]: param["value"] for param in chart["params"]}["across"] == "Wh"
    dashed = chart["vconcat"][0]["layer"][1]["encoding"]["strokeDash"]["condition"]["test"]["oneOf"]
    assert set(dashed) & set(table["way"]) == {"early-stopped teacher and student"}


WRONG = [
    ("across", "time", "should be one of"),
    ("level", True, "should be one of"),
    ("level", 99, "should be one of"),
    ("curves", "cifar10-subset: MLP", "should be one of"),
    ("profiles", ["digits-tau-alpha"], "the students of digits-tau-alpha have many τ and α"),
]


@pytest.mark.parametrize(("name", "wrong", "why"), WRONG)
def test_what_cannot_be_explored_is_refused_by_name(name, wrong, why, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=f"{name}: {why}"):
        explored(tmp_path, **{name: wrong})


@pytest.mark.parametrize("name", ["03_distillation", "04_cost", "06_tau_alpha"])
def test_a_profile_without_students_is_refused_where_they_are_the_subject(name, tmp_path):
    parameters, how = {"profile": "mnist-l2-map"}, {"cwd": FOLDER, "progress_bar": False, "start_timeout": HANG}
    with pytest.raises(papermill.PapermillExecutionError, match="profile: mnist-l2-map has no students"):
        papermill.execute_notebook(FOLDER / f"{name}.ipynb", tmp_path / "executed.ipynb", parameters, **how)


def test_what_no_setting_does_a_notebook_trains_beside_the_curve(tmp_path):
    source, executed = FOLDER / "14_redense.ipynb", tmp_path / "executed.ipynb"
    parameters = {"profile": "smoke", "results": str(tmp_path)}
    papermill.execute_notebook(source, executed, parameters, cwd=FOLDER, progress_bar=False, start_timeout=HANG)
    levels = read_csv(tmp_path / "redense" / "smoke.csv")
    assert len(levels) == 3 * 3 * 7  # seeds, ways, levels
    exp = select(load_profile("smoke").experiments(), "arch=mlp,noise_rate=0.3,method=vanilla,seed=1")[0]
    alone = [level.test_acc for level in iterative_pruning(exp, load(exp))]
    beside = levels[(levels["seed"] == 1) & (levels["way"] == "pruned")]["test_acc"]
    assert beside.tolist() == pytest.approx(alone, rel=1e-5)
    last = levels[levels["level"] == 6].groupby("way")["test_acc"].mean()
    assert last.nunique() == 3
