"""Which options do several verbs have in common?"""

from pathlib import Path
from typing import Annotated

import typer

Params = Annotated[Path, typer.Option(help="The file of parameters.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "-S", "--set", metavar="KEY=VALUE", help="Override a parameter, as `dvc exp run -S` does."
    ),
]
Model = Annotated[
    Path, typer.Option("--model", metavar="RUN", help="A model folder, or runs/<name>.")
]
Fold = Annotated[int | None, typer.Option(min=1, help="One fold; without it, all of data.folds.")]

PARAMS = Path("params.yaml")
