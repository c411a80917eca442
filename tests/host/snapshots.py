"""What is frozen about the pack: the schemas of its nodes, which saved workflows of users depend on.

``.host/env/environment/bin/python tests/host/renew.py`` writes them anew; look at the difference before committing it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .comfy_base import WORKFLOWS
from .comfy_client import ComfyClient

SCHEMAS = Path(__file__).resolve().with_name("object_info.json")
PACK_MODULE = "custom_nodes.stylization"
FILES = "<files>"
"""Stands for the options of an input that lists files of this machine."""

_KEPT = (
    "input",
    "input_order",
    "output",
    "output_is_list",
    "output_name",
    "output_tooltips",
    "name",
    "display_name",
    "description",
    "category",
    "output_node",
)
_FILE_LISTS = {
    ("StylizeStyleLoRA", "lora_name"),
    ("StylizeTrainHolisticInjector", "resume"),
    ("StylizeLoadHolisticInjector", "injector_name"),
    ("StylizeTrainClassAdaptive", "resume"),
    ("StylizeLoadClassAdaptive", "adapter_name"),
}


def workflows() -> list[Path]:
    """The graphs that users drag in, as the frontend saves them."""
    return sorted(path for path in WORKFLOWS.glob("*.json") if path.name != "index.json")


def pack_schemas(client: ComfyClient) -> dict[str, Any]:
    """``/object_info`` of the pack's nodes without what differs from machine to machine or core to core."""
    found = client.object_info()
    return {name: _frozen(name, found[name]) for name in sorted(found) if found[name]["python_module"] == PACK_MODULE}


def _frozen(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    kept = {key: schema[key] for key in _KEPT if key in schema}
    kept["input"] = {
        kind: {key: _frozen_input(name, key, stated) for key, stated in inputs.items()}
        for kind, inputs in kept["input"].items()
    }
    return kept


def _frozen_input(name: str, key: str, stated: list) -> list:
    kind, settings = stated[0], dict(stated[1]) if len(stated) > 1 else {}
    if (name, key) in _FILE_LISTS:
        kind = FILES if isinstance(kind, list) else kind
        settings = {**settings, "options": FILES} if "options" in settings else settings
        # some cores state the first file as the default
        settings.pop("default", None)
    return [kind, {option: value for option, value in settings.items() if value is not None}]


def written(value: Any) -> str:
    """JSON as these files hold it."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
