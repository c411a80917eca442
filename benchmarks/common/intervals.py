"""Means with paired bootstrap intervals, as every report here gives them."""

import numpy as np

RESAMPLES, SEED = 4000, 20260


def interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of a mean of paired differences."""
    random = np.random.default_rng(SEED)
    picks = random.integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)
