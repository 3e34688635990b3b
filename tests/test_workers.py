import subprocess
import sys

SIGNALLED = """
import psutil, signal
from sdd_utils import workers

if __name__ == "__main__":
    workers._warm_up = dict  # the imports: it takes seconds and has no part in this
    executor = workers.local_workers(2)
    helpers = psutil.Process().children(recursive=True)  # workers, just started, and the trackers of their resources
    for helper in helpers:
        for number in workers.SIGNALS:
            helper.send_signal(number)
    print(len(helpers), list(executor.map(abs, [-1, -2, -3])), sum(helper.is_running() for helper in helpers))
    workers.stop_workers(executor)
"""


def test_signals_to_every_process_beside_the_sweep_end_none(tmp_path):
    (tmp_path / "script.py").write_text(SIGNALLED)
    run = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=100)
    assert (run.stdout, run.stderr) == ("4 [1, 2, 3] 4\n", "")
