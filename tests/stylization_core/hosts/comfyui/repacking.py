"""Nodes that lay the rows of a model call out anew, as ``model_function_wrapper``; each returns a clone of a MODEL."""

from __future__ import annotations

from collections.abc import Callable

import torch


def _wrapped(patcher, wrapper: Callable):
    clone = patcher.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def _each(conditioning: dict, change: Callable) -> dict:
    """The arguments of a model call with every tensor changed."""
    return {key: change(value) if torch.is_tensor(value) else value for key, value in conditioning.items()}


def tiled(patcher, together: int = 2, only_prompts: bool = False):
    """Two tiles side by side, ``together`` in a call: all rows of the first, then all of the second.

    ``only_prompts`` knows the text conditioning alone and hands everything else on as it is.
    """

    def wrapper(apply_model, call):
        x, rows = call["input"], len(call["input"])
        halves = x.chunk(2, dim=-1)
        results = []
        for first in range(0, 2, together):
            tiles = torch.cat(halves[first : first + together])
            repeated = _each(call["c"], lambda value: value.repeat(together, *[1] * (value.ndim - 1)))
            if only_prompts:
                repeated = {**call["c"], "c_crossattn": repeated["c_crossattn"]}
            answer = apply_model(tiles, call["timestep"].repeat(together), **repeated)
            results += answer.split(rows)
        return torch.cat(results, dim=-1)

    return _wrapped(patcher, wrapper)


def tiles_of_each_row(patcher):
    """Both tiles of the first row, then both of the second, and so on."""

    def wrapper(apply_model, call):
        left, right = call["input"].chunk(2, dim=-1)
        tiles = torch.stack([left, right], dim=1).flatten(0, 1)
        conditioning = _each(call["c"], lambda value: value.repeat_interleave(2, dim=0))
        answer = apply_model(tiles, call["timestep"].repeat_interleave(2), **conditioning)
        return torch.cat([answer[0::2], answer[1::2]], dim=-1)

    return _wrapped(patcher, wrapper)


def row_by_row(patcher):
    """A call for every row."""

    def wrapper(apply_model, call):
        answers = []
        for row in range(len(call["input"])):
            one = slice(row, row + 1)
            conditioning = _each(call["c"], lambda value, one=one: value[one])
            answers.append(apply_model(call["input"][one], call["timestep"][one], **conditioning))
        return torch.cat(answers)

    return _wrapped(patcher, wrapper)


def chunk_by_chunk(patcher):
    """A call for every chunk, which says what it is about."""

    def wrapper(apply_model, call):
        kinds, answers = call["cond_or_uncond"], []
        size = len(call["input"]) // len(kinds)
        for index, kind in enumerate(kinds):
            part = slice(index * size, (index + 1) * size)
            conditioning = _each(call["c"], lambda value, part=part: value[part])
            options = {**call["c"]["transformer_options"], "cond_or_uncond": [kind]}
            conditioning["transformer_options"] = options
            answers.append(apply_model(call["input"][part], call["timestep"][part], **conditioning))
        return torch.cat(answers)

    return _wrapped(patcher, wrapper)


def negatives_last(patcher):
    """Chunks in another order than ComfyUI's, and ``cond_or_uncond`` with them."""

    def wrapper(apply_model, call):
        kinds = call["cond_or_uncond"]
        order = sorted(range(len(kinds)), key=lambda index: kinds[index])
        size = len(call["input"]) // len(kinds)
        rows = torch.cat([torch.arange(index * size, (index + 1) * size) for index in order])
        conditioning = _each(call["c"], lambda value: value[rows])
        options = {**call["c"]["transformer_options"], "cond_or_uncond": [kinds[index] for index in order]}
        conditioning["transformer_options"] = options
        answer = apply_model(call["input"][rows], call["timestep"][rows], **conditioning)
        return answer[torch.argsort(rows)]

    return _wrapped(patcher, wrapper)
