"""The house rules: who imports whom, one name in four places, deps name modules, paths exist."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from cli.reference import MODULES
from safe.record import STAGES as RECORDED

ROOT = Path(__file__).parents[1]
CODE = sorted(path for room in ("safe", "pipeline", "cli") for path in (ROOT / room).rglob("*.py"))
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STORE = ("store", "cache", "push")
TORCH_FREE = {
    *("safe.taxonomy", "safe.config", "safe.errors", "safe.sample", "safe.files"),
    *("safe.finding", "safe.shards.store", "safe.record", "safe.code"),
}
CORE = (
    *("safe.config", "safe.taxonomy", "safe.sample", "safe.models", "safe.training.transforms"),
    *("safe.training.tam", "safe.training.losses", "safe.evaluation"),
    *("pipeline.datasets", "pipeline.video", "pipeline.face", "pipeline.index", "pipeline.faces"),
    "pipeline.shard",
)
"""What someone reads who reads the paper or adds a data set."""
SEAMS = {
    "safe.shards.source": {"fsspec", "s3fs", *(f"safe.shards.{n}" for n in STORE)},
    "pipeline.clips": {"pipeline.pool.fetch"},
    "pipeline.pool.pool": {"distributed", "dask", "pipeline.pool.cluster"},
}
"""The modules that the core knows in place of those that hang on them."""
NO_STAGE = {
    "push_shards": "a copy elsewhere of what shard made; not a step from clips to figures",
    "votes": "needs annotation.xlsx, which DVC cannot depend on only where it is present",
    "report": "a view of what the stages made, for a person; DVC need not keep it",
    "predict": "answers about a person's own videos, which are no part of an experiment",
    "card": "a page about a finished model, for those who get it",
    "doctor": "a question about what is there, not a step from clips to figures",
    "inspect": "a look at what is there, for a person; not a step from clips to figures",
    "cost": "a question about the model, not a step from clips to figures",
    "export": "another form of a finished model, for those who run it elsewhere",
    "clean": "what is left of runs that were given up; not a step from clips to figures",
    "forget": "what a person asks for, once; not a step from clips to figures",
}
NOT_IN_DEPS = {
    "safe.config": "its values are params of the stage",
    "safe.errors": "only the words of an error",
    "safe.files": "how a file appears, not what is in it",
    "safe.code": "which code counts, not what it does",
    "safe.record": "what is noted of the inputs, not what is made of them",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """All modules that a file imports, at any depth; `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def at_import(path: Path) -> set[str]:
    """The modules that a file imports by itself: in no function, and not for types alone."""
    top = ast.parse(path.read_text()).body
    found = {node.module for node in top if isinstance(node, ast.ImportFrom)}
    return found | {a.name for node in top if isinstance(node, ast.Import) for a in node.names}


FILES = {module_name(path): path for path in CODE}


def ours(path: Path) -> set[str]:
    """The modules of this project that a file imports; not the empty packages."""
    names = imports(path) & FILES.keys()
    return {name for name in names if FILES[name].name != "__init__.py"}


def closure(module: str) -> set[str]:
    found, open_ = set(), [module]
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += ours(FILES[name])
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(path):
    room = path.relative_to(ROOT).parts[0]
    names = imports(path)
    if room == "safe":
        others = {name for name in names if name.split(".")[0] in ("pipeline", "cli")}
        if module_name(path) == "safe.api":  # above both halves: pipeline is loaded when called
            assert not {name for name in others if name.split(".")[0] == "cli"}
            assert not {name for name in at_import(path) if name.split(".")[0] == "pipeline"}
        else:
            assert not others
    if room == "pipeline":
        assert "torch" not in {name.split(".")[0] for name in names}
        from_safe = {name for name in ours(path) if name.startswith("safe.")}
        assert from_safe <= TORCH_FREE
        assert not {name for name in names if name.split(".")[0] == "cli"}
    if module_name(path) in TORCH_FREE:
        assert "torch" not in {name.split(".")[0] for name in names}
        assert ours(path) <= TORCH_FREE


def test_ranks_alone_speak_to_other_processes():
    """And cli/launch.py starts them. All else knows `Ranks`."""
    may = {"safe.training.ranks", "cli.launch"}
    found = {
        name
        for name, path in FILES.items()
        if any(one.split(".")[:2] == ["torch", "distributed"] for one in imports(path))
        or re.search(r"\bdist\.|torch\.distributed\.", path.read_text())
    }
    assert found == may
    names = {"safe.training.ranks." + name for name in ("ALONE", "Ranks", "joined")}
    for path in FILES.values():
        assert {n for n in imports(path) if n.startswith("safe.training.ranks.")} <= names, path


def test_no_module_imports_itself_by_a_circle():
    """Not even late, in a function."""
    left = {name: ours(path) for name, path in FILES.items() if path.name != "__init__.py"}
    while free := [name for name, names in left.items() if not names & left.keys()]:
        for name in free:
            del left[name]
    assert not left, sorted(left)


def test_the_core_knows_stores_and_clusters_by_their_seams_alone():
    """Also by way of others: what a core module imports leads to none of them."""
    beyond = set().union(*SEAMS.values())
    core = [name for name in FILES if name.startswith(CORE)]
    assert len(core) > 40
    for name in [*core, *SEAMS]:
        for module in closure(name):
            names = imports(FILES[module])
            names |= {other.split(".")[0] for other in names}
            assert not names & beyond, f"{name} by {module}"
    assert SEAMS.keys() <= FILES.keys()
    assert {name for name in beyond if "." in name} <= FILES.keys()


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_opens_with_what_it_is(path):
    first = ast.get_docstring(ast.parse(path.read_text())).split("\n\n")[0]
    assert first.endswith(".")
    assert path.name == "__init__.py" or len(first.split()) >= 3


def dangers(tree: ast.AST) -> list[str]:
    """What could run code or a command that stands in a file that is read, with its line."""
    safe = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and "SafeLoader" in " ".join(map(ast.unparse, node.bases))
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            words = [str(name).split(".")[0] for name in names if name] + [
                f"{names[0]}.{name}" for name in names[1:]
            ]
        elif isinstance(node, ast.Call):
            words = [ast.unparse(node.func)]
            words += [f"{key.arg}={ast.unparse(key.value)}" for key in node.keywords if key.arg]
            loads = words[0] in ("yaml.load", "yaml.load_all")
            loader = [last_name(key.value) for key in node.keywords if key.arg == "Loader"]
            if loads and not (loader and loader[0] in safe | {"SafeLoader", "CSafeLoader"}):
                found.append(f"{node.lineno}: yaml.load without a safe loader")
        else:
            continue
        found += [f"{node.lineno}: {word}" for word in words if word in FORBIDDEN]
    return found


def last_name(node: ast.expr) -> str:
    return ast.unparse(node).split(".")[-1]


FORBIDDEN = {
    *("pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"),
    *("torch.load", "torch.jit.load", "pandas.read_pickle", "pd.read_pickle", "allow_pickle=True"),
    *("yaml.unsafe_load", "yaml.full_load", "weights_only=False"),
    *("eval", "exec", "__import__", "os.system", "os.popen", "shell=True"),
    *("tarfile.extractall", "tar.extractall", "tar.extract", "shutil.unpack_archive"),
}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import joblib.memory", "import marshal as m",
        "torch.load(path, weights_only=True)", "from torch import load",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)", "yaml.load(text, Loader=yaml.Loader)", "yaml.unsafe_load(text)",
        "eval(text)", "exec(text)", "run(command, shell=True)", "os.system(text)",
    ],
)  # fmt: skip
def test_the_check_for_dangers_finds_each(line):
    assert dangers(ast.parse(line))


MORE = sorted(path for room in ("tools",) for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", CODE + MORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_unpickled_evaluated_or_given_to_a_shell(path):
    assert not dangers(ast.parse(path.read_text()))


def test_one_word_in_four_places():
    from cli.app import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert verbs == STAGES.keys() | NO_STAGE.keys()
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    without_section = {"index", "summary"}  # they read only the section data
    assert STAGES.keys() - params.keys() == without_section
    for name, stage in STAGES.items():
        assert stage["cmd"].startswith(f"exec python -m cli {name}")
        assert MODULES[name] in FILES


@pytest.mark.parametrize("name", STAGES)
def test_deps_name_exactly_the_modules_that_a_stage_runs(name):
    modules = closure(MODULES[name]) - NOT_IN_DEPS.keys()
    named = [ROOT / dep for dep in STAGES[name]["deps"] if dep.startswith(("pipeline/", "safe/"))]
    files = [file for dep in named for file in ([dep] if dep.is_file() else dep.rglob("*.py"))]
    # A folder stands for all that is in it; a package's own file says only what it is for.
    files = [file for file in files if file.name != "__init__.py"]
    assert sorted(files) == sorted(FILES[module] for module in modules)


def test_stage_params_are_keys_of_params_yaml_and_runtime_is_in_none():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, stage in STAGES.items():
        for key in stage["params"]:
            section, _, inner = key.partition(".")
            assert section in params, f"{name}: {key}"
            assert section != "runtime"
            assert not inner or inner in params[section], f"{name}: {key}"


def test_the_record_knows_the_params_of_each_stage_as_dvc_does():
    assert {name: list(stage["params"]) for name, stage in STAGES.items()} == {
        name: sorted(stage.params) for name, stage in RECORDED.items()
    }


def test_nothing_of_params_yaml_reaches_a_shell():
    assert not [name for name, stage in STAGES.items() if "${" in stage["cmd"]]


def test_outputs_are_cached_but_for_one_metrics_file_and_its_plots():
    for name, stage in STAGES.items():
        assert all(isinstance(out, str) for out in stage.get("outs", [])), name
    assert [list(m) for s in STAGES.values() for m in s.get("metrics", [])] == [
        ["results/metrics.json"]
    ]


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md"])
def test_paths_named_in_the_documents_exist(document):
    text = (ROOT / document).read_text()
    made = ("data/", "runs/", "results/", "predictions/", "inspected/", ".venv", ".safe/")
    for path in re.findall(r"`([\w./-]+(?:\.\w+|/))`", text):
        if "/" in path or path.endswith((".md", ".yaml", ".toml", ".txt")):
            assert path.startswith(made) or (ROOT / path).exists(), f"{document} names {path}"


def test_the_quick_tests_of_make_check_exist():
    (names,) = re.findall(r"^QUICK := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    files = [ROOT / "tests" / f"test_{name}.py" for name in names.split()]
    assert len(files) > 10
    assert not [file.name for file in files if not file.exists()]


def test_every_module_stands_in_the_architecture():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    missing = [path.name for path in CODE if path.name[0] != "_" and path.name not in text]
    assert not missing


def test_tests_import_nothing_from_one_another():
    """What several share is in modules of its own beside them, or in shared_fixtures.py."""
    files = sorted((ROOT / "tests").glob("*.py"))
    tests = {path.stem for path in files if path.stem.startswith("test_")} | {
        "conftest",
        "shared_fixtures",
    }
    assert not {path.name: imports(path) & tests for path in files if imports(path) & tests}
