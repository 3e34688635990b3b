"""Files that can be trusted: written whole or not at all, and checked before they are read."""

import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pandas as pd

from sdd_utils.errors import ConfigError, Damaged, NoSpace

SUMS = "SHA256SUMS"
"""The checksums of a finished run's files, as ``sha256sum -c`` reads them. Written last: it marks the end."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

log = logging.getLogger("sdd_utils")


def write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary file, sync and rename: a reader, a kill or a power cut never sees half of it.

    Raises NoSpace when the disk is full; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
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
    return NoSpace(
        f"{path.parent}: no space left: {path.name} needs {needed / 1e6:.2f} MB, {free / 1e6:.2f} MB are free (or a "
        "quota is used up). What was finished is safe; make room there, or name another disk with --results, and give "
        "the same command again"
    )


def make_folder(folder: Path) -> None:
    """Make the folder for results. Raises ConfigError when it cannot be written, NoSpace when the disk is full."""
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno in FULL:
            raise no_space(probe, 0) from None
        raise ConfigError(
            f"results: {folder} cannot be written ({error.strerror}); name another with --results"
        ) from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)  # the new name is in the folder, which has a cache of its own
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot
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


def read_csv(path: Path | io.StringIO) -> pd.DataFrame:
    """What ``write_csv`` wrote; only an empty field is missing, ``none`` is a word. Raises Damaged."""
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except ValueError as error:  # pandas' parser errors are, and those of decoding
        raise Damaged(f"{path}: is not a CSV table: {' '.join(str(error).split())}") from None


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Write the checksums of all files in ``folder``, which are final from now on."""
    files = [p for p in sorted(folder.iterdir()) if p.name != SUMS and not is_aside(p) and not p.name.startswith(".")]
    write_bytes(folder / SUMS, _signed([f"{sha256(path)}  {path.name}" for path in files]).encode())


def _signed(lines: list[str]) -> str:
    """The lines and, as a comment, their own checksum, without which a list that was cut would pass for a whole one."""
    text = "".join(f"{line}\n" for line in lines)
    return f"{text}# {hashlib.sha256(text.encode()).hexdigest()}\n"


def is_sealed(folder: Path) -> bool:
    """Whether the folder has checksums and every file that they name; reads no file but that."""
    try:
        return all((folder / name).exists() for name in _sums(folder))
    except (OSError, Damaged):
        return False


def unsound(folder: Path) -> dict[str, str]:
    """What is wrong with each file of a sealed folder that is missing or not as it was; empty when not sealed."""
    try:
        sums = _sums(folder)
    except FileNotFoundError:
        return {}
    except Damaged as error:
        return {SUMS: str(error).removeprefix(f"{folder / SUMS}: ")}
    wrong = {}
    for name, digest in sums.items():
        if not (folder / name).exists():
            wrong[name] = "is missing"
            continue
        try:
            if sha256(folder / name) != digest:
                wrong[name] = f"differs from its checksum in {SUMS}"
        except OSError as error:
            wrong[name] = f"cannot be read ({error.strerror})"
    return wrong


def _sums(folder: Path) -> dict[str, str]:
    """{file name: digest}. Raises Damaged when the list is not what ``seal`` wrote."""
    text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()[:-1]
    if text != _signed(lines):
        raise Damaged(f"{folder / SUMS}: is not the list that was written")
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if any(Path(name).name != name or name in ("", "..") for name in sums):
        raise Damaged(f"{folder / SUMS}: names files outside of its folder")
    return sums


def set_aside(path: Path, why: str) -> None:
    """Rename a damaged file to ``<name>.damaged`` (``.damaged-2``, …) and say so; it is never deleted."""
    if not path.exists():
        log.warning(f"warning: {path}: {why}; it will be made again")
        return
    aside, n = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        n += 1
        aside = path.with_name(f"{path.name}.damaged-{n}")
    path.rename(aside)
    log.warning(f"warning: {path}: {why}; set aside as {aside.name}, it will be made again")


def is_aside(path: Path) -> bool:
    """Whether ``set_aside`` gave the file its name."""
    return ".damaged" in path.name


def repair(folder: Path) -> None:
    """Set aside what is damaged in a finished run, and remove the temporary files that a kill left behind.

    The run then counts as unfinished until it is sealed anew. Only for who holds the run's lock.
    """
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.\d+", path.name):
            path.unlink()
    if wrong := unsound(folder):
        for name, why in wrong.items():
            set_aside(folder / name, why)
        (folder / SUMS).unlink(missing_ok=True)  # it would condemn what is made again
