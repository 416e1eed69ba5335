"""One-sided 95 % Clopper-Pearson bounds: what a count of pictures proves about a rate, whatever the rate is.

Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934): the bounds
are quantiles of beta distributions, and the true rate lies beyond one of them in at most 5 of 100 samples.
"""

import math

from scipy.stats import beta

CONFIDENCE = 0.95
"""With which each bound holds; one-sided."""


def lower(successes: int, n: int) -> float:
    """The rate that is at least there, 0..1, after `successes` among n; 0.0 where there are none.

    Raises:
        ValueError: `successes` is not one of 0..n.
    """
    _check(successes, n)
    return float(beta.ppf(1 - CONFIDENCE, successes, n - successes + 1)) if successes else 0.0


def upper(successes: int, n: int) -> float:
    """The rate that is at most there, 0..1, after `successes` among n; 1.0 where all are.

    Raises:
        ValueError: `successes` is not one of 0..n.
    """
    _check(successes, n)
    return float(beta.ppf(CONFIDENCE, successes + 1, n - successes)) if successes < n else 1.0


def needed(bound: float) -> int:
    """How many pictures without one escape prove a rate of at most `bound`: the least n with (1 - bound)^n <= 0.05; 299 for 0.01.

    Raises:
        ValueError: `bound` is not above 0 and below 1.
    """
    if not 0 < bound < 1:
        raise ValueError(f"bound: {bound} must be above 0 and below 1")
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-bound))


def _check(successes: int, n: int) -> None:
    if not 0 <= successes <= n:
        raise ValueError(f"successes: {successes} of {n} cannot be; it must be one of 0..n")
