import errno
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import HANG

from sdd_utils.errors import ConfigError, SweepStopped
from sdd_utils.metrics.energy import AT_A_TIME, ON_ONE_GPU
from sdd_utils.runner import workers

SIGNALLED = """
import psutil, signal
from sdd_utils.runner import workers

if __name__ == "__main__":
    workers._warm_up = dict  # the imports: it takes seconds and has no part in this
    executor = workers.local_workers(2)
    helpers = psutil.Process().children(recursive=True)  # workers, just started, and the trackers of their resources
    for helper in helpers:
        for number in workers.SIGNALS:
            helper.send_signal(number)
    done = [executor.submit(abs, number).result() for number in (-1, -2, -3)]
    print(len(helpers), done, sum(helper.is_running() for helper in helpers))
    executor.stop()
"""


def test_signals_to_every_process_beside_the_sweep_end_none(tmp_path):
    (tmp_path / "script.py").write_text(SIGNALLED)
    run = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=HANG)
    assert run.stdout == "4 [1, 2, 3] 4\n", run.stderr
    # Of a tracker that a signal ended its heir says so. (That loky forgot to tell one of a semaphore is no matter.)
    assert "died" not in run.stderr
    assert "Traceback" not in run.stderr


WORKER = """
import sys
from pathlib import Path
from sdd_utils.config import Experiment
from sdd_utils.runner import cluster, workers

workers._warm_up()
from sdd_utils.runner.run import run_experiment

run_experiment(Experiment.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
print(*{name.split(".")[0] for name in sys.modules})
"""


def test_a_worker_imports_nothing_for_a_small_network_that_takes_long_and_does_not_train(small, tmp_path):
    command = [sys.executable, "-c", WORKER, small(levels=1).model_dump_json(), tmp_path / "mine"]
    imported = subprocess.check_output(command, text=True).split()
    assert {"torch", "pandas", "codecarbon"} <= {*imported}
    needless = {"scipy", "sklearn", "matplotlib", "seaborn", "torchvision", "timm", "onnx", "IPython", "ray", "lark"}
    assert needless.isdisjoint(imported)


def test_two_experiments_on_each_of_two_gpus_see_their_own_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(workers, "_warm_up", dict)
    executor = workers.local_workers(device="cuda", gpu_share=0.5)
    seen = [executor.submit(_where, tmp_path / "go") for _ in range(4)]  # none ends before all are shared out
    (tmp_path / "go").touch()
    try:
        assert executor.slots() == 4
        assert sorted(future.result() for future in seen) == [("3", "4", "2")] * 2 + [("5", "4", "2")] * 2
    finally:
        executor.stop()


def _where(go):
    while not go.exists():
        time.sleep(0.01)
    return tuple(os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", AT_A_TIME, ON_ONE_GPU))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, "cpu", 0.5), "gpu-share: 0.5 was given, but the device is cpu"),
        ((None, "cuda", 0.0), "gpu-share: should be from 0.01 to 1 (got 0)"),
        ((None, "cuda", 1e-9), "gpu-share: should be from 0.01 to 1 (got 1e-09)"),
        ((None, "cuda", float("nan")), "gpu-share: should be from 0.01 to 1 (got nan)"),
        ((None, "cuda", 2.0), "gpu-share: should be from 0.01 to 1 (got 2)"),
        ((3, "cuda", None), "workers: 3 cannot be shared out evenly among 2 GPUs"),
        ((4, "cuda", 0.5), "workers: 4 and gpu-share 0.5 say the same thing twice; give one of them"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(monkeypatch, given, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError) as error:
        workers.local_workers(*given)
    assert str(error.value) == said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_shared_memory_that_workers_cannot_have_is_named(monkeypatch, number):
    def full(*_, **__):
        raise OSError(number, os.strerror(number))  # as a semaphore's, which names no file

    monkeypatch.setattr(workers, "get_reusable_executor", full)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    said = rf"/dev/shm: {os.strerror(number)}: workers need a few kB of shared memory, and \d+ kB are free; make room"
    with pytest.raises(SweepStopped, match=said):
        workers.local_workers(1)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
