"""Files that others made: whatever is wrong with one, it ends in one error that names it, before anything is built."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stylization.stylization_core import trained_files
from stylization.stylization_core.class_adapter import ClassAdapter
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.holistic import Statistics, statistics
from stylization.stylization_core.style_card import StyleCard
from stylization.stylization_core.style_card import load as load_card
from stylization.stylization_core.style_card import save as save_card
from stylization.stylization_core.tensor_files import write_tensors, write_whole
from stylization.stylization_core.trained_injector import TrainedInjector

STATE = "test-state/1"


def card(path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    kept = {
        (half, layer): statistics(torch.randn(3, 50, 4, generator=draws), table=True)
        for half in ("positive", "negative")
        for layer in ("output.1.0", "output.1.1")
    }
    save_card(StyleCard("SDXL", (0.1, 1.0, 10.0), kept, {"references": 1}), path)


def injector(path: Path) -> None:
    TrainedInjector.untrained("SDXL", {"output.1.0": 8}).save(path)


def adapter(path: Path) -> None:
    ClassAdapter.untrained("SDXL", {"output.1.0": 8, "input.4.0": 4}).save(path)


NETWORKS = ClassAdapter.untrained("SDXL", {"output.1.0": 8})


def state(path: Path) -> None:
    tensors = {}
    for name, parameter in NETWORKS.parameters().items():
        moments = {f"{name}.{part}": torch.rand(parameter.shape) for part in ("exp_avg", "exp_avg_sq")}
        tensors |= {f"{name}.step": torch.tensor(3.0), **moments}
    write_tensors(tensors, path, {"format": STATE, "steps": "0"})


KINDS = {
    "card": (card, load_card),
    "injector": (injector, TrainedInjector.load),
    "adapter": (adapter, ClassAdapter.load),
    "state": (state, lambda path: trained_files.read_state(path, STATE, NETWORKS)),
}


def metadata_of(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def damaged(path: Path, draws: random.Random) -> str:
    """Damage a good file in one of many ways; says how."""
    way = draws.choice(["cut", "bytes", "tensor", "drop", "add", "metadata", "metadata"])
    data, tensors, metadata = path.read_bytes(), load_file(path), metadata_of(path)
    key = draws.choice(sorted(tensors))
    tensor = tensors[key]
    if way == "cut":
        path.write_bytes(data[: draws.randrange(len(data))])
        return way
    if way == "bytes":
        place = draws.randrange(min(len(data), 400))
        path.write_bytes(data[:place] + draws.randbytes(4) + data[place + 4 :])
        return way
    if way == "tensor":
        change, tensors[key] = draws.choice(
            [
                ("NaN", tensor * float("nan")),
                ("infinite", torch.full_like(tensor, float("inf"))),
                ("huge", torch.full_like(tensor, 60000.0).float() * 1e30),
                ("negative", -tensor.abs() - 1),
                ("whole", torch.ones(tensor.shape, dtype=torch.int64)),
                ("switch", torch.ones(tensor.shape, dtype=torch.bool)),
                ("complex", torch.ones(tensor.shape, dtype=torch.complex64)),
                ("eight bits", torch.ones(tensor.shape).to(torch.float8_e4m3fn)),
                ("longer", torch.cat([tensor.reshape(-1), tensor.reshape(-1)])),
                ("none", torch.zeros(0)),
                ("empty", torch.zeros(0, 7, 3)),
                ("scalar", torch.tensor(1.0)),
                ("wide", torch.zeros(*tensor.shape, 2)),
            ]
        )
        way = f"{key} {change}"
    elif way == "drop":
        del tensors[key]
        way = f"without {key}"
    elif way == "add":
        extra = draws.choice(["x", "a/b", "positive/output.1.0/other", "a/b/c/d", f"{key}.more", "../up/mean/std"])
        tensors[extra] = torch.zeros(2)
        way = f"with {extra}"
    else:
        field = draws.choice(sorted(metadata))
        bad = ["", "x", "[]", "{", "[" * 5000, "null", "-1", "1e999", "9" * 5000, "NaN", '{"output.1.0": 1e999}']
        bad += ['{"output.1.0": true}', '{"output.1.0": 100000000}', '{"output.1.0": 16384}', '{"../x": 8}', "{}"]
        bad += ["\ud83d".encode("utf-8", "surrogatepass").decode("utf-8", "replace"), "y" * 10_000]
        metadata[field] = draws.choice(bad)
        way = f"{field} = {metadata[field][:30]}"
    save_file(tensors, path, metadata=metadata)
    return way


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_file_ends_in_one_error_or_is_sound(tmp_path, kind, seed):
    write, load = KINDS[kind]
    path = tmp_path / "file.safetensors"
    write(path)
    way = damaged(path, random.Random(f"{kind} {seed}"))
    try:
        found = load(path)
    except StylizationError as error:
        message = str(error)
        assert message.startswith("file.safetensors: ") and message.endswith("."), (way, message)
        assert len(message) < 1500 and "\n" not in message, (way, message)
        return
    for tensor in tensors_in(found):
        assert tensor.isfinite().all(), way


def tensors_in(found) -> list[torch.Tensor]:
    if isinstance(found, StyleCard):
        found.at(0.5, "negative", found.names()[0])
        return [part for one in found.layers.values() for part in one if part is not None]
    if isinstance(found, dict):
        return list(found.values())
    return [] if found is None else list(found.parameters().values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_file_is_read(tmp_path, kind):
    write, load = KINDS[kind]
    write(tmp_path / "file.safetensors")
    assert tensors_in(load(tmp_path / "file.safetensors"))


@pytest.mark.parametrize("kind", [TrainedInjector, ClassAdapter])
@pytest.mark.parametrize("width", [16384, 100_000, 10**9])
def test_a_description_of_a_few_bytes_builds_no_network(tmp_path, monkeypatch, kind, width):
    path = tmp_path / "small.safetensors"
    metadata = {"format": kind.FORMAT, "base": "SDXL", "steps": "1", "layers": json.dumps({"output.1.0": width})}
    save_file({}, path, metadata=metadata)
    assert path.stat().st_size < 250
    built, network = [], kind.network

    def counted(*args):
        found = network(*args)
        built.extend(p for p in found.parameters() if p.device.type != "meta")
        return found

    monkeypatch.setattr(kind, "network", staticmethod(counted))
    with pytest.raises(StylizationError, match="^small.safetensors: "):
        kind.load(path)
    assert built == []


def test_a_card_of_broken_statistics_is_not_written(tmp_path):
    good = statistics(torch.randn(1, 50, 4))
    for value in (float("nan"), 1e6):  # the second has no place in half precision
        broken = Statistics(good.mean * 0 + value, *good[1:])
        kept = {(half, "output.1.0"): broken for half in ("positive", "negative")}
        with pytest.raises(
            StylizationError, match="^reference, mean of output.1.0 under the positive prompt: 4 of its 4"
        ):
            save_card(StyleCard("SDXL", (1.0,), kept), tmp_path / "card.safetensors")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_file_is_there_complete_or_not_at_all(tmp_path, error):
    path = tmp_path / "file.png"
    path.write_bytes(b"before")

    def write(part: Path) -> None:
        part.write_bytes(b"half of")
        raise error

    with pytest.raises(type(error)):
        write_whole(path, write)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
    write_whole(path, lambda part: part.write_bytes(b"after"))
    assert path.read_bytes() == b"after" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_of_the_system_in_every_version(tmp_path):
    with pytest.raises(OSError):
        write_tensors({"x": torch.zeros(1)}, tmp_path / "no folder" / "file.safetensors", {})
