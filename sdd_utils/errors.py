"""What a person can put right: the command line prints these messages without a traceback and exits with REFUSED."""

import re

# Exit statuses
DIFFERENT = 1  # ``verify`` found something damaged, or different from the reference
REFUSED = 2  # a wrong setting, a damaged file, a full disk, a run that failed
REQUEUE = 75  # work remains, and the same command would go on with it (sysexits' EX_TEMPFAIL)
INTERRUPTED = 130  # Ctrl-C, as shells have it
NO_READER = 141  # who read the output has gone, as shells have it


def printable(text: str) -> str:
    """The text with control characters written out: names and lock files may hold some, which a terminal obeys."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


def too_little_memory(error: BaseException) -> str:
    """What to say of an error of Python, numpy or torch that means so; nothing of others."""
    asked = re.search(r"allocate ([\d.]+ \w+)", str(error))
    if not asked and not isinstance(error, MemoryError):
        return ""
    much = f" for another {asked[1]}" if asked else ""
    return f"there is too little memory{much}; fewer --workers, a smaller width or batch_size need less"


class SddError(Exception):
    """The message says what is wrong, where, and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message, without where in this package it was raised."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(SddError, ValueError):
    """A setting that cannot be used; the message names the field, the value and what is allowed."""


class DataError(SddError, ValueError):
    """A dataset that is missing or is not what it should be."""


class DataMissing(DataError):
    """A dataset that has not been downloaded."""


class Damaged(SddError, ValueError):
    """A file that is not what was written."""


class ResultsMissing(SddError, FileNotFoundError):
    """Results that are not there yet; the message says which command makes them."""


class Unsatisfiable(SddError, ValueError):
    """A recommendation was asked for that nothing in the results satisfies; says what comes closest."""


class TrainingDiverged(SddError, RuntimeError):
    """The loss is no longer a number; says at which level, epoch and learning rate."""


class NoSpace(SddError, OSError):
    """The disk is full; says how much is needed and where."""


class SweepStopped(SddError, RuntimeError):
    """A sweep cannot go on in this process; says why and what to do."""


class TrainingStopped(SddError, RuntimeError):
    """A notebook's training has saved its state and left the rest for later; says what is left."""


class WorkerLost(SddError, RuntimeError):
    """A worker or its machine died in the middle of an experiment, which can go on elsewhere."""


class Stopped(Exception):
    """A run has saved its state and left the rest for later, because it was asked to or its time was up."""


class Busy(Exception):
    """A run is being trained by somebody else."""
