"""Checksums of a finished run, and what happens to files that are not what was written."""

import hashlib
import json
import logging
import os
import re
from pathlib import Path

from sdd_utils.config import Experiment
from sdd_utils.errors import ConfigError, Damaged, printable
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


def finished(exp: Experiment, folder: Path) -> bool:
    """Whether every file of the run is there; ``checkpoints.unsound`` reads them and says whether they are sound.

    Raises ConfigError when what is there, finished or not, is another experiment's: run_ids have 32 bits.
    """
    run = folder / exp.run_id
    try:
        other = Experiment.parse(json.loads((run / "config.json").read_bytes()))
    except (OSError, ValueError, RecursionError):  # missing, or damaged: nothing to compare
        other = exp
    if other != exp and other.run_id == exp.run_id:  # else it is damaged as well: it does not name itself
        field = next(field for field in type(exp).model_fields if getattr(exp, field) != getattr(other, field))
        what = f"{run}: is of another experiment with the same run_id, whose {field} is {getattr(other, field)!r:.80}"
        raise ConfigError(f"{what} and not {getattr(exp, field)!r:.80}; name another folder with --results")
    return is_final(run)


def verify(folder: Path) -> dict[str, str]:
    """What is wrong with each file of a final folder that is missing or not as it was; empty when not final."""
    try:
        sums = _sums(folder)
    except FileNotFoundError:
        return {}
    except Damaged as error:
        return {SUMS: str(error).removeprefix(f"{folder / SUMS}: ")}
    except OSError as error:  # it is a folder, or the run is a file, or a link leads nowhere
        return {SUMS: f"cannot be read ({error.strerror})"}
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
    if os.path.lexists(path):
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
    """Quarantine what is ``wrong`` in a finished run, {file name: why}, which then counts as unfinished, and whatever
    has the name of one of our files and is none; remove temporary files that a kill left behind. Only for who holds the
    run's lock."""
    if os.path.lexists(folder) and not folder.is_dir():
        quarantine(folder, "is not a folder")
        return
    names = [path for path in folder.glob("*") if re.fullmatch(rf"{OWN}|{SUMS}", path.name)]
    wrong = {path.name: "is not a file" for path in names if not path.is_file()} | wrong
    for path in folder.glob(".*"):
        if re.fullmatch(rf"\.({OWN}|{SUMS})\.\d+", path.name) and not path.is_dir():
            path.unlink()
    for name, why in wrong.items():
        quarantine(folder / name, why)
    if wrong:
        (folder / SUMS).unlink(missing_ok=True)  # it would condemn what is made again
