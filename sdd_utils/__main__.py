"""``python -m sdd_utils``: the commands are in ``cli``. Here is what a signal means while no sweep is there to ask."""

import os
import signal
import sys
from contextlib import suppress

from sdd_utils.errors import INTERRUPTED, REQUEUE


def leave(status: int) -> None:
    """End at once, without waiting for workers that are still starting; they notice and end too."""
    with suppress(OSError):  # of a terminal that is closed
        print("\nStopped. Everything that was saved is safe; the same command goes on from there.", file=sys.stderr)
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda *_: leave(REQUEUE))
    try:
        from sdd_utils.cli.commands import main  # takes seconds, in which a signal is no error either

        main()
    except KeyboardInterrupt:
        leave(INTERRUPTED)
