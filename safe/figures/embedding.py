"""How far does a model keep the classes apart in its embedding?"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from safe.errors import DataError
from safe.figures.canvas import (
    ONE_COLUMN,
    TWO_COLUMNS,
    check_models,
    class_looks,
    class_name,
    legend_columns,
    save,
    sheet,
    styled,
)
from safe.metrics import Floats, Ints
from safe.predictions import Split


def draw_embedding(
    models: Mapping[str, Split], out: Path, *, seed: int = 0, most: int = 2000
) -> None:
    """Write the t-SNE of the models' embeddings side by side, the same clips in each panel.

    Distances in a t-SNE say little, so each title gives the silhouette of the classes among the
    drawn clips in the embedding itself: -1..1, Euclidean; higher is further apart.

    Args:
        models: name to predictions, all of the same clips.
        out: .png, .svg or .pdf.
        seed: of the drawn clips and of t-SNE.
        most: the largest number of clips drawn, see choose_clips.

    Raises:
        DataError: if the models cannot be compared, there are fewer than four clips, or the suffix
            is another.
    """
    save(embedding_figure(models, seed=seed, most=most), out)


def choose_clips(label: Ints, most: int, *, seed: int) -> Ints:
    """Draw at most `most` clips at random, each class in its share of the labels.

    Every class keeps at least one clip if `most` allows. Returns int64 positions, ascending.
    """
    rng = np.random.default_rng(seed)
    place = np.empty(len(label))  # of each clip in the shuffled row of its class, 0 <= place < 1
    for k in np.unique(label):
        members = np.flatnonzero(label == k)
        place[members] = rng.permutation(len(members)) / len(members)
    return np.sort(np.argsort(place, kind="stable")[:most])


@styled
def embedding_figure(models: Mapping[str, Split], *, seed: int = 0, most: int = 2000) -> Figure:
    """Make the figure of draw_embedding; its axes are the models in order."""
    check_models(models)
    first = next(iter(models.values()))
    label, looks = first.label, class_looks(first.classes)
    rows = choose_clips(label, most, seed=seed)
    if len(rows) < 4:
        raise DataError(f"embedding: {len(rows)} clips are too few for a t-SNE; give at least 4")
    label = label[rows]
    columns = min(3, len(models))
    lines = -(-len(models) // columns)
    width = ONE_COLUMN if columns == 1 else TWO_COLUMNS
    clips = np.bincount(label, minlength=len(looks))
    labels = [f"{class_name(name)} ({n})" for name, n in zip(looks, clips, strict=True)]
    beside = legend_columns(labels, width - 4)
    figure = sheet(width, lines * (width / columns + 5) + 4 + 4.2 * -(-len(labels) // beside))
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (name, split) in zip(panels, models.items(), strict=False):
        points = split.embedding[rows]
        flat = tsne(points, seed)
        for k, (colour, marker) in enumerate(looks.values()):
            panel.scatter(
                *flat[label == k].T,
                s=9,
                c=colour,
                marker=marker,
                linewidths=0.7 if marker in "+x" else 0,
                alpha=0.75,
                label=labels[k],
            )
        panel.set(title=f"{name}: silhouette {silhouette(points, label)}", xticks=[], yticks=[])
        panel.set_box_aspect(1)
        panel.spines[:].set_visible(True)
    for empty in panels[len(models) :]:
        empty.remove()
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=beside,
        markerscale=1.6,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    return figure


def tsne(points: Floats, seed: int) -> Floats:
    """Lay points float [n, D], n >= 4, out in the plane, float [n, 2].

    On one thread, since the order in which threads add up would change the last bits, and t-SNE
    makes much of them.
    """
    method = TSNE(perplexity=min(30, (len(points) - 1) / 3), random_state=seed)
    with threadpoolctl.threadpool_limits(1):
        flat: Floats = method.fit_transform(points)
    return flat


def silhouette(points: Floats, label: Ints) -> str:
    """Return the mean silhouette in words; it is not defined for one class or one clip a class."""
    if not 2 <= len(np.unique(label)) < len(label):
        return "not defined"
    return f"{silhouette_score(points, label):.3f}"
