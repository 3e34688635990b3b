import pandas as pd
import pytest
from made_up import one_dip, table

from sdd_utils.analysis.words import course


@pytest.mark.parametrize(
    ("depths", "said"),
    [
        ((0.15, 0.2, 0.25), "accuracy falls from 85.0 % to 65.0 % with "),
        ((-0.02, 0.0, 0.05), "accuracy is 84.0 % with "),  # on average one point is lost, of which no interval is sure
        ((0.2,), "accuracy falls from 85.0 % to 65.0 % with "),
    ],
)
def test_a_fall_is_called_so_where_it_is_sure_or_nothing_can_be(depths, said):
    rows = pd.concat([table(one_dip(depth, 0.1), seed) for seed, depth in enumerate(depths)], ignore_index=True)
    assert course(rows).startswith(said)
    assert " and rises to " in course(rows)
