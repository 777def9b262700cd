"""The table of data sets, by the name that data.name gives them."""

import re
from typing import Final

from pipeline.datasets import dfew, ferv39k, own
from pipeline.datasets.base import Entry
from safe.config import Config
from safe.errors import ConfigError

ENTRIES: Final[dict[str, Entry]] = {
    "synthetic": dfew.SYNTHETIC,
    "dfew": dfew.ENTRY,
    "ferv39k": ferv39k.ENTRY,
    "own": own.ENTRY,
}


def check_data(config: Config) -> None:
    """Raise ConfigError unless the section data is of a known data set and fits it."""
    data = config.data
    if data.name not in ENTRIES:
        raise ConfigError(f"params: data.name = {data.name!r}: must be one of {', '.join(ENTRIES)}")
    entry, when = ENTRIES[data.name], f"when data.name is {data.name}"
    if entry.one_split and data.folds != [1]:
        raise ConfigError(f"params: data.folds: {data.folds} must be [1] {when}")
    if entry.splits and data.splits != entry.splits:
        raise ConfigError(f"params: data.splits: {data.splits} must be {entry.splits} {when}")
    if not (entry.splits or re.fullmatch(r"(?!/)(?!(.*/)?\.\./)[^\\:]+\.csv", data.splits)):
        raise ConfigError(
            f"params: data.splits: {data.splits} must be a file in data.root that ends in .csv "
            f"{when}"
        )
    if data.source not in entry.sources:
        allowed = " or ".join(entry.sources)
        raise ConfigError(f"params: data.source: {data.source} must be {allowed} {when}")
    if entry.one_split and (config.train.select, config.train.val_from) == ("val", "fold"):
        raise ConfigError(
            f"params: train.val_from: fold needs folds, and {data.name} has one split; use clips"
        )
