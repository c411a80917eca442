"""Shared attention and its statistics against explicit logits, softmax and the formulas written per head."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stylization.stylization_core.shared_attention import (
    PAD,
    Moments,
    Tokens,
    full_sharing,
    moments,
    shared_attention,
    token_mask,
)

EPSILON = 1e-5
SINGLE = 2e-6
"""Statistics and logarithms are taken in float32."""

MASK = torch.tensor([0.0, 1.0, 0.5, 0.0, 0.25, 1.0, 0.0])
BINARY = (MASK > 0.4).float()


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def projected(rows: int, count: int, width: int, seed: int = 0) -> list[torch.Tensor]:
    """Queries, keys and values of pictures whose channels differ in place and spread."""
    places, spreads = drawn(3, 1, 1, width, seed=seed + 1), drawn(3, 1, 1, width, seed=seed + 2).exp()
    return list(drawn(3, rows, count, width, seed=seed) * spreads + places)


def tokens(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how) -> Tokens:
    mask = how.pop("mask", None)
    kept = None if mask is None else token_mask(mask)
    return Tokens(k, v, moments(q, mask), moments(k, mask), mask=kept, **how)


def sdpa(heads: int, mask: torch.Tensor | None = None):
    """torch's fused attention."""

    def attention(q, k, v):
        q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    return attention


def explicit(heads: int):
    """Attention by logits and softmax, one head at a time."""

    def attention(q, k, v):
        width = q.shape[-1] // heads
        found = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            logits = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
            found.append(torch.softmax(logits, -1) @ v[..., part])
        return torch.cat(found, -1)

    return attention


# the formulas


def published_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of one head (B, N, d) over tokens: unbiased, epsilon inside the root."""
    mean = x.sum(1, keepdim=True) / x.shape[1]
    return mean, (((x - mean) ** 2).sum(1, keepdim=True) / (x.shape[1] - 1) + EPSILON).sqrt()


def published_adain(x: torch.Tensor, y: torch.Tensor, heads: int) -> torch.Tensor:
    """Section 3.2 for each head: x to the statistics of y."""
    found = []
    for one, other in zip(x.chunk(heads, -1), y.chunk(heads, -1), strict=True):
        mean, std = published_statistics(one)
        to_mean, to_std = published_statistics(other)
        found.append(to_std * (one - mean) / std + to_mean)
    return torch.cat(found, -1)


def published(q, k, v, reference, heads, *, shift=0.0, scale=1.0, queries=True, keys=True) -> torch.Tensor:
    """Equation 2 with a shift and a factor on the logits of the reference; ``reference`` is its (q, k, v)."""
    rq, rk, rv = (each.expand(len(q), -1, -1) for each in reference)
    q = published_adain(q, rq, heads) if queries else q
    k = published_adain(k, rk, heads) if keys else k
    width = q.shape[-1] // heads
    found = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        own = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
        other = scale * (q[..., part] @ rk[..., part].transpose(1, 2)) / math.sqrt(width) + shift
        mass = torch.cat([own, other], -1).exp()
        mass = mass / mass.sum(-1, keepdim=True)
        found.append(mass @ torch.cat([v, rv], 1)[..., part])
    return torch.cat(found, -1)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one.double() - other.double()).abs().max().item()


# shared attention


@pytest.mark.parametrize("heads", [1, 3, 4])
@pytest.mark.parametrize("count", [1, 5, 9])
@pytest.mark.parametrize(("queries", "keys"), [(True, True), (True, False), (False, True), (False, False)])
def test_one_reference_is_the_published_operator(heads, count, queries, keys):
    """With references of fewer, as many and more tokens than the picture."""
    picture = projected(3, 5, 12)
    reference = projected(1, 2 + count, 12, seed=10)
    how = {"adain_query": float(queries), "adain_key": float(keys)}
    found = shared_attention(*picture, [tokens(*reference)], heads, sdpa(heads), **how)
    assert difference(found, published(*picture, reference, heads, queries=queries, keys=keys)) < 5 * SINGLE


@pytest.mark.parametrize("weight", [0.3, 0.5, 1.7, 2.0, 20.0])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.25])
def test_weight_and_scale_are_the_published_shift_and_factor(weight, scale):
    picture, reference = projected(2, 6, 16), projected(1, 7, 16, seed=10)
    found = shared_attention(*picture, [tokens(*reference, weight=weight, scale=scale)], 2, sdpa(2))
    expected = published(*picture, reference, 2, shift=math.log(weight), scale=scale)
    assert difference(found, expected) < 10 * SINGLE


@pytest.mark.parametrize("weight", [0.3, 1.7, 5.0])
def test_weight_is_an_additive_mask_of_its_logarithm(weight):
    """Without AdaIN, so that nothing is rounded but the logarithm."""
    q, k, v = projected(2, 6, 16)
    _, rk, rv = projected(1, 7, 16, seed=10)
    reference = tokens(rk, rk, rv, weight=weight)
    found = shared_attention(q, k, v, [reference], 2, sdpa(2), adain_query=0, adain_key=0)
    mask = torch.cat([torch.zeros(6), torch.full((7,), math.log(weight))]).double().expand(6, -1)
    every = (torch.cat([k, rk.expand(2, -1, -1)], 1), torch.cat([v, rv.expand(2, -1, -1)], 1))
    assert difference(found, sdpa(2, mask)(q, *every)) < SINGLE


@pytest.mark.parametrize("copies", [1, 2, 3, 5])
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_weight_counts_as_copies(copies, strength):
    picture, reference, second = (
        projected(2, 6, 12),
        projected(1, 7, 12, seed=10),
        tokens(*projected(1, 4, 12, seed=20)),
    )
    how = {"adain_query": strength, "adain_key": strength}
    weighted = shared_attention(*picture, [tokens(*reference, weight=float(copies)), second], 3, sdpa(3), **how)
    repeated = shared_attention(*picture, [*[tokens(*reference)] * copies, second], 3, sdpa(3), **how)
    assert difference(weighted, repeated) < 5 * SINGLE


def test_expected_mass_on_the_reference_is_m_of_one_plus_m():
    """All logits alike: values 0 and 1 show the mass."""
    zeros, ones = torch.zeros(1, 6, 8, dtype=torch.float64), torch.ones(1, 6, 8, dtype=torch.float64)
    for weight in (0.5, 1.0, 2.0, 7.0):
        found = shared_attention(zeros, zeros, zeros, [tokens(zeros, zeros, ones, weight=weight)], 2, sdpa(2))
        assert difference(found, torch.full_like(found, weight / (1 + weight))) < SINGLE


@pytest.mark.parametrize("scaled", [0, 1])
def test_scale_acts_on_the_keys_of_its_reference_alone(scaled):
    q, k, v = projected(2, 6, 16)
    parts = [projected(1, 7, 16, seed=10), projected(1, 3, 16, seed=20)]
    scales = [0.4 if index == scaled else 1.0 for index in range(2)]
    references = [tokens(*part, scale=scale) for part, scale in zip(parts, scales, strict=True)]
    found = shared_attention(q, k, v, references, 2, sdpa(2), adain_query=0, adain_key=0)
    keys = [k, *(scale * part[1].expand(2, -1, -1) for part, scale in zip(parts, scales, strict=True))]
    values = [v, *(part[2].expand(2, -1, -1) for part in parts)]
    assert difference(found, explicit(2)(q, torch.cat(keys, 1), torch.cat(values, 1))) < SINGLE


@pytest.mark.parametrize("swap", [False, True])
def test_several_references_are_a_mixture_of_their_populations(swap):
    """Raw second moments are mixed here, where the operator mixes centred ones."""
    q, k, v = projected(2, 6, 12)
    parts, weights = [projected(1, 7, 12, seed=10), projected(1, 4, 12, seed=20)], [0.7, 2.5]

    def mixed(which: int):
        statistics = [published_statistics(part[which]) for part in parts]
        mean = sum(w * m for (m, _), w in zip(statistics, weights, strict=True)) / sum(weights)
        raw = sum(w * (s**2 + m**2) for (m, s), w in zip(statistics, weights, strict=True)) / sum(weights)
        return mean, (raw - mean**2).sqrt()

    def moved(x, which):
        mean, std = published_statistics(x)
        to_mean, to_std = mixed(which)
        return (x - mean) / std * to_std + to_mean

    keys, values, logs = ([], [], []) if swap else ([moved(k, 1)], [v], [torch.zeros(6)])
    for part, weight in zip(parts, weights, strict=True):
        keys.append(part[1].expand(2, -1, -1))
        values.append(part[2].expand(2, -1, -1))
        logs.append(torch.full((part[1].shape[1],), math.log(weight)))
    mask = torch.cat(logs).double().expand(6, -1)
    expected = sdpa(3, mask)(moved(q, 0), torch.cat(keys, 1), torch.cat(values, 1))
    references = [tokens(*part, weight=weight) for part, weight in zip(parts, weights, strict=True)]
    assert difference(shared_attention(q, k, v, references, 3, sdpa(3), swap=swap), expected) < 10 * SINGLE


def test_binary_mask_drops_tokens():
    picture, reference = projected(2, 6, 12), projected(1, 7, 12, seed=10)
    kept = [part[:, BINARY > 0] for part in reference]
    masked = shared_attention(*picture, [tokens(*reference, mask=BINARY, weight=2.0)], 3, sdpa(3))
    dropped = shared_attention(*picture, [tokens(*kept, weight=2.0)], 3, sdpa(3))
    assert difference(masked, dropped) < 5 * SINGLE


@pytest.mark.parametrize(("mask", "more"), [(BINARY, 0), (MASK, PAD)])
def test_tokens_without_mass_do_not_reach_the_backend(mask, more):
    """No infinity either, and a mask of ones and zeros costs no wider heads."""
    seen = []

    def watched(q, k, v):
        seen.append((k, v))
        return sdpa(3)(q, k, v)

    shared_attention(*projected(2, 6, 12), [tokens(*projected(1, 7, 12, seed=10), mask=mask)], 3, watched)
    for part in seen[0]:
        assert part.shape == (2, 6 + int((mask > 0).sum()), 12 + 3 * more)
        assert part.isfinite().all()


@pytest.mark.parametrize("weight", [1.0, 1.7])
def test_soft_mask_is_a_factor_on_each_tokens_mass(weight):
    """Against softmax with the factors in numerator and denominator."""
    q, k, v = projected(2, 6, 8)
    _, rk, rv = projected(1, 7, 8, seed=10)
    found = shared_attention(
        q, k, v, [tokens(rk, rk, rv, mask=MASK, weight=weight)], 1, sdpa(1), adain_query=0, adain_key=0
    )
    every = torch.cat([k, rk.expand(2, -1, -1)], 1)
    mass = (q @ every.transpose(1, 2) / math.sqrt(8)).exp() * torch.cat([torch.ones(6), weight * MASK])
    expected = mass @ torch.cat([v, rv.expand(2, -1, -1)], 1) / mass.sum(-1, keepdim=True)
    assert difference(found, expected) < SINGLE


def test_full_mask_is_no_mask():
    picture, reference = projected(2, 6, 12), projected(1, 7, 12, seed=10)
    masked = shared_attention(*picture, [tokens(*reference, mask=torch.ones(7))], 3, sdpa(3))
    assert difference(masked, shared_attention(*picture, [tokens(*reference)], 3, sdpa(3))) < SINGLE


def test_swap_leaves_the_pictures_own_keys_and_values_out():
    q, k, v = projected(2, 6, 12)
    reference = projected(1, 7, 12, seed=10)
    found = shared_attention(q, k, v, [tokens(*reference, weight=3.0)], 3, sdpa(3), swap=True)
    rq, rk, rv = (part.expand(2, -1, -1) for part in reference)
    assert difference(found, explicit(3)(published_adain(q, rq, 3), rk, rv)) < 5 * SINGLE
    assert torch.equal(found, shared_attention(q, 9 * k, v - 4, [tokens(*reference)], 3, sdpa(3), swap=True))


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.0, 9.0])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_picture_that_is_its_own_reference_stays(weight, strength):
    q, k, v = projected(1, 6, 12)
    reference = tokens(q, k, v, weight=weight)
    found = shared_attention(q, k, v, [reference], 3, sdpa(3), adain_query=strength, adain_key=strength)
    assert difference(found, explicit(3)(q, k, v)) < SINGLE


def test_scale_is_what_breaks_the_fixed_point():
    q, k, v = projected(1, 6, 12)
    found = shared_attention(q, k, v, [tokens(q, k, v, scale=0.5)], 3, sdpa(3))
    assert difference(found, explicit(3)(q, k, v)) > 0.01


def test_vanishing_weight_ends_at_the_pictures_own_attention():
    q, k, v = projected(2, 6, 12)
    reference = tokens(*projected(1, 7, 12, seed=10), weight=1e-9)
    found = shared_attention(q, k, v, [reference], 3, sdpa(3), adain_query=0, adain_key=0)
    assert difference(found, explicit(3)(q, k, v)) < 1e-5


def test_strengths_act_on_queries_and_keys_apart():
    q, k, v = projected(2, 6, 12)
    reference = projected(1, 7, 12, seed=10)
    rq, rk, rv = (part.expand(2, -1, -1) for part in reference)
    half_q = (q + published_adain(q, rq, 3)) / 2
    quarter_k = 0.75 * k + 0.25 * published_adain(k, rk, 3)
    found = shared_attention(q, k, v, [tokens(*reference)], 3, sdpa(3), adain_query=0.5, adain_key=0.25)
    expected = explicit(3)(half_q, torch.cat([quarter_k, rk], 1), torch.cat([v, rv], 1))
    assert difference(found, expected) < 5 * SINGLE


def test_given_moments_stand_for_those_of_the_rows():
    """Tiles of a picture are normalised as the picture is."""
    q, k, v = projected(1, 8, 12)
    reference = projected(1, 7, 12, seed=10)
    whole = published_adain(q, reference[0], 3), published_adain(k, reference[1], 3)
    tile = slice(2, 5)
    own = tuple(Moments(*(part for part in moments(x))) for x in (q, k))
    found = shared_attention(q[:, tile], k[:, tile], v[:, tile], [tokens(*reference)], 3, sdpa(3), own=own)
    keys, values = torch.cat([whole[1][:, tile], reference[1]], 1), torch.cat([v[:, tile], reference[2]], 1)
    assert difference(found, explicit(3)(whole[0][:, tile], keys, values)) < 5 * SINGLE


def test_references_with_a_row_per_picture_stay_with_their_rows():
    q, k, v = projected(3, 6, 12)
    reference = projected(3, 7, 12, seed=10)
    found = shared_attention(q, k, v, [tokens(*reference, weight=2.0)], 3, sdpa(3))
    for row in range(3):
        at = slice(row, row + 1)
        alone = tokens(*(part[at] for part in reference), weight=2.0)
        assert difference(found[at], shared_attention(q[at], k[at], v[at], [alone], 3, sdpa(3))) < SINGLE


def test_heads_do_not_see_each_other():
    picture, reference = projected(2, 6, 12), projected(1, 7, 12, seed=10)
    found = shared_attention(*picture, [tokens(*reference, weight=1.5)], 3, sdpa(3))
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        one = [x[..., part].contiguous() for x in picture]
        alone = tokens(*(x[..., part].contiguous() for x in reference), weight=1.5)
        assert difference(found[..., part], shared_attention(*one, [alone], 1, sdpa(1))) < 5 * SINGLE


@pytest.mark.parametrize("weight", [1.0, 1.7])
@pytest.mark.parametrize("swap", [False, True])
def test_any_backend_serves(weight, swap):
    picture, references = (
        projected(2, 6, 12),
        [tokens(*projected(1, 7, 12, seed=10), weight=weight, mask=MASK)],
    )
    found = [shared_attention(*picture, references, 3, backend(3), swap=swap) for backend in (sdpa, explicit)]
    assert difference(*found) < 1e-12


@pytest.mark.parametrize(("weight", "more"), [(1.0, 0), (1.7, PAD)])
def test_backend_gets_plain_tensors_and_no_mask(weight, more):
    """Equal weights cost nothing; others widen each head by a multiple of eight."""
    seen = []

    def watched(q, k, v):
        seen.append((tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return sdpa(3)(q, k, v)

    picture, reference = projected(2, 6, 24), projected(1, 7, 24, seed=10)
    shared_attention(*picture, [tokens(*reference, weight=weight)], 3, watched)
    assert seen == [((2, 6, 24 + 3 * more), (2, 13, 24 + 3 * more), (2, 13, 24 + 3 * more))]
    assert PAD % 8 == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("weight", [1.0, 2.0, 0.3])
def test_low_precision_errs_as_torchs_own_masked_attention(dtype, weight):
    """Twice at most what fused attention with an explicit mask errs on operands normalised in float64."""
    q, k, v = (part.to(dtype) for part in projected(4, 64, 64, seed=3))
    reference = [part.to(dtype) for part in projected(1, 64, 64, seed=13)]
    exact = [part.double() for part in (q, k, v)], [part.double() for part in reference]
    expected = published(*exact[0], exact[1], 4, shift=math.log(weight))
    found = shared_attention(q, k, v, [tokens(*reference, weight=weight)], 4, sdpa(4))
    assert found.dtype == dtype
    rq, rk, rv = (part.expand(4, -1, -1) for part in exact[1])
    normal = published_adain(exact[0][0], rq, 4), published_adain(exact[0][1], rk, 4)
    mask = torch.cat([torch.zeros(64), torch.full((64,), math.log(weight))]).to(dtype).expand(64, -1)
    every = torch.cat([normal[1], rk], 1), torch.cat([exact[0][2], rv], 1)
    stock = sdpa(4, mask)(*(part.to(dtype) for part in (normal[0], *every)))
    assert difference(found, expected) <= 2 * difference(stock, expected)


@pytest.mark.parametrize("weight", [1.0, 1.7])
def test_gradients_are_those_of_the_formula(weight):
    def gradients(run) -> list[torch.Tensor]:
        picture = [part.clone().requires_grad_() for part in projected(2, 6, 12)]
        reference = [part.clone().requires_grad_() for part in projected(1, 7, 12, seed=10)]
        (run(picture, reference) * drawn(2, 6, 12, seed=30)).sum().backward()
        return [part.grad for part in (*picture, *reference)]

    ours = gradients(lambda picture, r: shared_attention(*picture, [tokens(*r, weight=weight)], 3, sdpa(3)))
    theirs = gradients(lambda picture, r: published(*picture, r, 3, shift=math.log(weight)))
    for one, other in zip(ours, theirs, strict=True):
        assert difference(one, other) < 1e-4 * other.abs().max()


def test_inputs_are_left_alone():
    picture, reference = projected(2, 6, 12), projected(1, 7, 12, seed=10)
    given = tokens(*reference, weight=1.7, scale=0.5, mask=MASK)
    before = [part.clone() for part in (*picture, given.key, given.value, *given.query_moments, *given.key_moments)]
    shared_attention(*picture, [given], 3, sdpa(3))
    after = [*picture, given.key, given.value, *given.query_moments, *given.key_moments]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_full_sharing_is_attention_of_one_sequence(rows):
    q, k, v = projected(rows, 6, 12)
    flat = [part.reshape(1, rows * 6, 12) for part in (q, k, v)]
    assert difference(full_sharing(q, k, v, sdpa(3)), explicit(3)(*flat).reshape(rows, 6, 12)) < 1e-12
