"""Rulers on the features of a connected network: patch tokens of a CLIP vision model, DINO, or any other.

Tokens are (B, N, C), numpy or torch: N patches of C numbers, without a class token, all from one layer of one network.
Nothing here knows the network; numbers of two networks must not be compared. Weights (B or 1, N), as
:func:`token_weights` makes them of a mask, let only some patches count.
"""

from __future__ import annotations

import numpy as np

from ..errors import StylizationError

_SILENT = 1e-12


def self_similarity_distance(photo_tokens, result_tokens, weights=None) -> np.ndarray:
    """Did the layout stay: are the same patches alike, and the same unlike each other, as in the photo?

    Range and direction: [0, 2], lower keeps more; 0 is the photo itself. What an unrelated picture has depends on the
    network, so measure one beside it.
    Source: root mean square difference, over all pairs of patches, of the cosine similarities between patches: the
    structure loss of Splicing ViT Features (Tumanyan et al. 2022), after Shechtman and Irani 2007.
    What fools it: a picture of even patches is like any other such picture; features that hold much of the style (early
    layers) raise it although nothing was lost; a network blind to small things does not miss them.

    Args:
        photo_tokens: of one photo, or one per result.
        result_tokens: of the results, of as many patches.
        weights: of the patches, those of photo and result alike.

    Raises:
        StylizationError: shapes that do not match, NaN, nothing that counts.
    """
    photo, result = tokens(photo_tokens, "photo tokens"), tokens(result_tokens, "result tokens")
    if photo.shape[1:] != result.shape[1:] or len(photo) not in (1, len(result)):
        shapes = f"they are {photo.shape} and {result.shape}"
        raise StylizationError("photo and result tokens", shapes, "Give one layer of one network, at one picture size")
    values = []
    for number, weight in enumerate(_weights(weights, result)):
        change = _similarities(photo[number % len(photo)]) - _similarities(result[number])
        values.append(np.sqrt(weight @ change**2 @ weight))
    return np.array(values)


def tokens(features, subject: str = "tokens") -> np.ndarray:
    """Tokens as float64 (B, N, C).

    Args:
        found: (B, N, C) or (N, C), numpy or torch.
        subject: what to call them in messages.

    Raises:
        StylizationError: another shape, whole numbers, NaN or infinite values.
    """
    features = features.detach().float().cpu().numpy() if hasattr(features, "detach") else np.asarray(features)
    if features.ndim == 2:
        features = features[None]
    if features.ndim != 3 or 0 in features.shape:
        raise StylizationError(
            subject, f"the shape is {features.shape}, not (B, N, C)", "Give the patches of a network"
        )
    if not np.issubdtype(features.dtype, np.floating):
        raise StylizationError(subject, f"the values are {features.dtype}", "Give floating point features")
    if not np.isfinite(features).all():
        raise StylizationError(subject, "some values are NaN or infinite", "Run the network at a higher precision")
    return features.astype(np.float64)


def _weights(weights, features: np.ndarray) -> np.ndarray:
    """(B, N), each row summing to 1; without any all count alike."""
    count, patches = features.shape[:2]
    if weights is None:
        return np.full((count, patches), 1 / patches)
    weights = weights.detach().float().cpu().numpy() if hasattr(weights, "detach") else np.asarray(weights)
    weights = np.atleast_2d(weights).astype(np.float64)
    if weights.ndim != 2 or weights.shape[1] != patches or len(weights) not in (1, count):
        shapes = f"the shape is {weights.shape} for {count} pictures of {patches} patches"
        raise StylizationError("token weights", shapes, "Give one weight a patch")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise StylizationError("token weights", "some are NaN, infinite or negative", "Look at the mask")
    sums = weights.sum(axis=1, keepdims=True)
    if (sums <= 0).any():
        raise StylizationError("token weights", "nothing counts", "Mark a region, or disconnect the mask")
    return np.broadcast_to(weights / sums, (count, patches))


def _similarities(features: np.ndarray) -> np.ndarray:
    """Cosine of every patch with every other, (N, C) -> (N, N)."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _SILENT)
    return unit @ unit.T


def token_weights(mask, grid: tuple[int, int]) -> np.ndarray:
    """Share of every patch that a mask marks, row by row.

    Args:
        mask: (B, H, W) or (H, W), numpy or torch, of the very picture that the network saw (after its crop).
        grid: rows and columns of patches.

    Returns:
        (B, rows * columns) in [0, 1].
    """
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    mask = torch.as_tensor(mask, dtype=torch.float64).cpu()
    return adaptive_avg_pool2d(mask.reshape(-1, *mask.shape[-2:]), tuple(grid)).flatten(1).numpy()


def gram_distance(result_tokens, exemplar_tokens, weights=None) -> np.ndarray:
    """Which features come together: in the result as in the exemplars?

    Range and direction: [0, sqrt 2], lower is nearer; 0 is equal, sqrt 2 nothing in common.
    Source: Gram matrices over the patches (Gatys et al. 2016), each brought to norm 1, so that no scale of the features
    counts; the exemplars' mean, of norm 1 again, is what the result is measured against (Frobenius norm).
    What fools it: where something stands does not matter; a network whose features have a large constant part (most
    transformers) makes all pictures look alike, so read it against the photo's own value; what the picture shows counts
    beside how it is painted.

    Args:
        result_tokens: of the results.
        exemplar_tokens: of pictures of the style; may have another number of patches.
        weights: of the results' patches.

    Raises:
        StylizationError: another number of channels, NaN, nothing that counts, features that are all 0.
    """
    result, exemplars = _style_pair(result_tokens, exemplar_tokens)
    wanted = _unit(_grams(exemplars, None, "exemplar tokens").mean(axis=0, keepdims=True), "exemplar tokens")
    return np.linalg.norm(_grams(result, weights, "result tokens") - wanted, axis=(1, 2))


def _style_pair(result_tokens, exemplar_tokens) -> tuple[np.ndarray, np.ndarray]:
    result, exemplars = tokens(result_tokens, "result tokens"), tokens(exemplar_tokens, "exemplar tokens")
    if result.shape[2] != exemplars.shape[2]:
        channels = f"they have {result.shape[2]} and {exemplars.shape[2]} channels"
        raise StylizationError("result and exemplar tokens", channels, "Give one layer of one network")
    return result, exemplars


def _grams(features: np.ndarray, weights, subject: str) -> np.ndarray:
    """(B, N, C) -> (B, C, C) of norm 1."""
    weighted = features * np.sqrt(_weights(weights, features))[..., None]
    return _unit(weighted.transpose(0, 2, 1) @ weighted, subject)


def _unit(grams: np.ndarray, subject: str) -> np.ndarray:
    norm = np.linalg.norm(grams, axis=(1, 2), keepdims=True)
    if (norm <= 0).any():
        raise StylizationError(subject, "all features are 0", "Look at the network and its picture")
    return grams / norm


def moment_distance(result_tokens, exemplar_tokens, weights=None) -> np.ndarray:
    """How strong is every feature and how much does it vary: in the result as in the exemplars?

    Range and direction: [0, no upper limit], lower is nearer; 1 is a difference as large as the features' own spread.
    Source: mean and standard deviation of each channel, as in AdaIN's style loss (Huang and Belongie 2017), as the
    2-Wasserstein distance between normal distributions of these moments; over the root mean square spread of both, so
    that no scale of the features counts. The exemplars' mean moments are their barycentre.
    What fools it: where something stands and which features come together do not matter; what the picture shows
    counts beside how it is painted; an even picture has hardly any spread, so everything is far from it.

    Args:
        result_tokens: of the results.
        exemplar_tokens: of pictures of the style; may have another number of patches.
        weights: of the results' patches.

    Raises:
        StylizationError: another number of channels, NaN, nothing that counts.
    """
    result, exemplars = _style_pair(result_tokens, exemplar_tokens)
    mean, spread = _moments(result, weights)
    wanted_mean, wanted_spread = (moment.mean(axis=0) for moment in _moments(exemplars, None))
    apart = ((mean - wanted_mean) ** 2 + (spread - wanted_spread) ** 2).sum(axis=1)
    scale = (spread**2 + wanted_spread**2).sum(axis=1) / 2
    return np.sqrt(apart / np.maximum(scale, _SILENT))


def _moments(features: np.ndarray, weights) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the patches, (B, C) each."""
    weights = _weights(weights, features)[..., None]
    mean = (features * weights).sum(axis=1)
    return mean, np.sqrt((weights * (features - mean[:, None]) ** 2).sum(axis=1))
