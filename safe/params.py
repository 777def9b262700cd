"""Reading of params.yaml and of overrides into a Config.

Once, before any work; what is wrong is one line with the key, the value and what is allowed.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError, YAMLStreamError, YAMLWarning
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
)

from safe.config import Config
from safe.errors import ConfigError
from safe.files import read_bounded

YAML_BYTES: Final = 2**20
"""Largest YAML file; params.yaml has some 12,000 bytes, a dvc.lock 100,000."""

_EVENTS: Final = 20_000
"""Keys, values and ends of lists: a second's work. A dvc.lock of five folds has 6,000."""

_DEEP: Final = 20
"""Lists and mappings within one another."""


def parse_mapping(data: bytes, name: str) -> dict[str, Any]:
    """Return the keys and values of YAML 1.2, as DVC reads it: yes is a word, 010 ten.

    What YAML allows beside plain values is refused: an alias (nine lines of them, each naming the
    one before ten times, become a billion entries), a tag, another version of YAML, in which the
    same letters mean something else, and depth without end.

    Raises:
        ConfigError: one line that begins with `name`.
    """
    if len(data) > YAML_BYTES:
        raise ConfigError(f"{name}: larger than {YAML_BYTES:,} bytes, the most that it may have")
    try:
        text = data.decode("utf-8")
        _check_events(text)
        raw = YAML(typ="safe").load(text)
        _check_values(raw)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1
        key = str(error.problem).partition('"')[2].partition('"')[0]
        raise ConfigError(f"{name}: key '{key}' is given twice (line {line}); keep one") from error
    except (YAMLError, YAMLStreamError, YAMLWarning) as error:
        raise ConfigError(f"{name} is not valid YAML: {_told(error)}") from error
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # Beside YAMLError: what ruamel lets through of a value that does not fit its tag.
        raise ConfigError(f"{name} is not valid YAML: {_told(error)}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{name} must hold sections with keys, not {type(raw).__name__}")
    return raw


def _check_events(text: str) -> None:
    """Raise ValueError at the first thing that is not allowed, before a value is made."""
    depth = 0
    for number, event in enumerate(YAML(typ="safe").parse(text)):
        line = f"line {event.start_mark.line + 1}"
        if number > _EVENTS:
            raise ValueError(f"more than {_EVENTS:,} keys and values ({line})")
        if isinstance(event, AliasEvent):
            raise ValueError(f"an alias ({line}) is not allowed; write the value out")
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"a tag ({line}) is not allowed; write the value alone")
        if isinstance(event, DocumentStartEvent) and event.version not in (None, (1, 2)):
            raise ValueError(f"another version of YAML ({line}) than 1.2")
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        if depth > _DEEP:
            raise ValueError(f"nested too deeply ({line})")


def _check_values(value: Any) -> None:
    """Raise ValueError at a number that could not be written out, or a key that is no word."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("a whole number of more than 64 bits")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str | int):
                raise ValueError("a key that is no word")
            _check_values(inner)
    if isinstance(value, list):
        for inner in value:
            _check_values(inner)


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


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
    except FileNotFoundError as error:
        raise ConfigError(f"{path.absolute()} not found: {missing}") from error
    return parse_mapping(data, str(path))


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
        return f"{where}: unknown key '{key}'; {_nearest(key, see)}{tail}"
    if first["type"] == "missing":
        return f"{where}: key '{key}' is missing; see {see} of the project{tail}"
    message = first["msg"]
    if first["type"] == "value_error":  # our own checks name their key themselves
        message = message.removeprefix("Value error, ")
        return f"{where}: {key + '.' if key else ''}{message}{tail}"
    given = first["input"]
    told = f"{message[0].lower()}{message[1:]}{_hint(given, first['type'])}"
    return f"{where}: {key} = {_shown(given)}: {told}{tail}"


_NOTHING: Final = ("none", "nil", "nan", "n/a", "undefined", "")
_SWITCHES: Final = {
    **dict.fromkeys(("yes", "on", "y", "1"), "true"),
    **dict.fromkeys(("no", "off", "n", "0"), "false"),
}


def _hint(given: Any, kind: str) -> str:
    """Say how a value is written that looks like what is meant; nothing where none is known."""
    word = str(given).lower() if isinstance(given, str | int) else None
    if kind == "list_type" and isinstance(given, str | int | float):
        return f"; a list of one is written [{_shown(given).strip(chr(39))}]"
    if kind.startswith("bool") and word in _SWITCHES:
        return f"; write {_SWITCHES[word]}"
    if word in _NOTHING:
        return "; nothing is written null, where a key allows it"
    if isinstance(given, str) and _is_number(given):
        return f"; a number is written without quotes: {given}"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text[:100])
    except ValueError:
        return False
    return True


def _keys(section: dict[str, Any], before: str = "") -> Iterator[str]:
    """Yield every key of nested sections: train.epochs."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _nearest(key: str, see: str) -> str:
    """Name the keys that are meant by one that is not there."""
    known = list(_keys(Config().model_dump()))
    same = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same or get_close_matches(key, known, n=1, cutoff=0.75)
    if not near:  # train.epoc may also be written epoc
        near = [k for k in known if get_close_matches(key, [k.rpartition(".")[2]], cutoff=0.75)]
    if not near:
        return f"see {see} for the keys there are"
    return f"there is {' and '.join(near[:4])}; see {see} for all"


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
            f"{_nearest(parsed.key_or_group, 'params.yaml')}"
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
