"""StylizeTrainClassAdaptive, StylizeLoadClassAdaptive: class-adaptive attention with weights of its own."""

from __future__ import annotations

from comfy_api.latest import io

from ...stylization_core.class_adapter import ClassAdapter
from ...stylization_core.hosts.comfyui.model import ALL, chosen_layers
from ...stylization_core.hosts.comfyui.training import (
    ClassObjective,
    Plan,
    Training,
    loaded_networks,
    networks_to_train,
)
from ..files import changed, found, listed, register
from ..inputs import check_unet
from .common import CATEGORY, earlier_file, training_changed, training_inputs

ADAPTER = io.Custom("STYLIZE_CLASS_ADAPTER")
FOLDER = "style_class_adapters"

MAKER = "Stylize Train Class-Adaptive Attention"

register(FOLDER)


class StylizeTrainClassAdaptive(io.ComfyNode):
    """A folder of pictures -> a trained adapter and its file."""

    DISPLAY_NAME = MAKER

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeTrainClassAdaptive",
            display_name=cls.DISPLAY_NAME,
            category=CATEGORY,
            description=(
                "Learns from a folder of pictures how regions should look at the tokens of their references: each "
                "part of a picture is denoised from a few tokens of the same part elsewhere in it. The model stays as "
                "it is; the result is a small file for Stylize Class-Adaptive Attention."
            ),
            is_output_node=True,
            inputs=[
                *training_inputs(FOLDER, ALL, 3000, "adapter"),
                io.Int.Input(
                    "tokens",
                    default=16,
                    min=2,
                    max=256,
                    tooltip="That stand for each part. Take the same number in Stylize Class-Adaptive Attention.",
                ),
            ],
            outputs=[ADAPTER.Output(display_name="ADAPTER", tooltip="To Stylize Class-Adaptive Attention.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        positive,
        folder,
        steps,
        learning_rate,
        batch_size,
        resolution,
        layers,
        custom_layers,
        seed,
        resume,
        filename_prefix,
        tokens,
    ) -> io.NodeOutput:
        training = Training(
            node=cls.DISPLAY_NAME,
            model=model,
            vae=vae,
            positive=positive,
            folder=folder,
            plan=Plan(steps=steps, learning_rate=learning_rate, seed=seed),
            resolution=resolution,
            prefix=filename_prefix,
        )
        check_unet(model)
        chosen = chosen_layers(model.model.diffusion_model, layers, custom_layers)
        begun = networks_to_train(ClassAdapter, model, chosen, seed, earlier_file(FOLDER, resume), MAKER)
        return io.NodeOutput(
            training.run(*begun, lambda networks, *pictures: ClassObjective(networks, *pictures, batch_size, tokens))
        )

    @classmethod
    def fingerprint_inputs(cls, folder, resume, **others):
        """Other pictures, or a file saved anew, are trained on again."""
        return training_changed(folder, FOLDER, resume)


class StylizeLoadClassAdaptive(io.ComfyNode):
    """A file -> STYLIZE_CLASS_ADAPTER."""

    DISPLAY_NAME = "Stylize Load Class-Adaptive Attention"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeLoadClassAdaptive",
            display_name=cls.DISPLAY_NAME,
            category=CATEGORY,
            description=f"What {MAKER} has written, for models of the family it was trained with.",
            inputs=[
                io.Combo.Input(
                    "adapter_name", options=listed(FOLDER), tooltip=f"From models/{FOLDER} or output/{FOLDER}."
                )
            ],
            outputs=[ADAPTER.Output(display_name="ADAPTER", tooltip="To Stylize Class-Adaptive Attention.")],
        )

    @classmethod
    def execute(cls, adapter_name) -> io.NodeOutput:
        return io.NodeOutput(loaded_networks(ClassAdapter, found(FOLDER, adapter_name, "adapter_name"), MAKER))

    @classmethod
    def fingerprint_inputs(cls, adapter_name):
        """A file saved anew under its name is read again."""
        return changed(FOLDER, adapter_name)
