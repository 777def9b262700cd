"""Reading of params.yaml and of overrides into a Config.

Once, before any work; what is wrong is one line with the key, the value and what is allowed.
"""

import re
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from safe.config import Config
from safe.errors import ConfigError
from safe.files import read_bounded

EXPONENT: Final = (
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
"""For add_implicit_resolver of a YAML loader: 1e-06, which DVC writes, is a number, not a text."""


YAML_BYTES: Final = 2**20
"""Largest YAML file; params.yaml has some 8,000 bytes."""


class _StrictLoader(yaml.SafeLoader):
    """A safe loader without two things that YAML allows.

    A key given twice is refused, instead of keeping the last one in silence. So is an alias: nine
    lines of them, each naming the one before ten times, become a billion entries.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # type: ignore[no-untyped-call]
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise ConfigError(f"an alias (line {line}) is not allowed; write the value out")
        return super().compose_node(parent, index)


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
        if key in seen:
            line = key_node.start_mark.line + 1
            raise ConfigError(f"key '{key}' is given twice (line {line}); keep one")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.add_implicit_resolver(*EXPONENT)


def read_mapping(path: Path, *, missing: str) -> dict[str, Any]:
    """Read a YAML file that holds keys with values.

    Args:
        path: the file.
        missing: what the user can do where there is no such file.

    Raises:
        ConfigError: one line, if it is missing or damaged, holds something else, or a key twice.
    """
    try:
        data = read_bounded(path, most=YAML_BYTES, error=ConfigError)
        raw = yaml.load(data.decode("utf-8"), Loader=_StrictLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path.absolute()} not found: {missing}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not valid YAML: nested too deeply") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        # Beside YAMLError: what PyYAML lets through of a value that does not fit its tag.
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason[:300]}") from error
    except ConfigError as error:
        told = str(error)
        raise ConfigError(told if told.startswith(str(path)) else f"{path}: {told}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections with keys, not {type(raw).__name__}")
    return raw


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read params.yaml, apply overrides as DVC's `-S` does, and validate.

    A key that is not there has its default.

    Args:
        path: the YAML file.
        overrides: `key=value` in the grammar of `dvc exp run -S` (Hydra's), for keys that exist.

    Raises:
        ConfigError: one line with the key, the value and what is allowed.
    """
    raw = read_mapping(path, missing="run in the project's folder or give --params FILE")
    for section, block in Config().model_dump().items():
        if isinstance(given := raw.setdefault(section, block), dict) and isinstance(block, dict):
            raw[section] = {**block, **given}
    for override in overrides or []:
        _apply(raw, override)
    return parse_config(raw)


def parse_config(raw: dict[str, Any]) -> Config:
    """Validate what params.yaml holds. Raises ConfigError with the first thing that is wrong."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(one_line(error, "params", see="params.yaml")) from error


def one_line(error: ValidationError, where: str, *, see: str) -> str:
    """Say what is wrong first, and how much more; `where` it is, and what to `see` instead."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part != "nullable")
    more = len(error.errors()) - 1
    tail = f" ({more} more)" if more else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key '{key}'; see {see} for the keys there are{tail}"
    if first["type"] == "missing":
        return f"{where}: key '{key}' is missing; see {see} of the project{tail}"
    message = first["msg"]
    if first["type"] == "value_error":  # our own checks name their key themselves
        message = message.removeprefix("Value error, ")
        return f"{where}: {key + '.' if key else ''}{message}{tail}"
    return f"{where}: {key} = {_shown(first['input'])}: {message[0].lower() + message[1:]}{tail}"


def _shown(value: Any) -> str:
    """Return a value as it is written, its beginning if it is long."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one `key=value` in place. The grammar is Hydra's, which is what DVC uses for `-S`."""
    # Imported here: most commands have no override, and the parser takes a fifth of a second.
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ConfigError(f"-S {override}: not of the form key=value") from error
    if parsed.is_delete() or parsed.is_add() or parsed.is_sweep_override():
        raise ConfigError(f"-S {override}: only key=value with one value is allowed here")
    node = raw
    *parents, last = parsed.key_or_group.split(".")
    for part in parents:
        node = node.get(part, {}) if isinstance(node, dict) else {}
    if not isinstance(node, dict) or last not in node:
        raise ConfigError(
            f"-S {override}: unknown key '{parsed.key_or_group}'; "
            "see params.yaml for the keys there are"
        )
    value = parsed.value()
    if isinstance(node[last], dict) and isinstance(value, dict):
        node[last] = {**node[last], **_plain(value)}
    else:
        node[last] = _plain(value)


def _plain(value: Any) -> Any:
    """Turn the parser's quoted strings and containers into plain YAML values."""
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.text if hasattr(value, "text") and hasattr(value, "quote") else value
