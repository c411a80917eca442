"""Training of class-adaptive attention: parts of a picture are denoised from tokens of the same parts elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ....class_adapter import ClassAdapter, class_logits, color_classes, mask_loss
from ....class_adaptive import ClassTokens, blended, class_attention, class_tokens
from ....shared_attention import token_mask
from ....training_pairs import drawn_pairs, level_weight, spread_shares
from ..model import Attend, Call, Layer, per_token
from .loop import Frozen

CLASSES = 3
"""Parts of a picture."""

ADAPTIVITY = 5.0
"""As the node's default."""

MASKS = 0.01
"""Weight of the loss that leads logits to masks, as in SCA-DM."""

DROPPED, ALL_DROPPED = 0.2, 0.1
"""Share of classes, and of pictures, that go without tokens."""

Seen = Mapping[Layer, list[list[ClassTokens | None]]]
"""Tokens by layer, picture and class."""


class ClassObjective:
    """Pairs of parts of pictures with their classes.

    Args:
        adapter: in training.
        latents: of whole pictures as a VAE gives them, (C, h, w) each.
        cells: side of a part.
        rows: pairs in a batch.
        tokens: of a class.
    """

    purpose = "caca"

    def __init__(self, adapter: ClassAdapter, latents: Sequence[Tensor], cells: int, rows: int, tokens: int):
        self.adapter, self.cells, self.rows, self.tokens = adapter, cells, rows, tokens
        # classes are cut along with the picture
        self.pictures = [torch.cat([one, color_classes(one, CLASSES).to(one)]) for one in latents]
        names = sorted(tuple(name.split(".")) for name in adapter.layers)
        self.layers = [Layer(stage, int(number), int(index)) for stage, number, index in names]

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Of the adapter."""
        return self.adapter.parameters()

    def loss(self, frozen: Frozen, draws: torch.Generator, *, idle: bool = False) -> Callable[[], Tensor]:
        """Denoising loss of targets whose parts look at the same parts of a reference.

        The reference is another part of the picture, mirrored or not. ``idle`` is the attention without training.
        """
        target, reference = drawn_pairs(self.pictures, self.cells, self.rows, draws)
        turned = torch.rand(self.rows, 1, 1, 1, generator=draws) < 0.5
        reference = torch.where(turned, reference.flip(-1), reference)
        (clean, masks), (style, areas) = (
            (frozen.scaled(one[:, :-CLASSES]), one[:, -CLASSES:].to(frozen.device)) for one in (target, reference)
        )
        sigmas = frozen.sigmas(spread_shares(self.rows, draws))
        noises = [torch.randn(clean.shape, generator=draws).to(clean) for _ in range(2)]
        kept = torch.rand(self.rows, CLASSES, generator=draws) >= DROPPED
        kept &= torch.rand(self.rows, 1, generator=draws) >= ALL_DROPPED
        ratios = frozen.ratios(sigmas)
        noised = frozen.noised(clean, noises[0], sigmas)
        seen = self._seen(frozen, frozen.noised(style, noises[1], sigmas), sigmas, areas, kept.tolist())

        def loss() -> Tensor:
            added: list[Tensor] = []

            def look(call: Call, attend: Attend) -> Tensor:
                own = attend(call.q, call.k, call.v)
                token_masks = per_token(masks, call)
                rows = zip(own.split(1), call.q.split(1), token_masks.split(1), seen[call.layer], strict=True)
                return torch.cat([self._row(call, attend, *row, added, idle) for row in rows])

            denoised = frozen.denoised(noised, sigmas, frozenset(self.layers), look).float()
            error = ((denoised - clean) ** 2).mean((1, 2, 3))
            total = (level_weight(ratios) * error).mean()
            if idle or not added or not torch.is_grad_enabled():
                return total
            return total + MASKS * torch.stack(added).mean()

        return loss

    def _row(
        self,
        call: Call,
        attend: Attend,
        own: Tensor,
        q: Tensor,
        masks: Tensor,
        tokens: list[ClassTokens | None],
        added: list[Tensor],
        idle: bool,
    ) -> Tensor:
        """One picture's attention output, (1, N, C); notes the loss of its logits in ``added``."""
        there = [k for k, one in enumerate(tokens) if one is not None]
        if not there:
            return own
        network = self.adapter.layers[str(call.layer)]
        classes = [tokens[k] if idle else network(tokens[k]) for k in there]
        masks = masks[..., there]
        if not idle:
            added.append(mask_loss(class_logits(q, classes, call.heads), masks))
        attended = class_attention(q, classes, masks, call.heads, attend, adaptivity=ADAPTIVITY)
        return blended(own, attended, masks)

    @torch.no_grad()
    def _seen(self, frozen: Frozen, noised: Tensor, sigmas: Tensor, areas: Tensor, kept: list[list[bool]]) -> Seen:
        """What stands for each class of the references in each layer."""
        seen: dict[Layer, list] = {}

        def watch(call: Call, attend: Attend) -> Tensor:
            weights = per_token(areas, call)
            seen[call.layer] = [
                [
                    class_tokens(key, value, token_mask(share[:, k]), self.tokens) if kept[row][k] else None
                    for k in range(CLASSES)
                ]
                for row, (key, value, share) in enumerate(zip(call.k, call.v, weights, strict=True))
            ]
            return attend(call.q, call.k, call.v)

        frozen.denoised(noised, sigmas, frozenset(self.layers), watch)
        return seen
