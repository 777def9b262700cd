"""What is made from the code: docs/reference.md, params.yaml's comments, the code deps of dvc.yaml.

    python -m cli.reference

Nothing in them is written by hand: meanings and ranges are those of safe/config.py, values those
of params.yaml, stages those of dvc.yaml, commands and options those of cli/app.py; a stage depends
on the modules that it imports (safe/code.py).
"""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

import numpy as np
import yaml
from typer.main import get_command

from cli.app import app
from cli.progress import say
from safe import config
from safe.code import code_of
from safe.config import Config
from safe.files import atomic_file
from safe.params import load_config
from safe.record import STAGES

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = Path("docs", "reference.md")

_TYPES: Final = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true`, `false`",
    "null": "`null`",
}
_LARGE: Final = 2**31  # a bound beyond it says nothing

_HEAD: Final = """# Reference

Made from the code by `python -m cli.reference`; a test compares it with the code.

- [Parameters](#parameters)
- [Commands](#commands)

## Parameters

They stand in `params.yaml`. `safe-cli VERB -S key=value` gives one another value for one command;
`dvc exp run -S key=value` writes it into `params.yaml` too. The values below are those of the demo:
small faces, a small backbone, two CPU cores; what the paper used stands beside them where it says.
An unknown key, a wrong type or a value out of its range ends a command with exit code 2.
"""

_COMMANDS: Final = """## Commands

`safe-cli COMMAND`, or `python -m cli COMMAND` in the project's folder. An error is one line on
stderr. Exit codes: 0 done, 2 a wrong parameter or option, 3 data, 4 a model, 5 another process, 6
the disk, 7 done but for files that could not be used, 130 stopped by the keyboard.

Many commands take these options:
"""


MODULES: Final = {name: stage.module for name, stage in STAGES.items()}
"""The module of each stage."""

_PARAMS: Final = """\
# Every number of the project, with unit and source. `dvc exp run -S key=value` and
# `safe-cli VERB -S key=value` override. One section a stage; runtime re-runs nothing.
# The values are those of the demo: small faces, a small backbone, two CPU cores. The paper's
# own are given behind "paper:". `python -m cli.reference` makes the comments, from
# safe/config.py.
"""
_COMMENT: Final = 32  # column at which comments begin
_WIDE: Final = 118


def write_params(values: dict[str, Any]) -> str:
    """Return the text of params.yaml with these values, and the words of safe/config.py."""
    words = read_words()
    parts = [_PARAMS]
    for section, block in values.items():
        if not isinstance(block, dict):
            parts += ["", *_comment(f"{section}: {_text(block)}", words[section])]
            continue
        parts += ["", *_comment(f"{section}:", words[section])]
        for key, value in block.items():
            parts += _comment(f"  {key}: {_text(value)}", words[f"{section}.{key}"])
    return "\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


def read_words() -> dict[str, str]:
    """Return the words below each field of safe/config.py, and of each section, by its name."""
    found: dict[str, str] = {}
    for part in ast.parse(Path(config.__file__).read_text(encoding="utf-8")).body:
        if not isinstance(part, ast.ClassDef):
            continue
        section = part.name.lower()
        about = ast.get_docstring(part) or ""
        begin = about[:1] if about[1:2].isupper() else about[:1].lower()
        found[section] = f"{begin}{about[1:]}".partition("\n\n")[0].rstrip(".")
        for field, said in pairwise(part.body):
            if isinstance(field, ast.AnnAssign) and isinstance(said, ast.Expr):
                name = ast.unparse(field.target)
                text = " ".join(str(ast.literal_eval(said.value)).split())
                found[name if section == "config" else f"{section}.{name}"] = text
    return found


def _text(value: Any) -> str:
    """Write a value as params.yaml has it."""
    if isinstance(value, float):
        return np.format_float_positional(value, trim="0")
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f'"{value}"' if isinstance(value, str) and text.startswith("'") else text


def _comment(line: str, words: str) -> list[str]:
    return wrap(
        words,
        _WIDE,
        initial_indent=f"{line.ljust(_COMMENT - 1)} # ",
        subsequent_indent=f"{' ' * _COMMENT}#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def describe_range(field: dict[str, Any]) -> str:
    """Say in words what pydantic's JSON schema of one key allows."""
    if "anyOf" in field:
        each = [describe_range(one) for one in field["anyOf"]]
        return (", or " if any(" or " in one for one in each) else " or ").join(each)
    options = field.get("enum") or ([field["const"]] if "const" in field else [])
    if options:
        return ", ".join(f"`{option}`" for option in options)
    if field["type"] == "array":
        return f"list of {describe_range(field['items']).replace('number', 'numbers', 1)}"
    if field["type"] == "object":
        return f"mapping to {describe_range(field['additionalProperties'])}"
    bounds = {
        "above": field.get("exclusiveMinimum"),
        "from": field.get("minimum"),
        "below": field.get("exclusiveMaximum"),
        "to": field.get("maximum"),
    }
    words = [f"{word} {n:g}" for word, n in bounds.items() if n is not None and n < _LARGE]
    if "multipleOf" in field:
        words.append(f"multiple of {field['multipleOf']}")
    kind = _TYPES[field["type"]]
    return f"{kind} {', '.join(words)}".replace(", to", " to").strip()


def describe(words: str, options: list[str]) -> str:
    """Turn a comment of params.yaml into the text of a cell; options without a word are left out.

    They stand in the cell beside it.
    """
    bare = " | ".join(options)
    if options and re.match(rf"{re.escape(bare)}($|[.,] )", words):
        words = words.removeprefix(bare).lstrip(".,; ")
    return words.replace(" | ", "; ").replace("|", "\\|")


def write_parameters(root: Path) -> Iterator[str]:
    """Yield the page's part about params.yaml: a section and a table for each of its sections."""
    values = load_config(root / "params.yaml").model_dump()
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    schema, words = Config.model_json_schema(), read_words()
    fields = dict(schema["properties"])
    for section, block in values.items():
        is_section = isinstance(block, dict)
        inner = _block(schema, section)["properties"] if is_section else {section: fields[section]}
        about = (
            f"{words[section][:1].upper()}{words[section][1:].rstrip('.')}." if is_section else ""
        )
        yield f"### {section}\n\n{f'{about} {_where(section, stages)}'.strip()}\n"
        yield "| key | default | allowed | unit and meaning |\n| --- | --- | --- | --- |"
        for key, value in (block if is_section else {section: block}).items():
            name, field = f"{section}.{key}" if is_section else key, inner[key]
            cells = (
                f"`{name}`",
                f"`{_text(value)}`",
                describe_range(field).replace("|", "\\|"),
                describe(words[name], field.get("enum", [])),
            )
            yield f"| {' | '.join(cells)} |"
        yield ""


def write_commands() -> Iterator[str]:
    """Yield the page's part about `safe-cli`: usage, help and options of every command."""
    commands = list(_walk(get_command(app), "safe-cli"))
    records = {name: _options(command, name) for name, command in commands}
    common = _common(list(records.values()))
    yield from _table(common)
    yield ""
    for name, command in commands:
        pieces = command.collect_usage_pieces(_context(command, name))
        yield f"### {' '.join([name, *filter(None, map(_argument, pieces))])}\n"
        for paragraph in (command.help or "").split("\n\n"):
            yield f"{_escape(' '.join(paragraph.split()))}\n"
        own = [record for record in records[name] if record not in common]
        if own:
            yield from _table(own)
            yield ""
        also = [left.split()[0].strip(",") for left, _ in records[name] if left in dict(common)]
        if also:
            yield f"Also {' and '.join(f'`{left}`' for left in also)}.\n"


def write_page(root: Path) -> str:
    """Return the text of docs/reference.md."""
    parts = [_HEAD, *write_parameters(root), _COMMANDS, *write_commands()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip("\n") + "\n"


def write_deps(text: str) -> str:
    """Return the text of dvc.yaml with the code that each stage runs as its deps.

    A folder stands for all its modules where a stage runs all of them: each line of deps costs
    every `dvc repro` some milliseconds.
    """
    lines: list[str] = []
    module = key = ""
    for line in text.splitlines():
        if stage := re.fullmatch(r"  (\w+):", line):
            module = MODULES[stage[1]]
        if re.fullmatch(r"      - (pipeline|safe)/.*", line):
            continue
        if re.fullmatch(r"    \w+:.*", line):
            if key == "deps:":
                lines += [f"      - {path}" for path in folded(code_of(module))]
            key = line.strip()
        lines.append(line)
    return "\n".join(lines) + "\n"


def folded(paths: list[Path]) -> list[str]:
    """Return files, and in place of all files of a folder below a room the folder."""
    found = {path.as_posix() for path in paths}
    for folder in sorted({path.parent for path in paths}, key=lambda path: -len(path.parts)):
        own = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
        own = {path for path in own if not path.endswith("__init__.py")}
        if len(folder.parts) > 1 and own <= found:
            found = (found - own) | {folder.as_posix()}
    return sorted(found)


def _block(schema: dict[str, Any], section: str) -> dict[str, Any]:
    """Return the schema of a section; nothing for a key that is in none."""
    reference = schema["properties"].get(section, {}).get("$ref", "")
    block: dict[str, Any] = schema["$defs"].get(reference.rpartition("/")[2], {})
    return block


def _where(section: str, stages: dict[str, Any]) -> str:
    """Say which stages DVC runs again when a key of a section changes; nothing for none."""
    names = [
        f"`{name}`"
        for name, stage in stages.items()
        if any(re.match(rf"{section}(\.|$)", str(key)) for key in stage.get("params", []))
        or f"${{{section}." in str(stage)
    ]
    if not names:
        return ""
    return f"A change runs again {', '.join(names)}, and what is made from that."


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each command below a group with its full name, in the order of the help."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for child in command.list_commands(_context(command, name)):
        yield from _walk(command.commands[child], f"{name} {child}")


def _argument(piece: str) -> str:
    """Return an argument of a usage line as people write it: without braces and doubled dots."""
    if piece == "[OPTIONS]":
        return ""
    bare = piece.replace("...]...", "...]")
    if named := re.fullmatch(r"\{(.+?)(\.\.\.)?\}(\.\.\.)?", bare):
        return named[1].upper() + ("..." if named[2] or named[3] else "")
    return bare


def _context(command: Any, name: str) -> Any:
    return command.context_class(command, info_name=name)


def _options(command: Any, name: str) -> list[tuple[str, str]]:
    """Return what the help says of each argument and option, without --help: name and words."""
    context = _context(command, name)
    records = [parameter.get_help_record(context) for parameter in command.params]
    return [(left, " ".join(right.split())) for left, right in filter(None, records)]


def _common(records: list[list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """Return the options that more than a third of the commands have, with the same words."""
    every = [record for own in records for record in own]
    return [one for one in dict.fromkeys(every) if every.count(one) > len(records) / 3]


def _table(records: list[tuple[str, str]]) -> Iterator[str]:
    yield "| argument or option | what |\n| --- | --- |"
    for left, right in records:
        name, words = (text.replace("|", "\\|") for text in (left, right))
        yield f"| `{name}` | {_escape(words)} |"


def _escape(words: str) -> str:
    """Keep Markdown from taking <name> for HTML; between backticks it does not."""
    parts = re.split(r"(`[^`]*`)", words)
    return "".join(part if part[:1] == "`" else part.replace("<", "\\<") for part in parts)


if __name__ == "__main__":
    parameters = ROOT / "params.yaml"
    with atomic_file(parameters) as path:
        path.write_text(write_params(load_config(parameters).model_dump()), encoding="utf-8")
    with atomic_file(ROOT / PAGE) as path:
        path.write_text(write_page(ROOT), encoding="utf-8")
    with atomic_file(ROOT / "dvc.yaml") as path:
        path.write_text(write_deps((ROOT / "dvc.yaml").read_text()), encoding="utf-8")
    say(f"params.yaml, dvc.yaml and {PAGE} are written")
