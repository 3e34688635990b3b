"""From a profile's name to its results: train, tabulate, draw, execute the notebooks, compare with the reference."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pandas as pd
import yaml
from tqdm import tqdm

from sdd_utils import figures
from sdd_utils.claims import claims_table
from sdd_utils.profiles import PROFILES, load_profile
from sdd_utils.results import FIGURES, REFERENCE, ROOT, RUNS, load_levels, load_weights, write_csv, write_json

NOTEBOOKS = ROOT / "notebooks"


def train(name: str, workers: int | None = None, runs: Path = RUNS) -> dict[str, str]:
    """Run every experiment of a profile that is not finished; returns {run_id: error} of what failed."""
    from sdd_utils.sweep import local_workers, run_sweep  # torch takes seconds to import, and figures need none of it

    return run_sweep(load_profile(name).experiments(), runs / name, local_workers(workers))


def tabulate(name: str, runs: Path = RUNS) -> pd.DataFrame:
    """Write levels.csv, weights.csv and claims.csv of this machine's runs beside them; returns the claims."""
    levels = load_levels(runs, name)
    wanted = {exp.run_id for exp in load_profile(name).experiments()}
    levels = levels[levels["run_id"].isin(wanted)]  # runs of an earlier version of the profile stay out
    claims = claims_table(levels)
    write_csv(runs / name / "levels.csv", levels)
    write_csv(runs / name / "weights.csv", load_weights(runs, name))
    write_csv(runs / name / "claims.csv", claims)
    return claims


def execute_notebooks(name: str, runs: Path = RUNS) -> list[Path]:
    """Execute all notebooks on this machine's runs through papermill, as ``papermill -f <profile>.yaml`` would."""
    import papermill

    logging.getLogger("papermill").setLevel(
        logging.ERROR
    )  # it warns of every key of the profile that a notebook ignores
    parameters = yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8"))
    out = runs / name / "notebooks"
    out.mkdir(parents=True, exist_ok=True)
    sources = sorted(NOTEBOOKS.glob("*.ipynb"))
    for source in tqdm(
        sources, desc="notebooks", bar_format="{desc} {n_fmt}/{total_fmt} {bar} {elapsed}, {remaining} left"
    ):
        papermill.execute_notebook(
            source,
            out / source.name,
            parameters | {"results": str(runs)},
            cwd=NOTEBOOKS,
            progress_bar=False,
            extra_arguments=["--log-level=40"],  # a warning about transport from every kernel helps nobody
        )
    return [out / source.name for source in sources]


def reproduce(name: str, workers: int | None = None, runs: Path = RUNS) -> bool:
    """Everything of a profile, from scratch or from where it stopped; False when an experiment failed."""
    failed = train(name, workers, runs)
    if failed:
        return False
    claims = tabulate(name, runs)
    figures.save_all(runs, name, runs / name / "figures")
    execute_notebooks(name, runs)
    print(compare_claims(claims, name))
    return True


def compare_claims(claims: pd.DataFrame, name: str) -> str:
    """The claims of this machine beside the committed reference, as text; says which verdicts changed."""
    reference = REFERENCE / name / "claims.csv"
    shown = claims[["claim", "statement"]].assign(measured=_with_interval(claims), verdict=claims["verdict"])
    if not reference.exists():
        return f"{_table(shown)}\n\nThere is no committed reference of profile {name} to compare with."
    old = pd.read_csv(reference)
    keyed = old.assign(reference=_with_interval(old), was=old["verdict"])[["claim", "statement", "reference", "was"]]
    shown = shown.merge(keyed, on=["claim", "statement"], how="left")
    changed = shown[shown["was"].notna() & (shown["verdict"] != shown["was"])]
    lines = [f"  {row.claim} {row.statement}: {row.was} → {row.verdict}" for row in changed.itertuples()]
    verdicts = (
        "\n".join(["Verdicts that differ from the reference:", *lines])
        if lines
        else "All verdicts as in the reference."
    )
    return f"{_table(shown.rename(columns={'was': 'reference verdict'}))}\n\n{verdicts}"


def _with_interval(claims: pd.DataFrame) -> pd.Series:
    numbers = claims.apply(lambda r: f"{r.measured:.2f} [{r.ci_low:.2f}, {r.ci_high:.2f}]", axis=1)
    return numbers.where(claims["measured"].notna(), "")


def _table(rows: pd.DataFrame) -> str:
    return rows.fillna("").to_string(index=False, justify="left", formatters={
        "statement": lambda text: f"{text:<{rows['statement'].str.len().max()}}"})  # fmt: skip


def publish_reference(name: str, runs: Path = RUNS) -> None:
    """Make this machine's finished runs of a profile the committed reference: results and figures.

    Raises RuntimeError when the runs do not come from one commit without uncommitted changes.
    """
    experiments = load_profile(name).experiments()
    records = [json.loads((runs / name / e.run_id / "provenance.json").read_text()) for e in experiments]
    commits = sorted({record["commit"] for record in records})
    if len(commits) > 1 or commits[0].endswith("-dirty"):
        raise RuntimeError(f"commit: a reference comes from one committed state of the code, these runs from {commits}")
    tabulate(name, runs)
    target = REFERENCE / name
    target.mkdir(parents=True, exist_ok=True)
    for table in ("levels.csv", "weights.csv", "claims.csv"):
        shutil.copyfile(runs / name / table, target / table)
    keep = ("commit", "python", "packages", "cpu", "cores", "gpu", "device", "threads")
    record = {key: records[0][key] for key in keep}
    record |= {"started": min(r["started"] for r in records), "ended": max(r["ended"] for r in records)}
    write_json(target / "provenance.json", {"profile": name, "runs": len(records), **record})
    figures.save_all("reference", name, FIGURES / name)
