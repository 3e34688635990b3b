"""The committed reference of a profile, made of finished runs: of all at once, or of some after others.

python -m scripts.publish --profile digits [--only seed=0]
"""

import json
from collections import Counter
from pathlib import Path

import click
import pandas as pd

from benchmarks.deploy import deployment
from scripts.figures import save_figures
from sdd_utils.analysis.claims import claims_table
from sdd_utils.cli.commands import main, only_option, profile_option, results_option
from sdd_utils.errors import ConfigError
from sdd_utils.files import read_csv, write_csv, write_json
from sdd_utils.profiles import load_profile
from sdd_utils.study import ALL, Study
from sdd_utils.tables import FIGURES, REFERENCE, RUNS

ALIKE = ("python", "packages", "cpu", "cores", "gpu", "country", "device", "threads")
"""What all runs of a reference have in common."""


def publish(name: str, runs: Path = RUNS, only: str = "") -> None:
    """Make this machine's finished runs of a profile the committed reference: results, their origin, and figures.

    Those that ``only`` selects are added to what the reference holds already, so that a profile may be trained on one
    machine after another. Raises ResultsMissing when a run is not finished; ConfigError when one does not come from a
    commit without uncommitted changes, or from another kind of machine than the others, or is held already, and when
    there would be no vanilla curve.
    """
    target, study = REFERENCE / name, Study(name, runs, ALL, only=only)
    tables = {"levels": study.levels()}
    records = [json.loads((study.folder / run / "provenance.json").read_text(encoding="utf-8"))
               for run in tables["levels"]["run_id"].unique()]  # fmt: skip
    origins = [{"runs_by_commit": {record["commit"]: 1}, **record} for record in records]
    held = {}
    if only and (target / "levels.csv").exists():
        paths = [target / f"{table}.csv" for table in ("levels", "weights", "deployment")]
        held = {path.stem: read_csv(path) for path in paths if path.exists()}
        origins.insert(0, json.loads((target / "provenance.json").read_text(encoding="utf-8")))
    origin = _origin(origins)
    if not study.profile.tunes:
        tables["weights"] = study.weights()
        tables["deployment"] = deployment(study.profile.experiments(), study.folder, set(tables["levels"]["run_id"]))
    if held:
        tables = _joined(name, held, tables)
    if not (tables["levels"]["method"] == "vanilla").any():
        raise ConfigError("only: a reference without a vanilla curve has nothing to compare with; publish one first")
    if "weights" in tables:
        tables["claims"] = claims_table(tables["levels"])
    for table, rows in tables.items():
        if table != "deployment" or len(rows):  # of a profile without students there is none
            write_csv(target / f"{table}.csv", rows)
    write_json(target / "provenance.json", {"profile": name, **origin})
    save_figures(name, FIGURES / name)


def _origin(origins: list[dict]) -> dict:
    commits = sum((Counter(origin["runs_by_commit"]) for origin in origins), Counter())
    each = {commit for several in commits for commit in several.split(", ")}  # a run may go on under another
    if any(commit.startswith("unknown") or "-dirty" in commit for commit in each):
        raise ConfigError(f"commit: a reference comes from committed code, these runs from {sorted(commits)}")
    first, *others = ({key: origin.get(key) for key in ALIKE} for origin in origins)
    for other in others:
        for key in ALIKE:
            if other[key] != first[key]:
                raise ConfigError(f"{key}: a reference comes from one kind of machine: {first[key]} or {other[key]}")
    time = {"started": min(o["started"] for o in origins), "ended": max(o["ended"] for o in origins)}
    return {"runs_by_commit": dict(commits), **first, **time}


def _joined(name: str, held: dict[str, pd.DataFrame], new: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The reference's tables and those of other runs, as if all had been tabulated at once."""
    if len(both := set(held["levels"]["run_id"]) & set(new["levels"]["run_id"])):
        raise ConfigError(f"only: {len(both)} of these runs are in the reference already ({min(both)}, …)")
    order = {exp.run_id: place for place, exp in enumerate(load_profile(name).experiments())}
    levels = pd.concat([held["levels"], new["levels"]])
    tables = {"levels": levels.sort_values("run_id", key=lambda ids: ids.map(order), kind="stable", ignore_index=True)}
    if "weights" in new:
        weights = pd.concat([held["weights"], new["weights"]]) if len(new["weights"]) else held["weights"]
        keys = [column for column in weights if column != "count"]
        tables["weights"] = weights.groupby(keys, as_index=False)["count"].sum()
        deployed, more = held.get("deployment", new["deployment"][:0]), new["deployment"]  # older references have none
        held_of = set(zip(deployed["dataset"], deployed["arch"], strict=True))
        more = more[[of not in held_of for of in zip(more["dataset"], more["arch"], strict=True)]]
        tables["deployment"] = pd.concat([deployed, more], ignore_index=True) if len(more) else deployed
    return tables


@click.command()
@profile_option
@only_option
@results_option
def publish_command(profile: str, only: str, results: Path) -> None:
    """Make this machine's finished runs the committed reference of their profile; with --only, add some to it."""
    publish(profile, results, only)


if __name__ == "__main__":
    main(publish_command)
