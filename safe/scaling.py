"""By which scale and bias do logits become probabilities that are right as often as they say?

Logits and labels of clips that the model did not learn go in. Both ways (Guo et al., "On
Calibration of Modern Neural Networks", 2017) minimise the negative log-likelihood of

    p = softmax(scale * logits + bias)

Shapes: n clips, K classes.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from safe.metrics import Floats, Ints, nll

MOST = 20.0
"""Largest temperature, and one over the smallest: beyond, a split has no error, or nothing else."""


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Find the one temperature T for all classes; the order of the classes stays as it is.

    Args:
        logits: float [n, K].
        labels: int [n], 0..K-1.

    Returns:
        Scale, float64 [K], all 1 / T with T in 1/20..20; and bias, [K], all 0.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    # Of 1 / T the likelihood is a convex function, so there is one lowest point; its logarithm only
    # makes the search even over small and large ones.
    found = minimize_scalar(
        lambda t: nll(z * np.exp(t), y),
        bounds=(-np.log(MOST), np.log(MOST)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    k = z.shape[1]
    return np.full(k, np.exp(found.x)), np.zeros(k)


def fit_vector(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Find a scale and a bias a class; the class with the highest probability may become another.

    2 K numbers from few clips would learn those clips by heart, and a class without any would get
    the bias minus infinity. So the biases, and the logarithms of scale * T, have a normal prior of
    mean 0 and deviation 1: many clips outweigh it, a class without any keeps what T gives.

    Args and returns:
        As fit_temperature; the scales differ and stay within 1/20..20, the biases have sum 0.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    start, _ = fit_temperature(z, y)
    k = z.shape[1]
    truth = np.eye(k)[y]

    def loss(numbers: Floats) -> tuple[float, Floats]:
        move, bias = numbers[:k], numbers[k:]
        scaled = z * start * np.exp(move)
        log_p = log_softmax(scaled + bias, axis=1)
        rest = (np.exp(log_p) - truth) / len(z)
        value = -(truth * log_p).sum() / len(z) + (numbers**2).sum() / 2 / len(z)
        slope = np.concatenate([(rest * scaled).sum(axis=0), rest.sum(axis=0)])
        return float(value), slope + numbers / len(z)

    limit = np.log(MOST)
    bounds = [(-limit - np.log(s), limit - np.log(s)) for s in start] + [(None, None)] * k
    found = minimize(loss, np.zeros(2 * k), jac=True, method="L-BFGS-B", bounds=bounds).x
    bias = found[k:]
    return start * np.exp(found[:k]), bias - bias.mean()


FITS = {"temperature": fit_temperature, "vector": fit_vector}
"""Ways of scaling by the name that params.yaml gives them."""


def class_cutoffs(probabilities: Floats, labels: Ints, *, level: float) -> Floats:
    """Say from which probability on a class belongs to a clip's prediction set.

    Class-conditional split conformal prediction (Vovk 2012; Sadinle, Lei and Wasserman 2019): of
    the n_c clips of class c the floor((n_c + 1) (1 - level))-th smallest p_c is the cutoff of c. If
    new clips are drawn like these, the sets hold the label of at least `level` of each class, and
    of at most 1 / (n_c + 1) more. A class with too few clips for that is in every set (cutoff 0).

    Args:
        probabilities: float64 [n, K].
        labels: int [n].
        level: 0..1.

    Returns:
        float64 [K], 0..1.
    """
    cutoffs = np.zeros(probabilities.shape[1])
    for c in range(len(cutoffs)):
        own = np.sort(probabilities[labels == c, c])
        rank = int(np.floor((len(own) + 1) * (1 - level) + 1e-9))  # 0.1 * 10 must not become 0
        if rank >= 1:
            cutoffs[c] = own[rank - 1]
    return cutoffs
