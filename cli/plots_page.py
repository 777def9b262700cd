"""The page of `dvc plots`, which needs no network.

DVC's own page loads the library Vega from a server. This one carries it: vl-convert-python brings
the scripts, which are put into the page; `.dvc/config` names the page. It is generated, 0.9 MB, and
never committed: `make` writes it with the environment, `safe-cli summary` where it is missing.
"""

from contextlib import suppress
from typing import Final

from cli.layout import plots_page
from cli.progress import say
from safe.files import atomic_file

_SNIPPET: Final = """\
const text = {labelFontSize: 12, titleFontSize: 12};
const options = {
  mode: "vega-lite", renderer: "svg",
  actions: {export: true, source: false, compiled: false, editor: false},
  config: {
    font: "system-ui, sans-serif", title: {fontSize: 14},
    axis: text, legend: text, header: text,
  },
};
// DVC's plots name Vega-Lite 5; this is its successor, which reads them but would complain.
window.vegaEmbed = (where, {$schema, ...plot}) => vegaEmbed(where, plot, options);
"""
"""What the page's scripts call. The menu of a plot is without the link to an editor elsewhere."""

_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<title>SAFE: plots</title>
{refresh_tag}
<style>
body {
  margin: 2rem auto; padding: 0 1.5rem; max-width: 80rem;
  color: #1a1a1a; background: #fff; font: 16px/1.5 system-ui, sans-serif;
}
h1 { margin: 0 0 1rem; font-size: 1.5rem; }
main { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1rem; }
main > div {
  box-sizing: border-box; max-width: 100%; padding: 1rem; overflow: auto;
  border: 1px solid #d9d9d9 !important; border-radius: 4px;
}
main > div > div { border: 0 !important; }
main > div > p { margin: 0 0 .5rem; font-weight: 600; }
img { width: 30rem; max-width: 100%; height: auto; }
</style>
<script>(() => {
SCRIPTS
})();</script>
</head>
<body>
<h1>Plots</h1>
<main>
{plot_divs}
</main>
</body>
</html>
"""


def write_page() -> None:
    """Write the page to where `.dvc/config` says it is; it appears whole."""
    import vl_convert  # 40 MB, for this alone

    scripts = vl_convert.javascript_bundle(_SNIPPET).replace("</script", "<\\/script")
    with atomic_file(plots_page()) as temporary:
        temporary.write_text(_PAGE.replace("SCRIPTS", scripts), encoding="utf-8")


def write_missing_page() -> None:
    """Write the page if there is none; a stage must not fail for want of it."""
    if not plots_page().exists():
        with suppress(ImportError, OSError):
            write_page()


if __name__ == "__main__":
    write_page()
    say(f"plots_page: {plots_page()}")
