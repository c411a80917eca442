"""What every node of the pack shows to its user, and what saved workflows rely on."""

from __future__ import annotations

import asyncio

import pytest
from stylization_host import load

INPUTS = {
    "StylizeStyleLoRA": ["model", "lora_name", "strength", "clip_strength", "clip"],
    "StylizeSMS": [
        "model",
        "positive",
        "negative",
        "latent_image",
        "seed",
        "steps",
        "cfg",
        "strength",
        "step_size",
        "spectrum",
        "relevance",
        "relevance_floor",
        "style_model",
        "edit",
        "mask",
        "resume_latent",
        "resume_step",
        "color_hold",
        "fake_blend",
        "fake_score",
        "source",
        "spectrum_form",
        "content_pull",
        "step_scale",
    ],
    "StylizeSMSGuider": [
        "model",
        "positive",
        "negative",
        "cfg",
        "style_model",
        "source",
        "fake_score",
        "fake_blend",
    ],
    "StylizeSMSSigmas": ["model", "steps", "t_max", "t_min", "narrowing", "latent_image"],
    "StylizeSMSSampler": [
        "strength",
        "step_size",
        "levels",
        "content_pull",
        "resume_latent",
        "resume_step",
        "step_scale",
    ],
    "StylizeSMSGuidance": ["model", "strength", "mode", "start_percent", "end_percent", "style_model"],
    "StylizeSpectrumRegularizer": [
        "model",
        "weight",
        "hold",
        "band",
        "form",
        "color_hold",
        "start_percent",
        "end_percent",
        "content",
    ],
    "StylizeRelevanceMap": ["model", "latent_image", "edit", "empty", "seed", "noises", "floor", "clip", "blur"],
    "StylizeSemanticRefiner": [
        "model",
        "floor",
        "map",
        "start_percent",
        "end_percent",
        "mask",
        "edit",
        "empty",
        "content",
    ],
    "StylizeReference": [
        "weight",
        "seed",
        "image",
        "vae",
        "latent",
        "positive",
        "negative",
        "mask",
        "previous",
    ],
    "StylizeInvertReference": [
        "model",
        "latent_image",
        "positive",
        "negative",
        "sigmas",
        "cfg",
        "refinements",
        "weight",
        "mask",
        "previous",
    ],
    "StylizeSharedAttention": [
        "model",
        "reference",
        "weight",
        "score_scale",
        "adain_queries",
        "adain_keys",
        "mode",
        "layers",
        "custom_layers",
        "polarities",
        "share_norms",
        "start_percent",
        "end_percent",
        "mask",
    ],
    "StylizeSharedAttentionBatch": [
        "model",
        "weight",
        "score_scale",
        "adain_queries",
        "adain_keys",
        "mode",
        "layers",
        "custom_layers",
        "polarities",
        "share_norms",
        "start_percent",
        "end_percent",
        "control_first",
    ],
    "StylizeConditioningBatch": ["conditioning", "previous"],
    "StylizeProtectRegion": ["model", "mask", "strength", "band", "start_percent", "end_percent", "content"],
    "StylizeProtectComposite": ["original", "styled", "mask", "feather"],
    "StylizeStyleScore": [
        "model",
        "positive",
        "negative",
        "cfg",
        "images",
        "vae",
        "levels",
        "draws",
        "seed",
        "content",
        "style_model",
    ],
    "StylizeReport": [
        "content",
        "result",
        "chart",
        "theme",
        "sequence",
        "filename_prefix",
        "save",
        "style",
        "mask",
        "clip_vision",
    ],
    "StylizeContentBudget": [
        "sampler",
        "sigmas",
        "noise",
        "latent_image",
        "vae",
        "limits",
        "strongest",
        "grid",
        "bisections",
        "proxy_steps",
        "theme",
        "guider",
        "model",
        "positive",
        "negative",
        "cfg",
        "content",
        "mask",
        "style",
    ],
}
"""Ids in their order: saved workflows hold widget values by place. New inputs go to the end."""

OUTPUTS = {
    "StylizeStyleLoRA": ["MODEL", "CLIP"],
    "StylizeSMS": ["LATENT"],
    "StylizeSMSGuider": ["GUIDER"],
    "StylizeSMSSigmas": ["SIGMAS"],
    "StylizeSMSSampler": ["SAMPLER"],
    "StylizeSMSGuidance": ["MODEL"],
    "StylizeSpectrumRegularizer": ["MODEL"],
    "StylizeRelevanceMap": ["MASK"],
    "StylizeSemanticRefiner": ["MODEL"],
    "StylizeReference": ["REFERENCE"],
    "StylizeInvertReference": ["REFERENCE"],
    "StylizeSharedAttention": ["MODEL"],
    "StylizeSharedAttentionBatch": ["MODEL"],
    "StylizeConditioningBatch": ["CONDITIONING"],
    "StylizeProtectRegion": ["MODEL"],
    "StylizeProtectComposite": ["IMAGE", "SEAM", "TEXT"],
    "StylizeStyleScore": ["SCORE", "TEXT"],
    "StylizeReport": ["SCORES", "TEXT", "CHART", "OVERLAY", "BEFORE_AFTER"],
    "StylizeContentBudget": ["LATENT", "IMAGE", "CURVE", "STRENGTH", "TEXT"],
}

OPTIONS = {
    "StylizeSMS.relevance": ["precomputed", "off", "live"],
    "StylizeSMS.fake_score": ["frozen", "trained"],
    "StylizeSMS.spectrum_form": ["gradient", "proximal"],
    "StylizeSMSGuider.fake_score": ["frozen", "trained"],
    "StylizeSMSSigmas.narrowing": ["linear", "none"],
    "StylizeSMSSampler.levels": ["drawn", "as given"],
    "StylizeSMSGuidance.mode": ["edit", "add"],
    "StylizeSpectrumRegularizer.form": ["gradient", "proximal"],
    "StylizeSemanticRefiner.map": ["precomputed", "live"],
    "StylizeSharedAttention.mode": ["share", "swap"],
    "StylizeSharedAttention.layers": ["all", "visual style prompting", "style block", "custom"],
    "StylizeSharedAttention.polarities": ["both", "positive"],
    "StylizeSharedAttentionBatch.mode": ["share", "swap", "full"],
    "StylizeSharedAttentionBatch.layers": ["all", "visual style prompting", "style block", "custom"],
    "StylizeSharedAttentionBatch.polarities": ["both", "positive"],
    "StylizeReport.chart": ["bars", "radar"],
    "StylizeReport.theme": ["dark", "light"],
    "StylizeContentBudget.theme": ["dark", "light"],
}
"""Choices that saved workflows name. An option may be added, none may go."""

PAGES = load.ROOT / "web" / "docs"


@pytest.fixture(scope="module")
def schemas(pack_nodes) -> dict:
    return {schema.node_id: schema for schema in (node.GET_SCHEMA() for node in pack_nodes.NODES)}


def test_extension_gives_comfyui_all_nodes(pack, pack_nodes):
    async def nodes():
        return await (await pack.comfy_entrypoint()).get_node_list()

    assert asyncio.run(nodes()) == pack_nodes.NODES


def test_ids_are_distinct_and_carry_the_packs_name(pack_nodes, schemas):
    assert len(schemas) == len(pack_nodes.NODES)
    assert all(node_id.startswith("Stylize") for node_id in schemas)


def test_nodes_that_were_released_are_still_there(schemas):
    assert set(INPUTS) <= set(schemas)
    assert set(INPUTS) == set(OUTPUTS)


def choices(schema) -> dict[str, list[str]]:
    """Options of the inputs that offer some, but for those that list files."""
    found = {one.id: one.options for one in schema.inputs if getattr(one, "options", None) is not None}
    return {key: options for key, options in found.items() if key != "lora_name"}


def test_options_keep_their_names(schemas):
    found = {f"{node_id}.{key}": kept for node_id, one in schemas.items() for key, kept in choices(one).items()}
    assert set(OPTIONS) <= set(found)
    assert {key: found[key][: len(options)] for key, options in OPTIONS.items()} == OPTIONS


@pytest.mark.parametrize("node_id", INPUTS)
def test_inputs_keep_their_ids_and_places(schemas, node_id):
    found = [one.id for one in schemas[node_id].inputs]
    assert found[: len(INPUTS[node_id])] == INPUTS[node_id]


@pytest.mark.parametrize("node_id", OUTPUTS)
def test_outputs_keep_their_names_and_places(schemas, node_id):
    found = [one.display_name for one in schemas[node_id].outputs]
    assert found[: len(OUTPUTS[node_id])] == OUTPUTS[node_id]


def test_every_input_and_output_has_a_tooltip(schemas):
    bare = [
        f"{node_id}.{one.id or one.display_name}"
        for node_id, schema in schemas.items()
        for one in (*schema.inputs, *schema.outputs)
        if not (one.tooltip or "").strip()
    ]
    assert bare == []


def test_every_node_says_what_it_does_and_where_it_belongs(schemas):
    for schema in schemas.values():
        assert schema.description
        assert schema.display_name.startswith("Stylize ")
        assert schema.category.startswith("stylization/")


def test_every_node_has_a_help_page_and_every_page_a_node(schemas):
    assert {path.stem for path in PAGES.glob("*.md")} == set(schemas)


@pytest.mark.parametrize("node_id", INPUTS)
def test_help_page_names_the_node_its_inputs_and_their_options(schemas, node_id):
    text, schema = (PAGES / f"{node_id}.md").read_text(encoding="utf-8"), schemas[node_id]
    assert text.startswith(f"# {schema.display_name}\n")
    assert [one.id for one in schema.inputs if f"`{one.id}`" not in text] == []
    offered = [option for options in choices(schema).values() for option in options]
    assert [option for option in offered if f"*{option}*" not in text] == []


def test_defaults_lie_inside_their_ranges(schemas):
    for schema in schemas.values():
        for one in schema.inputs:
            if getattr(one, "min", None) is not None:
                assert one.min <= one.default <= one.max, f"{schema.node_id}.{one.id}"


def test_parameters_of_execute_are_the_inputs(pack_nodes):
    for node in pack_nodes.NODES:
        schema = node.GET_SCHEMA()
        code = node.execute.__func__.__code__
        assert list(code.co_varnames[1 : code.co_argcount]) == [one.id for one in _by_requirement(schema.inputs)]


def _by_requirement(inputs: list) -> list:
    return sorted(inputs, key=lambda one: bool(one.optional))
