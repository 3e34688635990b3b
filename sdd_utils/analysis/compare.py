"""Local results beside the committed reference: curve by curve, verdict by verdict."""

import pandas as pd
from scipy import stats

from sdd_utils.files import read_csv
from sdd_utils.tables import MEASURED_ON_THE_CLOCK, REFERENCE

WITHIN = 0.9  # share of a curve's levels that must lie in the reference's interval: of independent ones 95 % would
NUMBERS = ["measured", "ci_low", "ci_high"]  # of a claim


def compare(local: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Each local curve beside the reference: columns run_id, verdict, inside (share of levels), largest (points).

    ``identical``: every column but the clock's is equal. ``within``: at WITHIN of the levels or more, test accuracy
    lies where one more seed of the reference's would in 95 % of cases (mean ± t·s·√(1 + 1/n)). ``different``: neither.
    ``single seed``: the reference has no other, so that nothing says how far one may lie from it.
    ``largest`` is the largest distance from the reference's run, or from its seeds' mean where it lacks this seed.
    """
    setting = ["dataset", "arch", "noise_kind", "noise_rate", "method", "weight_decay"]
    setting += ["teacher", "teacher_arch", "temperature", "alpha"]
    seeds = reference.groupby([*setting, "level"], dropna=False)["test_acc"].agg(["mean", "std", "count"]).reset_index()
    rows = []
    for run, curve in local.groupby("run_id", sort=False):
        same = reference[reference["run_id"] == run]
        clockless = [c for c in reference.columns if c not in MEASURED_ON_THE_CLOCK]
        beside = curve.merge(seeds, on=[*setting, "level"])
        row = {"run_id": run, "verdict": "no reference", "inside": float("nan"), "largest": float("nan")}
        if len(beside):
            known = curve.merge(same[["level", "test_acc"]], on="level", suffixes=("", "_reference"))
            base = known["test_acc_reference"] if len(known) == len(beside) else beside["mean"]
            row["largest"] = 100 * abs(beside["test_acc"].to_numpy() - base.to_numpy()).max()
            n = beside["count"]
            half = stats.t.ppf(0.975, (n - 1).clip(lower=1)) * beside["std"] * (1 + 1 / n) ** 0.5
            row["inside"] = ((beside["test_acc"] - beside["mean"]).abs() <= half).mean()
            row["verdict"] = "within" if row["inside"] >= WITHIN else "different" if n.min() > 1 else "single seed"
        if len(same) == len(curve) and _equal(same[clockless], curve[clockless]):
            row["verdict"] = "identical"
        rows.append(row)
    return pd.DataFrame(rows)


def _equal(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    one, other = one.reset_index(drop=True), other.reset_index(drop=True)
    return bool(((one == other) | (one.isna() & other.isna())).all(axis=None))


def compare_claims(claims: pd.DataFrame, name: str) -> str:
    """The claims of this machine beside the committed reference, as text; says which verdicts changed."""
    shown, keys = _shown(claims), ["claim", "statement"]
    try:
        reference = _shown(read_csv(REFERENCE / name / "claims.csv", [*keys, *NUMBERS, "verdict"]))
    except FileNotFoundError:
        return f"{_text(shown)}\n\nThere is no committed reference of profile {name} to compare with."
    except ValueError as error:  # Damaged is one, and so is a number that is none
        return f"{_text(shown)}\n\nThey cannot be compared with the committed verdicts: {error}"
    shown = shown.merge(reference, on=keys, how="outer", suffixes=("", ", reference")).fillna("–")
    changed = shown[shown["verdict"] != shown["verdict, reference"]]
    lines = [f"  {claim} {text}: {old} → {new}" for claim, text, _, new, _, old in changed.to_numpy()]
    said = "\n".join(["Verdicts that differ from the reference:", *lines]) if lines else "All verdicts as committed."
    return f"{_text(shown)}\n\n{said}"


def _text(shown: pd.DataFrame) -> str:
    width = shown["statement"].str.len().max()
    return shown.to_string(index=False, justify="left", formatters={"statement": f"{{:<{width}}}".format})


def _shown(claims: pd.DataFrame) -> pd.DataFrame:
    numbers = claims[NUMBERS].to_numpy()
    intervals = ["" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]" for _, low, high in numbers]
    measured = ["" if pd.isna(v[0]) else f"{v[0]:.2f}{ci}" for v, ci in zip(numbers, intervals, strict=True)]
    return claims[["claim", "statement"]].assign(measured=measured, verdict=claims["verdict"])
