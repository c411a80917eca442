"""The rulers on tokens, on closed forms and on a stand-in network whose truth is known: raw patches of pictures."""

import numpy as np
import pytest
import torch
from skimage import data
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.rulers.features import (
    gram_distance,
    moment_distance,
    self_similarity_distance,
    token_weights,
)

RULERS = (self_similarity_distance, gram_distance, moment_distance)
names = pytest.mark.parametrize("ruler", RULERS, ids=lambda ruler: ruler.__name__)


def features(seed, shape=(1, 20, 6)):
    return np.random.default_rng(seed).normal(size=shape)


def patches(picture, side=8):
    """(H, W, 3) -> (1, patches, side * side * 3), less each patch's mean tone."""
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    cut = picture[: rows * side, : columns * side].reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    flat = cut.reshape(1, rows * columns, -1)
    return flat - flat.mean(axis=(0, 1))


@names
def test_equal_tokens_have_no_distance(ruler):
    assert ruler(features(1), features(1)) == pytest.approx([0], abs=1e-12)


@names
def test_no_scale_of_the_network_counts(ruler):
    value = ruler(features(1), features(2))
    assert ruler(7 * features(1), 7 * features(2)) == pytest.approx(value) and value[0] > 0.05


def test_self_similarity_is_the_root_of_the_splice_loss():
    """Against torch: F.mse_loss of cosine similarity matrices."""
    photo, result = (torch.from_numpy(features(seed)) for seed in (1, 2))
    maps = [torch.cosine_similarity(each[0, :, None], each[0, None], dim=-1) for each in (photo, result)]
    wanted = torch.nn.functional.mse_loss(*maps).sqrt().item()
    assert self_similarity_distance(photo, result)[0] == pytest.approx(wanted, rel=1e-6)


def test_self_similarity_reaches_its_limits():
    """Two patches, alike in one and opposite in the other: two of four pairs differ by 2."""
    alike, opposite = np.array([[[1.0, 0], [1, 0]]]), np.array([[[1.0, 0], [-1, 0]]])
    assert self_similarity_distance(alike, opposite) == pytest.approx([2 / 2**0.5])
    many = np.ones((1, 100, 1))
    halves = many * np.where(np.arange(100) < 50, 1, -1)[:, None]
    assert self_similarity_distance(many, halves)[0] == pytest.approx(2**0.5)


def test_self_similarity_ignores_a_rotation_of_features_and_sees_a_rearrangement():
    turn = np.linalg.qr(features(3, (6, 6)))[0]
    assert self_similarity_distance(features(1), features(1) @ turn) == pytest.approx([0], abs=1e-12)
    assert self_similarity_distance(features(1), features(1)[:, ::-1])[0] > 0.2


def test_gram_is_that_of_gatys_at_norm_one():
    result, exemplar = torch.from_numpy(features(1)), torch.from_numpy(features(2, (1, 33, 6)))
    grams = [torch.einsum("bnc,bnd->bcd", each, each) for each in (result, exemplar)]
    first, second = (gram / torch.linalg.matrix_norm(gram)[:, None, None] for gram in grams)
    assert gram_distance(result, exemplar)[0] == pytest.approx((first - second).norm().item(), rel=1e-6)


def test_gram_of_features_with_nothing_in_common():
    assert gram_distance(np.eye(4)[None, :2], np.eye(4)[None, 2:]) == pytest.approx([2**0.5])


def test_moments_of_a_shift_and_of_a_wider_spread():
    """A shift measures its length over the spread; twice the spread: 1 over sqrt((1 + 4) / 2)."""
    base = features(1)
    spread = np.sqrt((base.std(axis=1) ** 2).sum())
    assert moment_distance(base + np.array([3, 0, 0, 0, 0, 4.0]), base)[0] == pytest.approx(5 / spread)
    centred = base - base.mean(axis=1)
    assert moment_distance(2 * centred, centred)[0] == pytest.approx(1 / 2.5**0.5)


@pytest.mark.parametrize("ruler", (gram_distance, moment_distance), ids=lambda ruler: ruler.__name__)
def test_style_ignores_where_patches_stand_and_measures_against_the_centre(ruler):
    assert ruler(features(1)[:, ::-1], features(1)) == pytest.approx([0], abs=1e-12)
    exemplars = np.concatenate([features(2), features(2)])
    assert ruler(features(1), exemplars) == pytest.approx(ruler(features(1), features(2)))
    apart = np.concatenate([features(1), features(2)])
    centre = [ruler(features(seed), apart)[0] for seed in (1, 2)]
    assert max(centre) < ruler(features(1), features(2))[0]


def test_a_texture_is_nearer_to_itself_than_to_another_and_a_photo_keeps_its_layout():
    materials = {name: getattr(data, name)() / 255.0 for name in ("brick", "grass")}
    pictures = {name: np.repeat(grey[..., None], 3, -1) for name, grey in materials.items()}
    halves = {name: (patches(each[:, :256]), patches(each[:, 256:])) for name, each in pictures.items()}
    brick, grass = halves["brick"], halves["grass"]
    for ruler in (gram_distance, moment_distance):
        alike = ruler(*brick)[0] + ruler(*grass)[0]
        assert alike < 0.5 * (ruler(brick[0], grass[1])[0] + ruler(grass[0], brick[1])[0])
    photo, other = data.astronaut()[:256, :256] / 255.0, data.chelsea()[:256, :256] / 255.0
    restyled = (0.2 + 0.6 * photo)[..., [2, 0, 1]]
    kept = self_similarity_distance(patches(photo), patches(restyled))[0]
    assert kept < 0.3 * self_similarity_distance(patches(photo), patches(other))[0]


@names
def test_weights_choose_patches(ruler):
    first, second = features(1), features(2)
    weights = np.zeros((1, 20))
    weights[:, 3:9] = 5.0
    crop = second[:, 3:9] if ruler is self_similarity_distance else second
    assert ruler(first, second, weights) == pytest.approx(ruler(first[:, 3:9], crop))
    changed = first.copy()
    changed[:, 10:] = 9
    assert ruler(changed, second, weights) == pytest.approx(ruler(first, second, weights))
    assert ruler(first, second, np.ones(20)) == pytest.approx(ruler(first, second))


@names
def test_a_patch_of_twice_the_weight_is_a_patch_twice(ruler):
    doubled = [np.concatenate([each, each[:, :4]], axis=1) for each in (features(1), features(2))]
    weights = np.where(np.arange(20) < 4, 2.0, 1.0)
    second = doubled[1] if ruler is self_similarity_distance else features(2)
    assert ruler(features(1), features(2), weights) == pytest.approx(ruler(doubled[0], second))


def test_one_photo_each_and_exemplars_of_unlike_grams():
    photos, results = features(1, (2, 20, 6)), features(2, (2, 20, 6))
    each = [self_similarity_distance(photos[i], results[i])[0] for i in range(2)]
    assert self_similarity_distance(photos, results) == pytest.approx(each)
    # two of three directions, once each: the mean is (1, 1, 0) / 2, at norm 1 this far from the first
    exemplars = np.eye(3)[:2, None]
    assert gram_distance(exemplars[:1], exemplars) == pytest.approx([(2 - 2**0.5) ** 0.5])


def test_weights_of_a_mask_are_the_share_of_each_patch():
    mask = np.zeros((1, 32, 48))
    mask[:, :16, :24] = 1
    wanted = [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0] * 6, [0] * 6]
    assert token_weights(mask, (4, 6)).ravel() == pytest.approx(np.ravel(wanted))
    assert token_weights(torch.from_numpy(mask[0]), (1, 1)).ravel() == pytest.approx([0.25])


@names
def test_batches_and_tensors(ruler):
    both = np.concatenate([features(2), features(3)])
    case = (features(1), both) if ruler is self_similarity_distance else (both, features(1))
    found = ruler(*(torch.from_numpy(each) for each in case))
    one_by_one = [
        ruler(*((features(1), each[None]) if ruler is self_similarity_distance else (each[None], features(1))))[0]
        for each in both
    ]
    assert found.shape == (2,) and found == pytest.approx(one_by_one, rel=1e-5)
    half = ruler(*(torch.from_numpy(each).to(torch.bfloat16) for each in case))
    assert half == pytest.approx(one_by_one, rel=0.05)


@names
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (np.zeros(6), "not \\(B, N, C\\)"),
        (np.zeros((1, 0, 6)), "not \\(B, N, C\\)"),
        (np.zeros((1, 20, 6), int), "int64"),
        (np.full((1, 20, 6), np.nan), "NaN"),
    ],
    ids=["shape", "none", "integers", "nan"],
)
def test_bad_tokens_are_named(ruler, broken, said):
    with pytest.raises(StylizationError, match=f"tokens.*{said}"):
        ruler(features(1), broken)


@names
@pytest.mark.parametrize(
    ("weights", "said"),
    [(np.ones(7), "20 patches"), (np.zeros(20), "nothing counts"), (np.full(20, np.nan), "NaN"), (-np.ones(20), "neg")],
    ids=["number", "empty", "nan", "negative"],
)
def test_bad_weights_are_named(ruler, weights, said):
    with pytest.raises(StylizationError, match=f"token weights.*{said}"):
        ruler(features(1), features(2), weights)


def test_tokens_that_do_not_match_and_features_of_zeros():
    with pytest.raises(StylizationError, match="photo and result tokens.*one picture size"):
        self_similarity_distance(features(1), features(2, (1, 21, 6)))
    with pytest.raises(StylizationError, match="photo and result tokens"):
        self_similarity_distance(features(1, (2, 20, 6)), features(2, (3, 20, 6)))
    for ruler in (gram_distance, moment_distance):
        with pytest.raises(StylizationError, match="6 and 5 channels"):
            ruler(features(1), features(2, (1, 20, 5)))
    with pytest.raises(StylizationError, match="result tokens: all features are 0"):
        gram_distance(np.zeros((1, 20, 6)), features(2))
