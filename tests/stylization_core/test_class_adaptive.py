"""Class-adaptive attention against explicit logits, masks and grouped attention."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stylization.stylization_core.class_adaptive import (
    ClassTokens,
    blended,
    class_attention,
    class_tokens,
    partition,
)
from stylization.stylization_core.shared_attention import token_mask

HEADS = 2


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sdpa(q, k, v):
    split = lambda x: x.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
    return F.scaled_dot_product_attention(split(q), split(k), split(v)).transpose(1, 2).flatten(-2)


def classes(*counts: int, width: int = 12) -> list[ClassTokens]:
    return [
        ClassTokens(drawn(n, width, seed=10 + n), drawn(n, width, seed=20 + n), drawn(n, seed=30 + n).abs() + 0.2)
        for n in counts
    ]


def explicit(q, tokens, masks, weights, adaptivity):
    """The formula, head by head, with all logits written out."""
    rows, count, width = q.shape[0], q.shape[1], q.shape[2] // HEADS
    out = torch.zeros_like(q)
    for b in range(rows):
        for h in range(HEADS):
            at = slice(h * width, (h + 1) * width)
            logits, values = [], []
            for c, one in enumerate(tokens):
                dots = q[b, :, at] @ one.key[:, at].T / math.sqrt(width)
                bias = adaptivity * (masks[min(b, len(masks) - 1), :, c] - 1) + math.log(weights[c])
                logits.append(dots + bias[:, None] + one.mass.log())
                values.append(one.value[:, at])
            out[b, :, at] = torch.cat(logits, 1).softmax(1) @ torch.cat(values)
    assert out.shape[1] == count
    return out


@pytest.mark.parametrize("adaptivity", [0.0, 5.0, 40.0])
@pytest.mark.parametrize("counts", [(6,), (3, 5), (1, 4, 2), tuple(range(1, 12))])
def test_attention_is_the_formula(counts, adaptivity):
    q, tokens = drawn(2, 7, 12), classes(*counts)
    masks = torch.rand(2, 7, len(counts), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = [0.5 + 0.3 * c for c in range(len(counts))]
    found = class_attention(q, tokens, masks, HEADS, sdpa, weights=weights, adaptivity=adaptivity)
    torch.testing.assert_close(found, explicit(q, tokens, masks, weights, adaptivity), rtol=1e-5, atol=1e-6)


def test_one_class_everywhere_is_plain_attention_to_its_reference():
    q, k, v = drawn(2, 9, 12), drawn(8, 12, seed=1), drawn(8, 12, seed=2)
    tokens = class_tokens(k, v, count=8)
    found = class_attention(q, [tokens], torch.ones(1, 9, 1), HEADS, sdpa)
    wanted = sdpa(q, *(x[None].expand(2, -1, -1) for x in (k, v)))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_without_adaptivity_masks_do_not_matter():
    q, tokens = drawn(1, 6, 12), classes(3, 4)
    one, other = torch.rand(1, 6, 2), torch.rand(1, 6, 2)
    found = [class_attention(q, tokens, masks, HEADS, sdpa, adaptivity=0.0) for masks in (one, other)]
    torch.testing.assert_close(*found)


def test_strict_classes_are_attention_class_by_class():
    """The grouped form: each position attends to the tokens of its class alone."""
    q, tokens = drawn(1, 10, 12), classes(3, 4)
    owner = torch.tensor([0, 1] * 5)
    masks = F.one_hot(owner, 2)[None].double()
    found = class_attention(q, tokens, masks, HEADS, sdpa, adaptivity=math.inf)
    for c, one in enumerate(tokens):
        alone = class_attention(q[:, owner == c], [one], torch.ones(1, 5, 1), HEADS, sdpa)
        torch.testing.assert_close(found[:, owner == c], alone, rtol=1e-6, atol=1e-6)


def test_own_mass_grows_with_adaptivity():
    """Unit-variance logits, 8 classes of 16 tokens: 0.13, 0.50, 0.88, 0.98, 0.997 for 0, 2, 4, 6, 8."""
    width, count, owners = 64, 8, 16
    q = drawn(1, 400, width * HEADS, seed=3)
    values = torch.eye(count).double().repeat_interleave(width * HEADS // count, 1)
    tokens = [
        ClassTokens(drawn(owners, width * HEADS, seed=50 + c), values[c].expand(owners, -1), torch.ones(owners))
        for c in range(count)
    ]
    masks = torch.zeros(1, 400, count)
    masks[..., 0] = 1
    mass = []
    for adaptivity in (0.0, 2.0, 4.0, 6.0, 8.0):
        found = class_attention(q, tokens, masks, HEADS, sdpa, adaptivity=adaptivity)
        mass.append(found[..., : width * HEADS // count].mean().item())
    # of the first head's values only the first classes are seen; the own class lies at the front
    assert mass == pytest.approx([0.13, 0.50, 0.88, 0.98, 0.997], abs=0.03)


def test_backend_gets_plain_tensors():
    seen = []

    def backend(q, k, v):
        seen.append((q.shape, k.shape, v.shape))
        return sdpa(q, k, v)

    class_attention(drawn(3, 5, 12), classes(2, 4), torch.rand(1, 5, 2), HEADS, backend)
    assert seen == [((3, 5, 28), (3, 6, 28), (3, 6, 28))]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_errs_no_more_than_its_rounding(dtype):
    q, tokens = drawn(1, 50, 64), classes(16, 16, width=64)
    masks = (torch.arange(50) % 2)[None, :, None].expand(-1, -1, 2).double()
    masks = torch.cat([masks[..., :1], 1 - masks[..., :1]], -1)
    wanted = explicit(q, tokens, masks, [1.0, 1.0], 5.0)
    low = [ClassTokens(*(part.to(dtype) for part in one[:2]), one.mass) for one in tokens]
    found = class_attention(q.to(dtype), low, masks, HEADS, lambda *x: sdpa(*(t.float() for t in x)).to(dtype))
    assert (found.double() - wanted).abs().max() < (0.01 if dtype is torch.float16 else 0.08)


# what stands for a class


def test_few_tokens_stand_for_themselves():
    k, v = drawn(5, 12), drawn(5, 12, seed=1)
    found = class_tokens(k, v, token_mask(torch.tensor([1.0, 0.0, 0.5, 0.0, 1.5])))
    assert torch.equal(found.key, k[[0, 2, 4]]) and torch.equal(found.value, v[[0, 2, 4]])
    assert found.mass.tolist() == [1.0, 0.5, 1.5]


def test_clusters_are_found_with_their_mass():
    """Three heaps of 30, 20 and 10 tokens."""
    centres = 10 * drawn(3, 6)
    heaps = torch.repeat_interleave(torch.arange(3), torch.tensor([30, 20, 10]))
    k, v = centres[heaps] + 0.1 * drawn(60, 6, seed=1), heaps[:, None].double().expand(-1, 6)
    found = class_tokens(k, v, count=3)
    order = found.value[:, 0].argsort()
    assert found.value[order, 0].tolist() == pytest.approx([0, 1, 2], abs=1e-6)
    torch.testing.assert_close(found.key[order], centres, rtol=0.1, atol=0.2)
    assert found.mass[order].tolist() == pytest.approx([1.5, 1.0, 0.5])


def test_attention_to_clusters_is_near_attention_to_all():
    k = drawn(1, 8, seed=2) + 0.4 * drawn(200, 8, seed=3)
    q, v = drawn(1, 30, 8), k @ drawn(8, 8, seed=4)
    whole = sdpa(q, k[None], v[None])
    off = [
        (class_attention(q, [class_tokens(k, v, count=n)], torch.ones(1, 30, 1), HEADS, sdpa) - whole).abs().mean()
        for n in (2, 16, 100)
    ]
    assert off[2] < off[1] < off[0] and off[1] < 0.15 * whole.std()


def test_class_without_tokens_is_none():
    assert class_tokens(drawn(5, 4), drawn(5, 4), token_mask(torch.zeros(5))) is None


# masks


def test_partition_shares_overlaps_and_leaves_the_rest_free():
    masks = torch.tensor([[[1.0, 1.0, 0.2, 0.0]], [[0.0, 1.0, 0.3, 0.0]]])
    found = partition(masks)
    assert found[:, 0].T.tolist() == [[1.0, 0.0], [0.5, 0.5], pytest.approx([0.2, 0.3]), [0.0, 0.0]]


def test_positions_of_no_class_stay_bit_for_bit():
    own, found = drawn(1, 6, 4).float(), torch.full((1, 6, 4), float("nan"))
    found[:, 3:] = 1.0
    masks = torch.tensor([0, 0, 0, 1, 0.5, 1.0])[None, :, None]
    out = blended(own, found, masks)
    assert torch.equal(out[:, :3], own[:, :3]) and (out[:, [3, 5]] == 1).all()
    torch.testing.assert_close(out[:, 4], (own[:, 4] + 1) / 2)
    assert torch.equal(blended(own, found.nan_to_num(0), masks, 0.0), own)
