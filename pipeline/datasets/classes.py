"""The choice of classes: what data.classes makes of the classes that a data set has.

In: their names, and the parameter. Out: the names that labels mean, and for each class that the
data set has its label, or None where its clips are left out.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from safe.errors import DataError
from safe.taxonomy import BASIC, Classes, check_classes

SYNONYMS: Final = {
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "anger": "angry",
    "surprised": "surprise",
    "disgusted": "disgust",
    "fearful": "fear",
}
"""Other words for the basic seven, in lists of one's own whose data.classes asks for these."""


def choose_classes(
    given: Sequence[str],
    wanted: Sequence[str] | Mapping[str, str | None] | None,
    *,
    owner: str,
    own: bool = False,
) -> tuple[Classes, list[int | None]]:
    """Return the classes, and of each given one its label, or None if it is left out.

    Names are compared without regard to case.

    Args:
        given: names of the classes of the data set, in its order.
        wanted: data.classes. A list: these, in this order, and no others. A mapping: other names,
            of which two may be one; None leaves a class out. None: those given.
        owner: name of the data set, for errors.
        own: whether the classes are the words of a list: then they are in alphabetical order, and a
            wanted one may be without clips.

    Raises:
        DataError: if a class is wanted that the data set does not have, or what comes out are no 2
            to 100 well-formed, different names.
    """
    places = {name.casefold(): place for place, name in enumerate(given)}
    names: list[str | None] = list(given)
    if isinstance(wanted, Mapping):
        _require(wanted, places, owner)
        for name, other in wanted.items():
            names[places[name.casefold()]] = other
        kept = list({name.casefold(): name for name in reversed(names) if name}.values())[::-1]
        chosen = sorted(kept, key=str.casefold) if own else kept
    elif wanted is not None:
        if not own:
            _require(wanted, places, owner)
        chosen = list(wanted)
        if own and is_basic(chosen):
            names = [SYNONYMS.get(name.casefold(), name) for name in given]
    else:
        chosen = sorted(given, key=str.casefold) if own else list(given)
    try:
        classes = check_classes(chosen)
    except ValueError as error:
        raise DataError(f"classes of {owner}: {error}; see data.classes") from error
    labels = {name.casefold(): label for label, name in enumerate(classes)}
    return classes, [labels.get(name.casefold()) if name else None for name in names]


def is_basic(names: Sequence[str]) -> bool:
    """Say whether names are the basic seven, in any order."""
    return {name.casefold() for name in names} == set(BASIC)


def _require(wanted: Sequence[str] | Mapping[str, str | None], known: object, owner: str) -> None:
    assert isinstance(known, dict)
    for name in wanted:
        if name.casefold() not in known:
            raise DataError(
                f"data.classes: {name!r} is no class of {owner}, which has {', '.join(known)}"
            )
