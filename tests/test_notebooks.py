"""What nbval cannot see: that each notebook can be parametrised, and why an output is not compared."""

import nbformat
import pytest

from sdd_utils.reproduce import NOTEBOOKS, TUNING, execute_notebook

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS])
def cells(request):
    return nbformat.read(request.param, as_version=4).cells


def test_there_is_exactly_one_parameters_cell_and_it_reads_the_reference(cells):
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    settings = {}
    exec(tagged[0], settings)
    assert settings["profile"] in ("digits", "digits-tau-alpha")
    assert settings["results"] == "reference"


def test_every_ignored_output_has_a_reason(cells):
    ignored = [cell for cell in cells if "nbval-ignore-output" in cell.metadata.get("tags", [])]
    assert all(cell.metadata.get("reason") for cell in ignored)
    assert all(cell.source.startswith(("figures.", "tuning.")) for cell in ignored)  # drawings, never tables


def test_a_notebook_ends_with_its_answer_and_was_executed(cells):
    assert cells[-1].cell_type == "markdown"
    assert cells[-1].source.startswith("## Answer")
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", [path for path in PATHS if path.name not in TUNING], ids=lambda path: path.stem)
def test_it_runs_where_accuracies_are_a_third_of_the_digits(path, tmp_path):
    execute_notebook(path, tmp_path / path.name, {"profile": "cifar10-small", "results": "reference"})
