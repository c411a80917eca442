"""Networks trained by this pack, at work in a loaded model."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import nn

from ....errors import StylizationError
from ....trained_files import LayerNetworks
from ..model import Layer, family_of, self_attention_layers


def check_trained(
    trained: LayerNetworks, subject: str, patcher, layers: Collection[Layer] | None = None
) -> frozenset[Layer]:
    """Those of ``layers`` (None is all) that networks were trained for.

    Raises:
        StylizationError: they are of another family, of none of the layers, or of another width; ``subject`` is the
            input.
    """
    if trained.family != family_of(patcher):
        found = f"it was trained with {trained.family}, model is {family_of(patcher)}"
        raise StylizationError(subject, found, "Use one that was trained with the same family")
    places = self_attention_layers(patcher.model.diffusion_model)
    common = frozenset(layer for layer in (places if layers is None else layers) if str(layer) in trained.widths)
    if not common:
        found = f"it was trained for none of the layers asked for, only {', '.join(trained.widths)}"
        raise StylizationError(subject, found, "Choose other layers")
    for layer in common:
        width, own = trained.widths[str(layer)], places[layer].width
        if width != own:
            found = f"{layer} has {width} channels in it, {own} in model"
            raise StylizationError(subject, found, "Train one with this model")
    return common


class NetworksByDevice:
    """Networks of layers where they are needed; the given ones are not moved."""

    def __init__(self, trained: LayerNetworks):
        self._trained, self._copies = trained, {}

    def __call__(self, layer: Layer, device: torch.device) -> nn.Module:
        if (layer, device) not in self._copies:
            network = self._trained.layers[str(layer)]
            if next(network.parameters()).device != device:
                network = copy.deepcopy(network).to(device)
            self._copies[layer, device] = network
        return self._copies[layer, device]
