"""A run's files on their way between machines that share no folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from sdd_utils.files import SUMS, write_bytes


@dataclass(frozen=True)
class Parcel:
    """``files`` are new or changed, by name; ``names`` are all that the run has."""

    files: dict[str, bytes]
    names: frozenset[str]

    def unpack(self, run: Path) -> None:
        """Write the files into ``run``, the list of checksums last, and remove the networks it keeps no longer."""
        for name in sorted(self.files, key=lambda name: name == SUMS):
            write_bytes(run / name, self.files[name])
        for path in run.glob("level-*.safetensors"):
            if path.name not in self.names:
                path.unlink()


class Packer:
    """Remembers what of a run was packed, to pack only what is new. Every file is written at once (``files``), so
    whatever is read is whole."""

    def __init__(self, run: Path):
        self.run = run
        self.packed: dict[str, tuple[int, int, int]] = {}

    def pack(self) -> Parcel:
        """What changed since the last time. A network under two names is packed once, as one object."""
        files, contents = {}, {}
        names = frozenset(path.name for path in self.run.glob("[!.]*") if path.is_file())
        # The checksums are written when all else is final: seen before the others are read, they are of these.
        for name in sorted(names):
            try:
                with open(self.run / name, "rb") as file:
                    stat = os.fstat(file.fileno())
                    stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                    if self.packed.get(name) == stamp:
                        continue
                    if stamp not in contents:
                        contents[stamp] = file.read()
            except FileNotFoundError:  # a level that is not kept
                continue
            files[name], self.packed[name] = contents[stamp], stamp
        return Parcel(files, names)
