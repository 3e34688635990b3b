"""Which module may import which: the core knows nothing of what is made of it, and tables can be read without torch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from conftest import HANG

from sdd_utils.files import ROOT

PACKAGE = ROOT / "sdd_utils"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}

CORE = {
    *("seeding", "settings", "readers", "datasets", "data", "models", "pruning", "losses", "distillation", "training"),
    *("evaluation", "execution", "pruning_loop", "config", "files", "errors", "tables", "profiles", "plain_yaml"),
}
PARTS = {"analysis", "plots", "metrics", "runner", "cli"}
MAY_IMPORT = {
    "core": {"core"},
    "metrics": {"core"},
    "analysis": {"core", "analysis"},
    "plots": {"core", "analysis", "plots"},
    "runner": {"core", "metrics", "runner"},
    "study": {"core", "analysis", "plots", "metrics", "runner"},
    "cli": {"core", "analysis", "plots", "metrics", "runner", "study", "cli"},
    "__main__": {"core", "cli"},
}
KNOW_NO_FILE = {"pruning_loop", "training", "evaluation", "pruning", "losses", "data", "distillation", "models"}


class Imports(ast.NodeVisitor):
    """The modules that a source imports, in functions as well, but not for type checkers alone."""

    def __init__(self, path):
        self.found = set()
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def visit_If(self, node):
        for_checkers = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.orelse if for_checkers else ast.iter_child_nodes(node):
            self.visit(statement)

    def visit_Import(self, node):
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node):
        assert node.level == 0, f"line {node.lineno}: {ast.unparse(node)} is relative"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self.found.add(whole if whole in MODULES or node.module == "sdd_utils" else node.module)


IMPORTS = {name: Imports(path).found for name, path in MODULES.items()}


def of_ours(name):
    """The package itself is left out: it imports nothing before it is asked."""
    return sorted(module for module in IMPORTS[name] if module.startswith("sdd_utils."))


def part_of(name):
    """The part of the package that a module belongs to: ``core``, one of PARTS, ``study`` or ``__main__``."""
    first = name.split(".")[1]
    return "core" if first in CORE else first


def inside(*parts):
    return [name for name in MODULES if name != "sdd_utils" and part_of(name) in parts]


def test_every_module_has_a_part():
    flat = {path.stem for path in PACKAGE.glob("*.py")}
    assert flat == CORE | {"__init__", "__main__", "study"}
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == PARTS


def test_what_is_imported_is_there():
    missing = {name: [m for m in of_ours(name) if m not in MODULES] for name in MODULES}
    assert {name: modules for name, modules in missing.items() if modules} == {}


def test_no_imports_go_round_in_a_circle():
    TopologicalSorter({name: of_ours(name) for name in MODULES}).prepare()


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_it_may(part):
    imported = {name: {m for m in of_ours(name) if part_of(m) not in MAY_IMPORT[part]} for name in inside(part)}
    assert {name: modules for name, modules in imported.items() if modules} == {}


def test_the_package_itself_imports_nothing_before_it_is_asked():
    assert of_ours("sdd_utils") == []


def test_nothing_imports_benchmarks_or_tests():
    outside = {"benchmarks", "tests", "conftest", "pytest"}
    assert {n: found for n, modules in IMPORTS.items() if (found := {m.split(".")[0] for m in modules} & outside)} == {}


@pytest.mark.parametrize("name", sorted(KNOW_NO_FILE))
def test_what_is_trained_and_measured_knows_no_file(name):
    assert {"sdd_utils.files", "sdd_utils.tables"}.isdisjoint(of_ours(f"sdd_utils.{name}"))


WITHOUT_TORCH = """
import importlib, io, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm"):
            raise ModuleNotFoundError(f"{name} is not here", name=name)

sys.meta_path.insert(0, Refuse())
import sdd_utils.analysis, sdd_utils.plots, sdd_utils.study

for module in pkgutil.iter_modules(sdd_utils.analysis.__path__, "sdd_utils.analysis."):
    importlib.import_module(module.name)
for path in sdd_utils.profiles.PROFILES.glob("*.yaml"):
    if "timm/" not in path.read_text(encoding="utf-8"):  # what models there are, timm is asked
        assert sdd_utils.profiles.load_profile(path.stem).experiments()
study = sdd_utils.Study("digits")
levels = study.levels("vanilla")
assert set(levels["method"]) == {"vanilla"} and len(levels) > 100
sdd_utils.plots.tour(levels, **study.setting).savefig(io.BytesIO())
assert sum(bool(figure.axes) for figure in study.figures().values()) == 7
assert len(sdd_utils.analysis.claims.claims_table(study.levels())) > 10
"""


def test_tables_claims_and_figures_need_no_torch():
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True, timeout=HANG)
    assert run.returncode == 0, run.stderr


LINES = 6_800


def test_the_package_is_no_longer_than_it_has_to_be():
    assert sum(path.read_bytes().count(b"\n") for path in MODULES.values()) <= LINES
