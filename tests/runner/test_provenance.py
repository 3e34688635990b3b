"""What a run says of its origin is so, or it says that it does not know."""

import os
import re
import shutil
import subprocess

import pytest

from sdd_utils.runner import provenance
from sdd_utils.runner.provenance import commit


def git(*arguments, cwd):
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *name, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    ).stdout.strip()


def repository(folder):
    (folder / "sdd_utils").mkdir(parents=True)
    (folder / "sdd_utils" / "code.py").write_text("one = 1\n")
    git("init", "--quiet", cwd=folder)
    git("add", ".", cwd=folder)
    git("commit", "--quiet", "--message", "first", cwd=folder)
    return git("rev-parse", "HEAD", cwd=folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A project's folder inside of another repository; what ``commit`` says there."""
    repository(tmp_path / "outer")
    project = tmp_path / "outer" / "project"
    project.mkdir()
    monkeypatch.setattr(provenance, "ROOT", project)
    return project, commit.__wrapped__


def test_the_commit_is_that_of_the_project_and_says_what_has_changed_since(here):
    project, says = here
    first = repository(project)
    assert says() == first
    (project / "sdd_utils" / "new.py").write_text("two = 2\n")  # git describe does not see it
    assert says() == f"{first}-dirty"
    (project / "sdd_utils" / "new.py").unlink()
    (project / "sdd_utils" / "code.py").write_text("one = 2\n")
    assert says() == f"{first}-dirty"


def test_what_is_imported_and_git_is_told_to_overlook_counts_as_changed(here, monkeypatch):
    project, says = here
    first = repository(project)
    for flag in ("--assume-unchanged", "--skip-worktree"):
        git("update-index", flag, "sdd_utils/code.py", cwd=project)
        assert says() == f"{first}-dirty"
        git("update-index", flag.replace("--", "--no-"), "sdd_utils/code.py", cwd=project)
    assert says() == first
    ignored = project.parent / "ignored"
    ignored.write_text("config/\n__pycache__/\n")
    config = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.excludesFile", "GIT_CONFIG_VALUE_0": str(ignored)}
    for name, value in config.items():
        monkeypatch.setenv(name, value)
    (project / "sdd_utils" / "__pycache__").mkdir()
    (project / "sdd_utils" / "__pycache__" / "code.pyc").write_text("")
    assert says() == first
    (project / "sdd_utils" / "config").mkdir()
    (project / "sdd_utils" / "config" / "__init__.py").write_text("two = 2\n")
    assert says() == f"{first}-dirty"


@pytest.mark.parametrize("name", ["a:b", "a b", os.fsdecode(b"caf\xe9"), "é"])
def test_a_folder_of_any_name_inside_another_repository_is_not_that_repository(tmp_path, monkeypatch, name):
    repository(tmp_path / name)
    project = tmp_path / name / "project"
    project.mkdir()
    monkeypatch.setattr(provenance, "ROOT", project)
    monkeypatch.setenv("LC_ALL", "C")
    assert commit.__wrapped__().startswith("unknown: ")
    shutil.rmtree(tmp_path / name / ".git")
    assert commit.__wrapped__().startswith("unknown: ")
    first = repository(project)
    assert commit.__wrapped__() == first


def test_no_other_repository_is_taken_for_the_projects(here, tmp_path, monkeypatch):
    project, says = here
    assert says().startswith("unknown: fatal: not a git repository")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "outer" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "outer"))
    assert says().startswith("unknown: ")
    monkeypatch.undo()
    monkeypatch.setattr(provenance, "ROOT", project)
    first = repository(project)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "outer" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "outer"))
    assert says() == first


def test_it_says_why_a_commit_is_unknown_without_naming_a_path(here, tmp_path, monkeypatch):
    project, says = here
    repository(project)
    shutil.rmtree(project / ".git" / "refs")
    assert re.match(r"unknown: fatal: ", says())
    assert str(project) not in says()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert re.match(r"unknown: .*git", says())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_the_repository_of_another_owner_is_named_as_such(here):
    project, says = here
    repository(project)
    for path in (project, project / ".git"):
        os.chown(path, 12345, 12345)
    said = says()
    assert said.startswith("unknown: ")
    assert "ownership" in said
    assert str(project) not in said
