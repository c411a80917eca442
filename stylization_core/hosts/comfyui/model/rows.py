"""Which rows of a model call belong to which prediction, also where a node on the model lays them out anew.

ComfyUI puts one chunk of rows after the other, a row per picture, and names the chunks by their index in the list of
conditionings (``cond_or_uncond``). Many packs take 0 for "positive" and 1 for "negative" and index a pair with it; a
third prediction would crash them. So extra predictions carry a :class:`Branch` under private keys, and everyone else
sees only the polarities 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

import comfy.conds
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....errors import StylizationError
from .cfg_functions import OWN_PREFIX, name_of

BRANCHES = "stylization.branch"
"""Key of the list of branches, in the order of the conditionings of the question."""

CHUNKS = "stylization.chunks"
"""Key of the branches of the present model call, one per chunk of the batch."""

BATCH = "stylization.batch"
"""Key of the number of pictures that a question to the model is about: rows of a chunk in ComfyUI's own calls."""

PROMPTS = "stylization.prompts"
"""Key of the uuids of the conditioning entries of a question, by the uuid that a model call has for them."""

LABELS = "stylization_labels"
"""Key of a tensor (rows,) among the arguments of a model call, which tells each row's entry in :data:`LABELLED` and
its picture: number of the entry times pictures, plus number of the picture.

A node that takes the batch apart, repeats it or sorts it does the same to this as to the prompts.
"""

LABELLED = "stylization.labelled"
"""Key of (pictures, uuids of the conditioning entries of a question in the order of their labels, their requests)."""

ASKED = "stylization.asked"
"""Key of the prompts (rows, tokens, width) of a model call as ComfyUI put them together."""

ROWS = "stylization.rows"
"""Key of our wrapper around the network that looks at the layout of rows."""


@dataclass(frozen=True)
class Branch:
    """A named prediction. ``polarity`` is what other patches take it for: 0 positive, 1 negative."""

    name: str
    polarity: int


def chunk_rows(chunks: int, rows: int, batch: int | None = None) -> list[list[slice]]:
    """Rows of a model call that belong to each of its chunks, as row ranges.

    ComfyUI puts a chunk of ``batch`` rows after the other. Tiled diffusion puts several tiles into one call, each with
    all chunks, tile after tile; then a chunk has one range per tile.

    Args:
        chunks: predictions of the call.
        rows: of its batch.
        batch: pictures of the question, see :data:`BATCH`; None takes the call for one tile.

    Raises:
        StylizationError: the rows are no whole number of tiles (a node on the model splits or repacks the batch).
    """
    size = batch or rows // chunks
    tiles, rest = divmod(rows, chunks * size) if size else (0, rows)
    if rest or not tiles:
        pictures = "" if batch is None else f" of {batch} pictures"
        raise repacked(f"a model call has {rows} rows for {chunks} predictions{pictures}")
    firsts = range(0, rows, chunks * size)
    return [[slice(first + i * size, first + (i + 1) * size) for first in firsts] for i in range(chunks)]


def rows_of(name: str, chunks: Sequence[Branch], rows: int, batch: int | None = None) -> list[slice]:
    """Row ranges of the branch ``name`` in rising order, adjacent ranges joined; arguments as of :func:`chunk_rows`."""
    ranges = chunk_rows(len(chunks), rows, batch)
    parts = [part for branch, own in zip(chunks, ranges, strict=True) if branch.name == name for part in own]
    joined: list[slice] = []
    for part in sorted(parts, key=lambda part: part.start):
        if joined and joined[-1].stop == part.start:
            joined[-1] = slice(joined[-1].start, part.stop)
        else:
            joined.append(part)
    return joined


def repacked(found: str, suspects: Sequence[str] = ()) -> StylizationError:
    """The refusal of a call whose rows nobody can name."""
    named = f" ({', '.join(suspects)})" if suspects else ""
    return StylizationError(
        "model",
        f"{found}: a node on it{named} splits or repacks the batch in an order that cannot be known",
        "Remove that node, or put it on another MODEL",
    )


def with_batch(options: dict, batch: int) -> dict:
    """Copy of model options for a question about so many pictures.

    Its model calls say so (:data:`BATCH`), and one whose rows are in an order that :func:`chunk_rows` does not expect
    is refused. With :func:`with_labels` more orders are known.
    """
    options = with_wrapper(options, WrappersMP.APPLY_MODEL, ROWS, row_keeper(options), alone=True)
    options["transformer_options"][BATCH] = batch
    options["model_function_wrapper"] = FirstAsked(options)
    return options


def with_labels(conds: Sequence[list | None], options: dict, x: Tensor) -> tuple[list, dict]:
    """Copies of processed conditionings whose rows can be told from each other, and of model options that know them.

    Args:
        conds: of the question, as ``comfy.samplers.calc_cond_batch`` gets them.
        options: see :func:`with_batch`.
        x: (B, C, H, W), what is asked about.
    """
    options, batch = with_batch(options, len(x)), len(x)
    first = torch.arange(batch, device=x.device, dtype=torch.float32)
    uuids, requests, labelled = [], [], []
    for request, entries in enumerate(conds):
        copies = None if entries is None else []
        for entry in entries or ():
            label = comfy.conds.CONDRegular(first + len(uuids) * batch)
            copies.append({**entry, "model_conds": {**entry.get("model_conds", {}), LABELS: label}})
            uuids.append(entry.get("uuid"))
            requests.append(request)
        labelled.append(copies)
    options["transformer_options"][LABELLED] = (batch, tuple(uuids), tuple(requests))
    return labelled, options


def show_polarities(transformer_options: dict) -> None:
    """Let other patches see polarities in the options of one model call, in place; nothing to do a second time."""
    branches = transformer_options.get(BRANCHES)
    if branches is not None and CHUNKS not in transformer_options:
        chunks = [branches[index] for index in transformer_options["cond_or_uncond"]]
        transformer_options[CHUNKS] = chunks
        transformer_options["cond_or_uncond"] = [branch.polarity for branch in chunks]


def with_polarities(transformer_options: dict) -> dict:
    """Copy of the options of one model call as of :func:`show_polarities`; the options themselves if already done."""
    if BRANCHES not in transformer_options or CHUNKS in transformer_options:
        return transformer_options
    shown = dict(transformer_options)
    show_polarities(shown)
    return shown


def uuid_for(branch: Branch, uuid: UUID) -> UUID:
    """What stands for the uuid of a conditioning entry in the predictions of a branch, the same at each step."""
    return uuid5(uuid, branch.name)


def of_prompt(table: dict[UUID, object], transformer_options: dict, chunk: int):
    """What a table by the uuids of conditioning entries has for the entry that a chunk of a model call is about.

    The table can be older than the question, so that it knows the entry by its own uuid, whatever branch asks; None
    where it knows neither.
    """
    uuid = transformer_options["uuids"][chunk]
    return table[uuid] if uuid in table else table.get(transformer_options.get(PROMPTS, {}).get(uuid))


def row_keeper(model_options: dict) -> Callable:
    """APPLY_MODEL wrapper, to be the innermost: the options say which rows are whose, as the network will see them.

    Rows as ComfyUI lays them out pass without a look at the labels, for which the device would have to be waited for.

    Args:
        model_options: of the question; what other nodes put around the model call is named where it has to be refused.
    """
    suspects = _around_the_call(model_options)

    def keep(executor, *args, **kwargs):
        labels = kwargs.pop(LABELS, None)
        options, rows = options_of(args, kwargs), args[0].shape[0]
        chunks, batch = options.get(CHUNKS), options[BATCH]
        count = len(options["cond_or_uncond"]) if chunks is None else len(chunks)
        as_asked = chunks is None or options["cond_or_uncond"] == [branch.polarity for branch in chunks]
        if as_asked and rows == count * batch:
            return executor(*args, **kwargs)
        settled = None
        if labels is not None and len(labels) == rows and LABELLED in options:
            settled = _by_label(options, labels.tolist())
        elif as_asked and _tile_after_tile(count, rows, options.get(ASKED), _prompts(args, kwargs)):
            settled = options
        if settled is None:
            raise repacked(f"a model call has {rows} rows for {count} predictions of {batch} pictures", suspects)
        args, kwargs = replace_options(args, kwargs, settled)
        return executor(*args, **kwargs)

    return keep


def _by_label(options: dict, labels: list[float]) -> dict | None:
    """Copy of the options of a model call with a chunk for each block of rows of one prediction; None without branches
    where the rows are no tiles.
    """
    known, uuids, requests = options[LABELLED]
    batch = options[BATCH]
    rows = [divmod(round(label), known) for label in labels]
    blocks = [rows[first : first + batch] for first in range(0, len(rows), batch)]
    whole = all([(block[0][0], picture) for picture in range(batch)] == block for block in blocks)
    if CHUNKS not in options:
        period = len(options["cond_or_uncond"])
        return options if whole and len(blocks) % period == 0 and _periodic(blocks, period) else None
    if not whole:
        batch, blocks = 1, [[row] for row in rows]
    entries = [block[0][0] for block in blocks]
    chunks = [options[BRANCHES][requests[entry]] for entry in entries]
    return {**options, CHUNKS: chunks, BATCH: batch, "uuids": [uuids[entry] for entry in entries]}


def _periodic(values: Sequence, period: int) -> bool:
    return all(value == values[index % period] for index, value in enumerate(values))


def _tile_after_tile(chunks: int, rows: int, asked: Tensor | None, seen: Tensor | None) -> bool:
    """Whether the prompts of a call are those that ComfyUI asked with once per tile, and in no other order.

    Args:
        chunks: predictions.
        rows: of the call.
        asked, seen: (rows, tokens, width), the prompts before and after other nodes.
    """
    if asked is None or seen is None or len(seen) != rows or rows % len(asked) or asked.shape[1:] != seen.shape[1:]:
        return False
    tiles = rows // len(asked)
    if not torch.equal(seen, asked.repeat(tiles, 1, 1)):
        return False
    by_chunk = asked.unflatten(0, (chunks, -1)).repeat(1, tiles, 1, 1).flatten(0, 1)
    others = (by_chunk, asked.repeat_interleave(tiles, dim=0))
    return chunks == 1 or not any(torch.equal(seen, other) for other in others)


def _plain_call(apply_model: Callable, call: dict) -> Tensor:
    """What ComfyUI does where there is no ``model_function_wrapper``."""
    return apply_model(call["input"], call["timestep"], **call["c"])


class FirstAsked:
    """Goes around what a MODEL has as ``model_function_wrapper``: ComfyUI asks it before anything around the network,
    the wrappers that hooks of a conditioning bring among them.

    It lets them see polarities, and notes the prompts before somebody lays them out anew.
    """

    def __init__(self, model_options: dict):
        self.node = model_options.get("model_function_wrapper", _plain_call)
        if isinstance(self.node, FirstAsked):
            self.node = self.node.node

    def __call__(self, apply_model: Callable, call: dict) -> Tensor:
        given = call["c"]
        options = {**with_polarities(given["transformer_options"]), ASKED: given.get("c_crossattn")}
        call = {**call, "c": {**given, "transformer_options": options}, "cond_or_uncond": options["cond_or_uncond"]}
        return self.node(apply_model, call)


def _prompts(args: Sequence, kwargs: dict) -> Tensor | None:
    return kwargs["c_crossattn"] if "c_crossattn" in kwargs else args[3] if len(args) > 3 else None


def _around_the_call(model_options: dict) -> list[str]:
    """Names of what other nodes put around the model call."""
    node = FirstAsked(model_options).node
    names = [] if node is _plain_call else [name_of(node)]
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    for key, functions in wrappers.items():
        if not str(key).startswith(OWN_PREFIX):
            names += [name_of(function) for function in functions]
    return names


def options_of(args: Sequence, kwargs: dict) -> dict:
    """``transformer_options`` of an APPLY_MODEL call (x, t, c_concat, c_crossattn, control, transformer_options)."""
    return kwargs["transformer_options"] if "transformer_options" in kwargs else args[5]


def replace_options(args: Sequence, kwargs: dict, options: dict) -> tuple[list, dict]:
    """The call's arguments with other ``transformer_options``."""
    if "transformer_options" in kwargs:
        return list(args), {**kwargs, "transformer_options": options}
    return [*args[:5], options, *args[6:]], kwargs


def with_wrapper(
    options: dict, kind: str, key: str, wrapper: Callable, *, alone: bool = False, outermost: bool = False
) -> dict:
    """Copy of model options with one more wrapper of a kind, innermost.

    Args:
        alone: instead of those that the key holds already, not beside them.
        outermost: around those that are there.
    """
    transformer_options = dict(options.get("transformer_options", {}))
    wrappers = dict(transformer_options.get("wrappers", {}))
    others = dict(wrappers.get(kind, {}))
    held = others.pop(key, []) if alone or outermost else others.get(key, [])
    own = [wrapper] if alone else [wrapper, *held] if outermost else [*held, wrapper]
    # the order in the dictionary is that from the outside in
    wrappers[kind] = {key: own, **others} if outermost else {**others, key: own}
    transformer_options["wrappers"] = wrappers
    return {**options, "transformer_options": transformer_options}
