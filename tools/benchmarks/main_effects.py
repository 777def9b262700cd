"""The mean effect of each module of Table IV over the four combinations of the others.

    python -m tools.benchmarks.main_effects [SETTINGS]

Reads what DVC holds of the experiment table4. Four pairs of rows differ in one module alone; their
mean difference, with its interval over clips, is four times as many trainings as one pair has.
"""

import sys

from cli.experiments import gather
from safe.evaluation.compare import Entry, differences
from safe.evaluation.sheet import find_sheet, plan, read_settings

PAIRS = {
    "TAM": [("", "TAM"), ("S2AM2", "TAM+S2AM2"), ("ACL", "TAM+ACL"), ("S2AM2+ACL", "SAFE")],
    "S2AM2": [("", "S2AM2"), ("TAM", "TAM+S2AM2"), ("ACL", "S2AM2+ACL"), ("TAM+ACL", "SAFE")],
    "ACL": [("", "ACL"), ("TAM", "TAM+ACL"), ("S2AM2", "S2AM2+ACL"), ("TAM+S2AM2", "SAFE")],
}
"""By module: row without it, row with it; "" is the baseline."""


def main() -> None:
    """Print a line a module and figure."""
    settings = read_settings(sys.argv[1] if len(sys.argv) > 1 else "benchmark")
    sheet = find_sheet("table4")
    found = gather(sheet, plan(sheet, settings=settings, sets=[]))
    for module, pairs in PAIRS.items():
        without, having = (
            Entry(
                {  # each training counts as a seed of its own
                    100 * place + seed: run.split
                    for place, pair in enumerate(pairs)
                    for seed, run in found[pair[side] or "baseline"].items()
                },
                paper={},
            )
            for side in (0, 1)
        )
        apart = differences(having, without, ("war", "uar", "ece", "nll"))
        for figure, (point, low, high) in apart.items():
            print(f"{module:5} {figure:4} {point:+.4f} [{low:+.4f}, {high:+.4f}]")


if __name__ == "__main__":
    main()
