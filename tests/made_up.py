"""Made-up pruning curves whose answers are known, as rows of levels.csv."""

import numpy as np
import pandas as pd

LEVELS = 30


def one_dip(depth=0.15, rebound=0.10):
    """Light at 0.85 until level 8, bottom around 16, sweet around 22, then collapse to 0.1."""
    low, sweet = 0.85 - depth, 0.85 - depth + rebound
    points = [(0, 0.85), (8, 0.85), (15, low), (17, low), (21, sweet), (23, sweet), (LEVELS - 1, 0.1)]
    return np.interp(np.arange(LEVELS), *zip(*points, strict=True))


MONOTONE = np.interp(np.arange(LEVELS), [0, 15, 29], [0.9, 0.8, 0.1])
FLAT = np.full(LEVELS, 0.8)


def table(curve, seed=0, **columns):
    base = {"level": range(len(curve)), "seed": seed, "sparsity": 1 - 0.8 ** np.arange(len(curve))}
    base |= {
        # All training labels are fitted until level 17, then fewer and fewer.
        "train_acc": np.interp(range(len(curve)), [17, LEVELS], [1.0, 0.0]),
        "val_acc": curve,
        "test_acc": curve,
        "val_images": 200,
        "epochs": 40,
        "best_epoch": 40,
        "dataset": "digits",
        "arch": "mlp",
        "noise_kind": "symmetric",
        "noise_rate": 0.3,
        "method": "vanilla",
        "weight_decay": 1e-4,
        "teacher": "none",
        "teacher_arch": "mlp" if "teacher" in columns else "none",
        "temperature": np.nan,
        "alpha": np.nan,
    }
    return pd.DataFrame(base | columns)
