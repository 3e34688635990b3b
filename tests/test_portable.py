"""What Linux alone has is not needed: it is taken away from every process, and a sweep, its status and a plan go on."""

import os
import shutil
import subprocess
import sys

import pytest

from sdd_utils.files import ROOT

TAKE_AWAY = """
import errno, os, pathlib, resource, select, signal, time

LINUX = {
    os: ["sched_getaffinity", "sched_setaffinity", "memfd_create", "pidfd_open", "eventfd", "posix_fadvise",
         "posix_fallocate", "copy_file_range", "splice", "getrandom", "getxattr", "setxattr", "listxattr", "getresuid",
         "fdatasync", "O_TMPFILE", "O_PATH", "O_DIRECT", "O_NOATIME"],
    resource: ["prlimit", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE"],
    select: ["epoll"],
    signal: ["sigtimedwait", "sigwaitinfo", "SIGRTMIN", "SIGRTMAX", "SIGPWR", "SIGPOLL", "SIGSTKFLT"],
    time: ["CLOCK_BOOTTIME", "CLOCK_TAI", "pthread_getcpuclockid"],
}
for module, names in LINUX.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

def refuse(method):
    def call(path, *args, **how):
        if str(path).startswith(("/proc", "/sys", "/dev/shm")):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return method(path, *args, **how)
    return call

for name in ("open", "stat", "iterdir"):
    setattr(pathlib.Path, name, refuse(getattr(pathlib.Path, name)))
"""
FEW = ["--profile", "smoke", "--only", "arch=mlp,noise_rate=0.3,seed=0,method=vanilla"]


@pytest.fixture
def elsewhere(tmp_path):
    """Run a module of the project where nothing is that Linux alone has; gives what it printed."""
    (tmp_path / "sitecustomize.py").write_text(TAKE_AWAY)  # Python imports it when it starts, in workers as well
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [tmp_path, ROOT]))}

    def run(*arguments):
        command = [sys.executable, *arguments]
        ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    gone = "import os, pathlib; print(hasattr(os, 'sched_getaffinity'), pathlib.Path('/proc').exists())"
    assert run("-c", gone) == "False False\n"
    return run


def test_a_sweep_its_status_and_a_plan_need_nothing_that_linux_alone_has(elsewhere, tmp_path):
    assert "PFLOP" in elsewhere("-m", "benchmarks", "plan", *FEW)
    elsewhere("-m", "sdd_utils", "run", *FEW, "--results", str(tmp_path / "runs"), "--time-budget", "10m")
    assert "1 runs: 1 done" in elsewhere("-m", "sdd_utils", "status", *FEW, "--results", str(tmp_path / "runs"))


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_the_list_of_targets_is_made_by_what_every_unix_has():
    """BSD's sed writes a t for \\t."""
    said = subprocess.check_output(["make", "--no-print-directory", "help"], cwd=ROOT, text=True).splitlines()
    assert any(line.split(maxsplit=1) == ["help", "this list"] for line in said)
    assert len({line.index(line.split(maxsplit=1)[1]) for line in said}) == 1
    assert "\\t/" not in (ROOT / "Makefile").read_text()
