"""Disturb real sweeps in every way that machines do, run them again, and compare with an undisturbed one.

    python tests/faults/inject.py --faults 200 --record results/reference/faults

Each cycle takes a part of the ``smoke`` profile and an empty results folder, injects four to ten faults, one a sweep,
and lets a last sweep finish. After every fault, every run that counts as finished must equal the undisturbed one byte
for byte but for the clock (*altered* counts those that do not), no level that was finished before may have been trained
again unless its own files were damaged (*lost*), and no process and no traceback may be left, and nothing of anybody
else's be gone (*untidy*).
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from sdd_utils.files import read_csv, write_csv, write_json
from sdd_utils.runner.checkpoints import _digest
from sdd_utils.runner.integrity import SUMS, finalise, is_final, is_quarantined, own_files, verify
from sdd_utils.runner.provenance import provenance
from sdd_utils.tables import MEASURED_ON_THE_CLOCK

PARTS = ["arch=mlp,noise_rate=0.3,seed=0", "arch=mlp,seed=1", "arch=vit,seed=0", "arch=resnet18", "arch=vgg_like"]
SIGNALS = ["SIGKILL", "SIGTERM", "SIGUSR1", "SIGINT"]
DAMAGE = ["flip a byte of", "cut", "remove", "add half a row to"]
KINDS = [
    *[f"{name} to the sweep" for name in SIGNALS],
    *[f"{name} to a worker" for name in SIGNALS[:3]],
    *[f"{name} to all" for name in SIGNALS],
    *[f"{how} a file {when}" for how in DAMAGE for when in ("", "live")],
    *[f"{how} a file, then SIGKILL to all" for how in ("flip a byte of", "remove")],  # and kill the repair
    *["time budget", "full disk", "full disk", "two rivals", "three rivals, one killed"],
    *["SIGKILL to all, then exchanges refused", "foreign entries live"],
    *["forge a file ", "SIGSTOP to a worker after a save, then SIGCONT"],
]
REFUSING = Path(__file__).with_name("refusing")  # what a sweep's file system cannot do, see there
FOREIGN = (".ipynb_checkpoints/levels-checkpoint.csv", ".bashrc.1", "drafts/levels.csv", "notes.txt")
DISK_MB = 16
HANG = 3600  # seconds that no sweep takes, however busy the machine is


@dataclass
class Bench:
    """Where the undisturbed results are, how long each part of them took, and where the disturbed sweeps work."""

    undisturbed: Path
    seconds: dict[str, float]
    disturbed: Path
    is_small: bool  # whether ``disturbed`` is a small disk of its own


def undisturbed(folder: Path, parts: list[str]) -> dict[str, float]:
    """Run every part as it should be; seconds by part."""
    seconds = {}
    for part in parts:
        begin = time.monotonic()
        code, said = end(start(folder, part))
        assert code == 0, said
        seconds[part] = time.monotonic() - begin
    return seconds


def start(
    results: Path, part: str, *options: str, workers: int = 1, limit: int | None = None, refusing: bool = False
) -> subprocess.Popen:
    """A sweep in a process group of its own. ``limit`` is the largest file that it may write, in bytes; where its file
    system is ``refusing``, two names cannot be exchanged."""
    command = ["bash", "-c", f'ulimit -f {limit // 1024}; exec "$0" "$@"'] if limit else []
    command += [sys.executable, "-m", "sdd_utils", "run", "--profile", "smoke", "--workers", str(workers)]
    path = os.pathsep.join(filter(None, [str(REFUSING) if refusing else "", os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [*command, "--only", part, "--results", str(results), *options],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def end(sweep: subprocess.Popen) -> tuple[int, str]:
    """Wait for a sweep; its exit status and what it printed."""
    said, _ = sweep.communicate(timeout=HANG)
    return sweep.returncode, said


def leftovers(sweep: subprocess.Popen, patience: float = 600) -> int:
    """Processes of the sweep's group that do not end."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        alive = [p for p in psutil.process_iter(["status"]) if _group(p) == sweep.pid]
        if all(p.info["status"] == psutil.STATUS_ZOMBIE for p in alive):
            return 0
        time.sleep(0.2)
    return len(alive)


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def snapshot(folder: Path) -> dict[str, list[bytes]]:
    """The finished levels of every run, as lines of levels.csv, clock included."""
    tables = folder.glob("smoke/*/levels.csv")
    return {table.parent.name: table.read_bytes().splitlines()[1:] for table in tables}  # damaged ones are not UTF-8


def altered(bench: Bench) -> list[str]:
    """Runs that count as finished and sound, and differ from the undisturbed ones in more than the clock."""
    runs = [path.parent for path in (bench.disturbed / "smoke").glob("*/SHA256SUMS")]
    runs = [run for run in runs if is_final(run) and not verify(run)]
    return [run.name for run in runs if content(run) != content(bench.undisturbed / "smoke" / run.name)]


def content(run: Path) -> dict[str, object]:
    """All that a run's files hold but for what the clock showed."""
    held: dict[str, object] = {}
    for path in own_files(run):
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                held[path.name] = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
                history = json.loads(file.metadata()["history"])
            rows = [{k: v for k, v in row.items() if k not in MEASURED_ON_THE_CLOCK} for row in history["rows"]]
            held[f"{path.name}: history"] = (rows, history["histograms"])
        elif path.name == "levels.csv":
            held[path.name] = pd.read_csv(path, dtype=str).drop(columns=MEASURED_ON_THE_CLOCK).to_csv()
        elif path.name in ("emissions.csv", "provenance.json"):
            held[path.name] = True  # the clock and nothing else
        else:
            held[path.name] = path.read_bytes()
    return held


def damage(folder: Path, how: str, rng: random.Random) -> str | None:
    """Damage one file of a random run; returns the run's name, or None when there is nothing to damage."""
    files = [path for path in sorted(folder.glob("smoke/*/*")) if path.is_file() and not path.name.startswith(".")]
    files = [path for path in files if not is_quarantined(path) and path.name not in FOREIGN]
    if suffix := {"add half a row to": ".csv", "forge": ".safetensors"}.get(how):
        files = [path for path in files if path.suffix == suffix]
    if not files:
        return None
    path = rng.choice(files)
    try:
        size = path.stat().st_size
        if how == "remove":
            path.unlink()
        elif how == "forge":
            forge(path, lambda tensors, _: tensors["vector"][:1].fill_(float("nan")))
            if (path.parent / SUMS).exists():
                finalise(path.parent)
        elif how == "cut":
            os.truncate(path, rng.randrange(size) if size else 0)
        elif how == "add half a row to":
            with open(path, "a") as file:
                file.write("digits-mlp32-sym0.3-van")
        elif size:
            with open(path, "r+b") as file:
                position = rng.randrange(size)
                file.seek(position)
                byte = file.read(1)[0]
                file.seek(position)
                file.write(bytes([byte ^ (1 << rng.randrange(8))]))
    except FileNotFoundError:  # the sweep was faster
        return None
    return path.parent.name


def forge(path: Path, change: Callable[[dict, dict], object]) -> None:
    """Have ``change`` alter the tensors and the metadata of a run's state, and make its checksum right."""
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    del metadata["sha256"]
    change(tensors, metadata)
    save_file(tensors, path, metadata | {"sha256": _digest(tensors, metadata)})


def pause_after_a_save(sweep: subprocess.Popen, folder: Path, rng: random.Random) -> None:
    """Stop a worker for a second as soon as a state is newer than the tables that are made of it, if that is seen."""
    while sweep.poll() is None:
        for state in folder.glob("smoke/*/level-*.safetensors"):
            with suppress(FileNotFoundError):
                if state.stat().st_mtime_ns > (state.parent / "levels.csv").stat().st_mtime_ns:
                    strike(sweep, "SIGSTOP", "a worker", rng)
                    time.sleep(1)
                    return strike(sweep, "SIGCONT", "a worker", rng)
        time.sleep(0.001)
    return None


def add_foreign_entries(folder: Path) -> None:
    """Put into the folder of every run what is nobody's business there."""
    for run in folder.glob("smoke/digits-*"):
        for path in (run / name for name in FOREIGN):
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")


def lost_entries(folder: Path) -> int:
    """In how many runs that have such entries some are gone or changed."""
    runs = [[run / name for name in FOREIGN] for run in folder.glob("smoke/digits-*")]
    runs = [paths for paths in runs if any(path.exists() for path in paths)]
    return sum(not all(path.exists() and path.read_text() == "mine" for path in paths) for paths in runs)


@contextmanager
def full_disk(folder: Path, is_small: bool, rng: random.Random):
    """Fill the folder's small disk but for a few kilobytes; yields the largest file allowed where there is none."""
    if not is_small:
        yield rng.randrange(2_000, 60_000)
        return
    filler = folder / "filler"
    room = shutil.disk_usage(folder).free - rng.randrange(4_096, 400_000)
    filler.write_bytes(b"\0" * max(room, 0))
    try:
        yield None
    finally:
        filler.unlink()


def inject(bench: Bench, part: str, kind: str, rng: random.Random) -> dict:
    """One sweep with one fault; what was done, when, and how the sweep ended."""
    moment = rng.uniform(0.2, 0.95) * bench.seconds[part]
    hit, sweeps = None, []
    if kind.endswith("a file ") or "a file, then" in kind:
        hit = damage(bench.disturbed, kind.split(" a file")[0], rng)
    if kind == "full disk":
        with full_disk(bench.disturbed, bench.is_small, rng) as limit:
            sweeps = [start(bench.disturbed, part, limit=limit)]
            code, said = end(sweeps[0])
    elif kind == "time budget":
        sweeps = [start(bench.disturbed, part, "--time-budget", f"{moment:.1f}s")]
        code, said = end(sweeps[0])
    elif kind.endswith("exchanges refused"):
        killed = start(bench.disturbed, part)
        time.sleep(moment)
        strike(killed, "SIGKILL", "all", rng)
        end(killed)
        sweeps = [killed, start(bench.disturbed, part, refusing=True)]
        code, said = end(sweeps[1])
    elif kind == "foreign entries live":
        sweeps = [start(bench.disturbed, part)]
        time.sleep(moment)
        add_foreign_entries(bench.disturbed)
        code, said = end(sweeps[0])
    elif kind.startswith("SIGSTOP"):
        sweeps = [start(bench.disturbed, part)]
        time.sleep(moment)
        pause_after_a_save(sweeps[0], bench.disturbed, rng)
        code, said = end(sweeps[0])
    else:
        number = {"two rivals": 2, "three rivals, one killed": 3}.get(kind, 1)
        sweeps = [start(bench.disturbed, part, workers=rng.choice([1, 1, 2])) for _ in range(number)]
        time.sleep(moment if "rivals" not in kind or number == 3 else 0)
        if kind.endswith("live"):
            hit = damage(bench.disturbed, kind.split(" a file")[0], rng)
        elif number == 3:
            strike(sweeps[0], "SIGKILL", "all", rng)
        elif "SIG" in kind:
            strike(sweeps[0], *kind.split("then ")[-1].split(" to "), rng)
        ends = [end(sweep) for sweep in sweeps]
        code, said = ends[-1][0], "".join(text for _, text in ends)
    unexpected, untidy = code not in expected(kind), sum(map(leftovers, sweeps)) + lost_entries(bench.disturbed)
    return {
        "kind": kind.strip(),
        "second": round(moment, 2),
        "exit_status": code,
        "hit": hit,
        "untidy": untidy + said.count("Traceback (most recent call last)") + unexpected,
        "said": said,
    }


def expected(kind: str) -> set[int]:
    """The exit statuses that a fault may lead to; 0 when it came too late, −n when no Python was there to handle it."""
    for word, statuses in {
        "exchanges refused": {0},
        "foreign entries": {0},
        "SIGSTOP": {0},
        "SIGKILL to a worker": {0, 2},
        "SIGKILL": {0, -signal.SIGKILL},
        "SIGTERM": {0, 75, -signal.SIGTERM},
        "SIGUSR1": {0, 75, -signal.SIGUSR1},
        "SIGINT": {0, 130, -signal.SIGINT},
        "time budget": {0, 75},
        "full disk": {0, 2},
        "live": {0, 2},
    }.items():
        if word in kind:
            return statuses
    return {0}


def strike(sweep: subprocess.Popen, name: str, whom: str, rng: random.Random) -> None:
    """Send a signal to the sweep, to one of its workers or to all its processes, if they are still there."""
    number = getattr(signal, name)
    try:
        if whom == "the sweep":
            sweep.send_signal(number)
        elif whom == "all":
            os.killpg(sweep.pid, number)
        elif workers := [p for p in psutil.Process(sweep.pid).children() if "LokyProcess" in " ".join(p.cmdline())]:
            rng.choice(workers).send_signal(number)
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass


def run(faults: int, kinds: list[str], bench: Bench, rng: random.Random, bar: tqdm) -> list[dict]:
    """Inject ``faults`` faults of these ``kinds``; one row each."""
    rows: list[dict] = []
    deck: list[str] = []
    while len(rows) < faults:
        part = rng.choice(list(bench.seconds))
        for path in bench.disturbed.glob("*"):
            shutil.rmtree(path)
        cycle, hit = [], set()
        for _ in range(min(rng.randint(4, 10), faults - len(rows))):
            deck = deck or rng.sample(kinds, len(kinds))  # every kind once before any comes again
            before = snapshot(bench.disturbed)
            fault = inject(bench, part, deck.pop(), rng)
            hit.add(fault["hit"])
            harm(fault, before, bench, hit)
            cycle.append(fault)
            bar.update()
        before = snapshot(bench.disturbed)
        code, said = end(start(bench.disturbed, part))
        last: dict = {}
        harm(last, before, bench, hit)
        complete = {run.name for run in (bench.disturbed / "smoke").glob("digits-*") if is_final(run)}
        expected = {path.parent.name for path in (bench.disturbed / "smoke").glob("*/config.json")}
        fault["lost"] += last["lost"] + len(expected - complete) + (code != 0)
        fault["altered"] += last["altered"]
        if code:
            fault["said"] += said
        rows += [{"part": part, **row} for row in cycle]
        for row in cycle:
            if row["lost"] + row["altered"] + row["untidy"]:
                counts = f"{row['lost']} lost, {row['altered']} altered, {row['untidy']} untidy"
                bar.write(f"--- {row['kind']}, {part}, status {row['exit_status']}: {counts}\n{row['said'][-2000:]}")
    return rows


def harm(fault: dict, before: dict[str, list[bytes]], bench: Bench, hit: set[str | None]) -> None:
    """Count what the fault cost: levels that were finished before and are not now, and runs that are not the same.

    A run that was ``hit``, that is damaged, may train again.
    """
    after = snapshot(bench.disturbed)
    spared = {run: lines for run, lines in before.items() if run not in hit}
    fault["levels_before"] = sum(map(len, before.values()))
    fault["lost"] = sum(line not in after.get(run, []) for run, lines in spared.items() for line in lines)
    fault["altered"] = len(altered(bench))


def small_disk(folder: Path) -> bool:
    """Put a small disk of its own under the disturbed sweeps, where this user may."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def main() -> int:
    """Inject, print what was lost and altered, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time, each in a folder of its own")
    parser.add_argument("--parts", nargs="+", default=PARTS, help="values of --only, each a part of the smoke profile")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, metavar="KIND", help="of faults; else all")
    parser.add_argument("--record", type=Path, help="a folder for faults.csv and provenance.json")
    given = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        disks = {folder / f"disturbed-{job}": small_disk(folder / f"disturbed-{job}") for job in range(given.jobs)}
        try:
            seconds = undisturbed(folder / "undisturbed", given.parts)
            bar = tqdm(total=given.faults, desc="faults")

            def job(number: int) -> list[dict]:
                disk, is_small = list(disks.items())[number]
                mine = len(range(number, given.faults, given.jobs))
                bench = Bench(folder / "undisturbed", seconds, disk, is_small)
                return run(mine, given.kinds, bench, random.Random(f"{given.seed}/{number}"), bar)

            with ThreadPoolExecutor(given.jobs) as pool:
                rows = pd.DataFrame([row for rows in pool.map(job, range(given.jobs)) for row in rows])
            bar.close()
        finally:
            for disk, is_small in disks.items():
                if is_small:
                    subprocess.run(["umount", "-l", str(disk)])
    rows.insert(0, "fault", range(1, len(rows) + 1))
    counts = {column: int(rows[column].sum()) for column in ("lost", "altered", "untidy")}
    print(f"{len(rows)} faults injected, seed {given.seed}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    if given.record:
        disk = f"a tmpfs of {DISK_MB} MB" if all(disks.values()) else "a limit on the size of a file"
        facts = {"faults": len(rows), **counts, "seed": given.seed, "jobs": given.jobs, "disk": disk}
        facts |= {"minutes": round((time.monotonic() - begin) / 60, 1), **provenance()}
        write_csv(given.record / "faults.csv", rows.drop(columns="said"))
        write_json(given.record / "provenance.json", facts)
        print(read_csv(given.record / "faults.csv").groupby("kind")[["lost", "altered", "untidy"]].agg("sum"))
    return int(any(counts.values()))


if __name__ == "__main__":
    sys.exit(main())
