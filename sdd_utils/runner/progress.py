"""How far a sweep is: one bar with an ETA, in JupyterLab, in a terminal, or in a log."""

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from tqdm import tqdm

from sdd_utils.config import Experiment
from sdd_utils.errors import ConfigError, printable
from sdd_utils.metrics.flops import level_flops

POLL_SECONDS = 0.5  # between two looks at what runs
LOG_SECONDS = 30.0  # between two lines of progress in a log file, where no line can be drawn over


def bar_of_this_place() -> tuple[type[tqdm], float]:
    """The kind of bar to draw here, and how many seconds apart.

    Not tqdm.auto: it takes a kernel of papermill's for JupyterLab's, whose widgets nobody would see there.
    """
    if "JPY_SESSION_NAME" in os.environ:  # JupyterLab sets it, papermill does not
        from tqdm.notebook import tqdm as widget

        return widget, POLL_SECONDS
    seconds = os.environ.get("SDD_LOG_SECONDS") or str(LOG_SECONDS)
    if not re.fullmatch(r"\d+(\.\d+)?", seconds):
        raise ConfigError(f"SDD_LOG_SECONDS: should be a number of seconds (got {seconds!r})")
    return tqdm, POLL_SECONDS if sys.stderr.isatty() else float(seconds)


class Progress:
    """A bar over training FLOPs, so that the ETA knows that a level of a ResNet is longer than one of an MLP. It reads
    how far each run is from its levels.csv."""

    def __init__(self, experiments: list[Experiment], folder: Path):
        self.tables = {e.run_id: folder / e.run_id / "levels.csv" for e in experiments}
        self.levels = {e.run_id: e.levels + 1 for e in experiments}
        self.done = dict.fromkeys(self.tables, 0)
        self.flops = {e.run_id: list(accumulate(level_flops(e), initial=0.0)) for e in experiments}
        total = sum(flops[-1] for flops in self.flops.values())
        before = sum(self.flops[run][self.levels_of(run)] for run in self.tables)  # it says nothing of the speed of now
        bar, seconds = bar_of_this_place()
        how = {"mininterval": seconds, "miniters": 0, "smoothing": 0, "postfix": self._counts()}
        how["bar_format"] = "{percentage:3.0f}% {bar} {elapsed}, {remaining} left{postfix}"
        self.bar = bar(total=total, initial=before, **how)

    def update(self, runs: Iterable[str]) -> None:
        """Read how far ``runs`` are, which somebody is at, and redraw the bar every now and then."""
        for run in runs:
            self.levels_of(run)
        self.bar.n = sum(self.flops[run][done] for run, done in self.done.items())  # sums of differences would round
        self.bar.set_postfix_str(self._counts(), refresh=False)
        self.bar.update(0)

    def levels_of(self, run: str) -> int:
        """How many levels of the run are finished, as of now."""
        if self.done[run] < self.levels[run]:
            with suppress(OSError):
                rows = self.tables[run].read_bytes().count(b"\n") - 1
                self.done[run] = min(max(rows, 0), self.levels[run])  # it may be damaged
        return self.done[run]

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.bar.write(printable(text), file=sys.stderr)

    def close(self) -> None:
        """Draw the bar a last time."""
        self.bar.close()

    def left(self) -> str:
        """What is not done, for a person who has to decide when to go on."""
        speed = (self.bar.n - self.bar.initial) / max(self.bar.format_dict["elapsed"], 1e-9)
        left = tqdm.format_interval((self.bar.total - self.bar.n) / speed) if speed > 0 else ""
        more = f", about {left} more at this speed" if left else ""
        return f"{self._counts(' and ')} are done{more}; run the same again to go on"

    def _counts(self, between: str = ", ") -> str:
        runs = f"{sum(self.done[run] == self.levels[run] for run in self.done)}/{len(self.done)} runs"
        return f"{runs}{between}{sum(self.done.values())}/{sum(self.levels.values())} levels"
