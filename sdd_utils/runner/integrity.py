"""Checksums of a finished run, and what happens to files that are not what was written."""

import hashlib
import logging
import re
from pathlib import Path

from sdd_utils.errors import Damaged, printable
from sdd_utils.files import sha256, write_bytes

SUMS = "SHA256SUMS"  # of a finished run's files, as ``sha256sum -c`` reads it; written last, it marks the end
ALWAYS = ("config.json", "levels.csv", "weights.csv", "provenance.json")  # in every finished run
OWN = rf"(?:{'|'.join(map(re.escape, ALWAYS))}|emissions\.csv|(?:level-\d+|checkpoint)\.safetensors)"

log = logging.getLogger("sdd_utils")


def own_files(folder: Path) -> list[Path]:
    """What a run has written, without SUMS. Whatever else is in its folder (notes, Jupyter's ``.ipynb_checkpoints``) is
    somebody else's: neither read, copied, sealed nor removed."""
    return [path for path in sorted(folder.glob("*")) if re.fullmatch(OWN, path.name) and path.is_file()]


def finalise(folder: Path) -> None:
    """Write the checksums of a run's files, which are final from now on."""
    lines = [f"{sha256(path)}  {path.name}" for path in own_files(folder)]
    write_bytes(folder / SUMS, _with_checksum(lines).encode())


def _with_checksum(lines: list[str]) -> str:
    """The lines and, as a comment, their own checksum, without which a list that was cut would pass for a whole one."""
    text = "".join(f"{line}\n" for line in lines)
    return f"{text}# {hashlib.sha256(text.encode()).hexdigest()}\n"


def is_final(folder: Path) -> bool:
    """Whether the folder has checksums and every file that they name; reads no file but that."""
    try:
        return all((folder / name).exists() for name in _sums(folder))
    except (OSError, Damaged):
        return False


def verify(folder: Path) -> dict[str, str]:
    """What is wrong with each file of a final folder that is missing or not as it was; empty when not final."""
    try:
        sums = _sums(folder)
    except FileNotFoundError:
        return {}
    except Damaged as error:
        return {SUMS: str(error).removeprefix(f"{folder / SUMS}: ")}
    wrong = {}
    for name, digest in sums.items():
        try:
            if sha256(folder / name) != digest:
                wrong[name] = f"differs from its checksum in {SUMS}"
        except FileNotFoundError:
            wrong[name] = "is missing"
        except OSError as error:
            wrong[name] = f"cannot be read ({error.strerror})"
    return wrong


def _sums(folder: Path) -> dict[str, str]:
    """{file name: digest} of a run's own files. Raises Damaged when the list is not what ``finalise`` wrote."""
    text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()[:-1]
    if text != _with_checksum(lines):
        raise Damaged(f"{folder / SUMS}: is not the list that was written")
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if any(Path(name).name != name or name in ("", "..") for name in sums):
        raise Damaged(f"{folder / SUMS}: names files outside of its folder")
    return {name: digest for name, digest in sums.items() if re.fullmatch(OWN, name)}


def quarantine(path: Path, why: str) -> None:
    """Rename a damaged file to ``<name>.damaged`` (``.damaged-2``, …) and say so; it is never deleted."""
    renamed, n = "", 1
    if path.exists():
        aside = path.with_name(f"{path.name}.damaged")
        while aside.exists():
            n += 1
            aside = path.with_name(f"{path.name}.damaged-{n}")
        path.rename(aside)
        renamed = f"renamed to {aside.name}, "
    log.warning(printable(f"warning: {path}: {why}; {renamed}it will be made again"))


def is_quarantined(path: Path) -> bool:
    """Whether ``quarantine`` gave the file its name."""
    return bool(re.fullmatch(rf"({OWN}|{SUMS})\.damaged(-\d+)?", path.name))


def repair(folder: Path, wrong: dict[str, str]) -> None:
    """Quarantine what is ``wrong`` in a finished run, {file name: why}, which then counts as unfinished, and remove
    temporary files that a kill left behind. Only for who holds the run's lock."""
    for path in folder.glob(".*"):
        if re.fullmatch(rf"\.({OWN}|{SUMS})\.\d+", path.name) and not path.is_dir():
            path.unlink()
    for name, why in wrong.items():
        quarantine(folder / name, why)
    if wrong:
        (folder / SUMS).unlink(missing_ok=True)  # it would condemn what is made again
