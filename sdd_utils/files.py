"""Files that can be trusted: written whole or not at all."""

import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

import pandas as pd

from sdd_utils.errors import ConfigError, Damaged, NoSpace

ROOT = Path(__file__).resolve().parent.parent  # the project's folder
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary file, sync and rename: a reader, a kill or a power cut never sees half of it.

    Raises NoSpace when the disk is full; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # made here: whoever guesses the name could put a link there
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        if error.errno not in FULL:
            raise
        raise no_space(path, len(data)) from None


def no_space(path: Path, needed: int) -> NoSpace:
    """The error to raise when ``needed`` bytes for ``path`` do not fit."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    why = f"{path.name} needs {needed / 1e6:.2f} MB, {free / 1e6:.2f} MB are free (or a quota is used up)"
    do = "make room there, or name another disk with --results, and give the same command again"
    return NoSpace(f"{path.parent}: no space left: {why}. What was finished is safe; {do}")


def make_folder(folder: Path) -> None:
    """Make the folder for results. Raises ConfigError when it cannot be written, NoSpace when the disk is full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno in FULL:
            raise no_space(folder / "a file", 0) from None
        why = f"{folder} cannot be written ({error.strerror})"
        raise ConfigError(f"results: {why}; name another with --results") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)  # the new name is in the folder, which has a cache of its own
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


def as_csv(table: pd.DataFrame) -> str:
    """The table as tidy CSV with six significant digits."""
    return table.to_csv(index=False, float_format="%.6g")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """``as_csv``, written atomically."""
    write_bytes(path, as_csv(table).encode())


def write_json(path: Path, value: dict) -> None:
    """Indented JSON, written atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_csv(path: Path | io.StringIO, needed: Iterable[str] = ()) -> pd.DataFrame:
    """What ``write_csv`` wrote; only an empty field is missing, ``none`` is a word. Raises Damaged, also where a column
    is missing that is ``needed``."""
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except ValueError as error:  # pandas' parser errors are, and those of decoding
        raise Damaged(f"{path}: is not a CSV table: {' '.join(str(error).split())}") from None
    if missing := [column for column in needed if column not in table]:
        raise Damaged(f"{path}: column {missing[0]} is missing")
    return table


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
