"""What do a model's answers mean, under which terms may it be used, and for what not?

The words that go with a model wherever it goes: into the ONNX file and onto the model card.
"""

from typing import Final

MEANING: Final = (
    "The answer names the apparent expression of a face: what it looks like to those who labelled "
    "the clips. It does not say what a person feels, thinks or intends."
)

LICENCE: Final = "Apache-2.0"
"""Of the code, and of weights that were learned from drawn faces alone."""

DRAWN: Final = "synthetic"
"""The dataset whose faces this project draws itself."""


def licence_of(dataset: str) -> str:
    """Say under which licence the weights of a model are that was trained on a dataset."""
    if dataset == DRAWN:
        return LICENCE
    return f"code: {LICENCE}; weights: see the terms of the dataset they were learned from"


REFUSED: Final = (
    "To infer the emotions of people at work or in education. In the European Union this is "
    "prohibited, except for medical or safety reasons: Regulation (EU) 2024/1689 (the AI Act), "
    "Article 5(1)(f), which applies since 2 February 2025. The model is not offered under that "
    "exception: it has been tested for no medical and no safety purpose.",
    "To hire, grade, promote, insure, lend to or rank people.",
    "Policing, border control, detection of lies or of intentions.",
    "Diagnosis or any other medical use; decisions about children.",
    "To watch people who do not know of it or could not say no.",
)
"""Uses that the authors refuse, a sentence each."""

DUTIES: Final = (
    "Any other system that is meant for emotion recognition is high-risk in the European Union "
    "(Article 6(2) and Annex III, point 1(c)); who deploys it must inform the people exposed to it "
    "(Article 50(3)) and keep the data protection law: faces are personal data, and often "
    "biometric ones. To speak of apparent expressions changes nothing of this where they serve to "
    "infer emotions (recital 18). What applies to a certain use, and from which day, ask a lawyer; "
    "this is no legal advice."
)
"""What the law asks of uses that are neither refused nor prohibited."""
