"""Evaluation: inference over a split, metrics with intervals, calibration, comparisons."""
