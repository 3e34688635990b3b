"""From a profile's name to its results: train, tabulate, draw, execute the notebooks, compare with the reference."""

import logging
from concurrent.futures import as_completed
from itertools import product
from pathlib import Path

import pandas as pd
import yaml
from tqdm import tqdm

from sdd_utils.claims import claims_table
from sdd_utils.config import Experiment
from sdd_utils.curves import untaught
from sdd_utils.energy import check_country
from sdd_utils.errors import ResultsMissing
from sdd_utils.files import is_sealed, read_csv, write_csv
from sdd_utils.inventory import collect
from sdd_utils.profiles import PROFILES, Profile, load_profile, select
from sdd_utils.results import REFERENCE, ROOT, RUNS
from sdd_utils.stopping import Outcome
from sdd_utils.workers import Workers, local_workers

NOTEBOOKS = ROOT / "notebooks"
TUNING = {"06_tau_alpha.ipynb"}
"""Notebooks for profiles with a grid of τ and α; all others are for profiles with one of each."""

ON_STUDENTS = {"03_distillation.ipynb", "04_cost.ipynb"}
"""Notebooks for profiles that distil."""

BAR = "{desc} {n_fmt}/{total_fmt} {bar} {elapsed}, {remaining} left"


def experiments_of(name: str, only: str = "") -> list[Experiment]:
    """The profile's experiments that ``only`` selects (all by default). Raises ConfigError."""
    return select(load_profile(name).experiments(), only)


def train(
    name: str,
    workers: int | None = None,
    runs: Path = RUNS,
    only: str = "",
    device: str = "cpu",
    seconds: float | None = None,
    gpu_share: float | None = None,
    cluster: str | None = None,
) -> Outcome:
    """Run every experiment of a profile that is not finished, for ``seconds`` at most; see ``sweep.run_sweep``.

    ``workers``, ``device`` and ``gpu_share`` are those of ``local_workers``; or, where ``cluster`` is the address of
    one, of ``cluster.RayWorkers``.
    """
    chosen = experiments_of(name, only)
    check_country()
    if cluster:
        from sdd_utils.cluster import RayWorkers  # Ray is optional

        hands: Workers = RayWorkers(cluster, workers, device, gpu_share)
    else:
        hands = local_workers(workers, device, gpu_share)
    from sdd_utils.sweep import check_device, run_sweep  # torch takes seconds, and figures and tables need none of it

    try:
        if not cluster:
            check_device(device)
        return run_sweep(chosen, runs / name, hands, device, seconds)
    finally:
        if cluster or device != "cpu":  # processes of this machine's cores serve the notebooks next
            hands.stop()


def gather(name: str, runs: Path = RUNS, only: str = "") -> tuple[list[Path], pd.DataFrame]:
    """The folders of a profile's runs, or of those that ``only`` selects, and all their levels.

    Raises ResultsMissing when one is not finished, Damaged when a file is not what was written.
    """
    experiments = experiments_of(name, only)
    folders = [runs / name / exp.run_id for exp in experiments]
    missing = [folder.name for folder in folders if not is_sealed(folder)]
    if missing:
        raise ResultsMissing(f"{len(missing)} runs of {name} are not finished ({missing[0]}, …): run the profile first")
    return folders, collect(experiments, runs / name)


def tables_of(name: str, runs: Path = RUNS, only: str = "") -> dict[str, pd.DataFrame]:
    """The tables of this machine's runs of a profile, or of those that ``only`` selects, by name.

    Levels, histograms of weights, and the size and speed of exported networks; of a profile that tunes, levels alone.
    """
    folders, levels = gather(name, runs, only)
    if load_profile(name).tunes:
        return {"levels": levels}
    from sdd_utils.deploy import deployment  # needs torch

    taught = {exp.arch for exp in experiments_of(name) if exp.teacher}
    plain = [exp for exp in experiments_of(name, only) if exp.method == "vanilla" and exp.arch in taught]
    return {"levels": levels, "weights": _histograms(folders, levels), "deployment": deployment(plain, runs / name)}


def with_claims(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables and the verdicts on them; a profile that tunes has none."""
    return tables | {"claims": claims_table(tables["levels"])} if "weights" in tables else tables


def tabulate(name: str, runs: Path = RUNS) -> dict[str, pd.DataFrame]:
    """The tables and claims of all of a profile's runs, which are written beside them as well."""
    tables = with_claims(tables_of(name, runs))
    for table, rows in tables.items():
        write_csv(runs / name / f"{table}.csv", rows)
    return tables


def _histograms(folders: list[Path], levels: pd.DataFrame) -> pd.DataFrame:
    histograms = pd.concat([read_csv(folder / "weights.csv").assign(run_id=folder.name) for folder in folders])
    keys = ["dataset", "arch", "noise_rate", "weight_decay", "level", "sparsity", "bin"]
    plain = untaught(levels[levels["level"] % 3 == 0])  # enough for figures, and a small file
    return plain.merge(histograms, on=["run_id", "level"]).groupby(keys, as_index=False)["count"].sum()


def execute_notebooks(name: str, runs: Path = RUNS, workers: int | None = None) -> None:
    """Execute all notebooks on this machine's runs through papermill, as ``papermill -f <profile>.yaml`` would.

    A profile with several datasets gives them once for each, in folders by its name.
    """
    parameters = yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8")) | {"results": str(runs)}
    profile, executor = load_profile(name), local_workers(workers)
    futures = []
    for dataset, source in product(profile.datasets or [""], notebooks_for(profile)):
        out = runs / name / "notebooks" / dataset / source.name
        out.parent.mkdir(parents=True, exist_ok=True)
        futures.append(executor.submit(execute_notebook, source, out, parameters | {"dataset": dataset}))
    for future in tqdm(as_completed(futures), total=len(futures), desc="notebooks", bar_format=BAR):
        future.result()


def notebooks_for(profile: Profile) -> list[Path]:
    """Those that have something to say of a profile, in order."""
    found = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if (path.name in TUNING) == profile.tunes]
    distils = any(plan.distillation for plan in profile.architectures.values())
    return [path for path in found if distils or path.name not in ON_STUDENTS]


def execute_notebook(source: Path, out: Path, parameters: dict) -> None:
    """Execute ``source`` into ``out``. Raises papermill's PapermillExecutionError with the cell that failed."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of every key that a notebook ignores
    quiet = {"progress_bar": False, "extra_arguments": ["--log-level=50"]}  # a kernel says when it is told to end
    papermill.execute_notebook(source, out, parameters, cwd=NOTEBOOKS, **quiet)


def reproduce(
    name: str,
    workers: int | None = None,
    runs: Path = RUNS,
    seconds: float | None = None,
    device: str = "cpu",
    gpu_share: float | None = None,
    cluster: str | None = None,
) -> Outcome:
    """Everything of a profile, from scratch or from where it stopped; tables and notebooks only when all is trained.

    ``seconds`` is for the training; what follows it takes about a minute.
    """
    from sdd_utils import figures  # matplotlib and seaborn take seconds too

    outcome = train(name, workers, runs, "", device, seconds, gpu_share, cluster)
    if outcome.failed or outcome.stopped:
        return outcome
    tables = tabulate(name, runs)
    figures.save_all(runs, name, runs / name / "figures")
    try:
        execute_notebooks(name, runs, None if cluster else workers)
    finally:  # what was trained for is shown even where a notebook cannot be executed
        if "claims" in tables:
            print(compare_claims(tables["claims"], name))
    print(f"\nNotebooks, figures and tables: {runs / name}")
    return outcome


def compare_claims(claims: pd.DataFrame, name: str) -> str:
    """The claims of this machine beside the committed reference, as text; says which verdicts changed."""
    reference = REFERENCE / name / "claims.csv"
    if not reference.exists():
        return f"{_text(_shown(claims))}\n\nThere is no committed reference of profile {name} to compare with."
    keys = ["claim", "statement"]
    shown = _shown(claims).merge(_shown(read_csv(reference)), on=keys, how="outer", suffixes=("", ", reference"))
    shown = shown.fillna("–")
    changed = shown[shown["verdict"] != shown["verdict, reference"]]
    lines = [f"  {claim} {text}: {old} → {new}" for claim, text, _, new, _, old in changed.to_numpy()]
    said = "\n".join(["Verdicts that differ from the reference:", *lines]) if lines else "All verdicts as committed."
    return f"{_text(shown)}\n\n{said}"


def _text(shown: pd.DataFrame) -> str:
    width = shown["statement"].str.len().max()
    return shown.to_string(index=False, justify="left", formatters={"statement": f"{{:<{width}}}".format})


def _shown(claims: pd.DataFrame) -> pd.DataFrame:
    numbers = claims[["measured", "ci_low", "ci_high"]].to_numpy()
    measured = ["" if pd.isna(v) else f"{v:.2f} [{low:.2f}, {high:.2f}]" for v, low, high in numbers]
    return claims[["claim", "statement"]].assign(measured=measured, verdict=claims["verdict"])
