"""Where experiments that train at a time wait for each other."""

import secrets
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Barrier:
    """A folder in which experiments that train at a time wait for each other, so that they are timed together."""

    folder: Path
    number: int

    def arrive(self, at: str) -> None:
        """Say that one has come so far."""
        (self.folder / f"{at}{secrets.token_hex(8)}").touch()

    def all_are(self, at: str) -> bool:
        """Whether everyone has."""
        return len(list(self.folder.glob(f"{at}*"))) >= self.number

    def wait(self, at: str, every: float = 0.001) -> None:
        """Arrive, and wait for the others, looking for them ``every`` so many seconds."""
        self.arrive(at)
        while not self.all_are(at):
            time.sleep(every)
