"""Scores between 0 and 1 (F1, ROUGE, shares): means, and differences of two arms on the same prompts.

Scores are bounded, pile up at 0 and 1, and most differences are exactly 0: no normal distribution. So the
intervals are bootstrapped (BCa, which follows skewness) and the p is a paired permutation test's: if arm and
baseline were alike, each difference could as well have the other sign. On scores that are only 0 or 1 that p
is McNemar's exact one. Both are scipy's, with a fixed seed.
A bootstrap knows no more than its sample: intervals of few prompts are too narrow; the p of few is exact.
"""

from __future__ import annotations

import math
from functools import lru_cache

RESAMPLES = 9999


@lru_cache(4096)
def interval(values: tuple[float, ...]) -> tuple[float, float] | None:
    """95 % interval of the mean; ``None`` where all values are equal: nothing is known of their spread.

    Raises:
        ImportError: no scipy.
    """
    import numpy as np
    from scipy.stats import bootstrap

    if len(set(values)) < 2:
        return None
    found = bootstrap(
        (np.array(values),), np.mean, n_resamples=RESAMPLES, confidence_level=0.95, method="BCa", rng=1
    ).confidence_interval
    low, high, mean = float(found.low), float(found.high), float(np.mean(values))
    return None if math.isnan(low + high) else (min(low, mean), max(high, mean))


@lru_cache(4096)
def p_of(differences: tuple[float, ...]) -> float:
    """Two-sided p of the mean difference by flipped signs: exact up to 13 prompts that differ."""
    import numpy as np
    from scipy.stats import permutation_test

    changed = np.array([d for d in differences if d])  # a 0 has no sign to flip
    if len(changed) < 2:
        return 1.0
    test = permutation_test(
        (changed,), np.sum, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=1
    )
    return float(test.pvalue)
