"""Does `dvc plots show` draw without a network, and go on as before where the page is missing?"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from cli import plots_page
from cli.layout import plots_page as page_path

CHROMIUM = shutil.which("chromium")
PLOTS = {"curves": ("epoch", "loss"), "reliability": ("confidence", "accuracy")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a DVC project with the config of this one, two tables and what dvc.yaml says of them.

    It has no git: `dvc plots show` of the workspace needs none.
    """
    (tmp_path / ".dvc").mkdir()
    config = (ROOT / ".dvc" / "config").read_text()
    (tmp_path / ".dvc" / "config").write_text(config.replace("[core]", "[core]\n    no_scm = true"))
    lines = ["plots:"]
    for name, (x, y) in PLOTS.items():
        rows = "".join(f"{i / 4},{1 / i}\n" for i in range(1, 5))
        (tmp_path / f"{name}.csv").write_text(f"{x},{y}\n{rows}")
        lines += [f"  - {name}.csv:", f"      x: {x}", f"      y: {y}"]
    table = [{"actual": a, "predicted": b} for a in ("happy", "sad") for b in ("happy", "sad", a)]
    (tmp_path / "confusion.json").write_text(json.dumps(table))
    lines += ["  - confusion.json:", "      template: confusion_normalized"]
    lines += ["      x: actual", "      y: predicted"]
    (tmp_path / "dvc.yaml").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def show() -> str:
    """Run `dvc plots show` here and return the page that it made."""
    command = [sys.executable, "-m", "dvc", "plots", "show"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return Path("dvc_plots", "index.html").read_text(encoding="utf-8")


def outside(page: str) -> list[str]:
    """Return what a browser would load from elsewhere."""
    tags = re.findall(r"<(?:script|img|link|iframe)\b[^>]*>", page)
    return [tag for tag in tags if re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", tag)]


def test_without_the_page_dvc_draws_as_by_default(folder: Path) -> None:
    page = show()
    assert "vegaEmbed('#curves_csv', spec)" in page
    assert len(outside(page)) == 3  # Vega's three scripts: the check below can find them


def test_plots_are_drawn_without_a_network(folder: Path) -> None:
    plots_page.write_page()
    page = show()
    assert not outside(page)
    for name in ("curves_csv", "reliability_csv", "confusion_json"):
        assert f"vegaEmbed('#{name}', spec)" in page
    if CHROMIUM is None:
        pytest.skip("the page was not opened: no chromium here (Debian's package has that name)")
    url = (folder / "dvc_plots" / "index.html").as_uri()
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *("--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", url),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "CONSOLE" in done.stderr  # Vega's warnings of DVC's templates: so errors would be seen
    assert not re.search(r"Uncaught|Error:|net::ERR", done.stderr)
    drawn = {
        part.split('"')[0]: part for part in done.stdout.split("<main>")[1].split('<div id="')[1:]
    }
    for name in ("curves_csv", "reliability_csv"):
        line = re.search(r'class="mark-line role-mark.*?<path[^>]* d="(M[^"]*)"', drawn[name])
        assert line is not None
        assert len(re.findall(r"[ML]", line[1])) == 4  # its rows
    cells = re.search(r'class="mark-rect role-mark.*?</g>', drawn["confusion_json"])
    assert cells is not None
    assert cells[0].count("<path") == 4  # two classes by two


def test_a_stage_writes_the_page_once_and_does_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_path().parent.mkdir()
    page_path().write_text("mine")
    plots_page.write_missing_page()
    assert page_path().read_text() == "mine"
    page_path().unlink()
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # not installed
    plots_page.write_missing_page()
    assert not page_path().exists()
