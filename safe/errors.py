"""Which errors can a user meet?

Every error that a user can cause or mend is a SafeError whose text is one line: what is wrong,
where, and what would be right. The command line prints that line and ends with the error's exit
code.
"""


class SafeError(Exception):
    """Something the user can mend. The text is one line."""

    exit_code = 1


class ConfigError(SafeError):
    """A key in params.yaml or an override is unknown, of the wrong type or out of range."""

    exit_code = 2


class DataError(SafeError):
    """A dataset, manifest, face table or shard folder is missing, damaged or does not fit."""

    exit_code = 3


class ModelError(SafeError):
    """A model folder, weights file or checkpoint is missing, damaged or does not fit."""

    exit_code = 4
