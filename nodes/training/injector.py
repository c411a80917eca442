"""StylizeTrainHolisticInjector, StylizeLoadHolisticInjector: the injector with weights of its own."""

from __future__ import annotations

from comfy_api.latest import io

from ...stylization_core.hosts.comfyui.model import LATE, chosen_layers
from ...stylization_core.hosts.comfyui.training import (
    InjectorObjective,
    Plan,
    Training,
    loaded_networks,
    networks_to_train,
)
from ...stylization_core.trained_injector import TrainedInjector
from ..files import changed, found, listed, register
from ..inputs import check_unet
from .common import CATEGORY, earlier_file, training_changed, training_inputs

INJECTOR = io.Custom("STYLIZE_INJECTOR")
FOLDER = "style_injectors"

MAKER = "Stylize Train Holistic Injector"

register(FOLDER)


class StylizeTrainHolisticInjector(io.ComfyNode):
    """A folder of pictures -> a trained injector and its file."""

    DISPLAY_NAME = MAKER

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeTrainHolisticInjector",
            display_name=cls.DISPLAY_NAME,
            category=CATEGORY,
            description=(
                "Learns from a folder of pictures which statistics of a reference a picture should take, per channel "
                "and noise level: one part of a picture gives the style in which another part is denoised. The model "
                "stays as it is; the result is a small file for Stylize Holistic Injector."
            ),
            is_output_node=True,
            inputs=training_inputs(FOLDER, LATE, 2000, "injector"),
            outputs=[INJECTOR.Output(display_name="INJECTOR", tooltip="To Stylize Holistic Injector.")],
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
        begun = networks_to_train(TrainedInjector, model, chosen, seed, earlier_file(FOLDER, resume), MAKER)
        return io.NodeOutput(
            training.run(*begun, lambda networks, *pictures: InjectorObjective(networks, *pictures, batch_size))
        )

    @classmethod
    def fingerprint_inputs(cls, folder, resume, **others):
        """Other pictures, or a file saved anew, are trained on again."""
        return training_changed(folder, FOLDER, resume)


class StylizeLoadHolisticInjector(io.ComfyNode):
    """A file -> STYLIZE_INJECTOR."""

    DISPLAY_NAME = "Stylize Load Holistic Injector"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeLoadHolisticInjector",
            display_name=cls.DISPLAY_NAME,
            category=CATEGORY,
            description=f"What {MAKER} has written, for models of the family it was trained with.",
            inputs=[
                io.Combo.Input(
                    "injector_name", options=listed(FOLDER), tooltip=f"From models/{FOLDER} or output/{FOLDER}."
                )
            ],
            outputs=[INJECTOR.Output(display_name="INJECTOR", tooltip="To Stylize Holistic Injector.")],
        )

    @classmethod
    def execute(cls, injector_name) -> io.NodeOutput:
        return io.NodeOutput(loaded_networks(TrainedInjector, found(FOLDER, injector_name, "injector_name"), MAKER))

    @classmethod
    def fingerprint_inputs(cls, injector_name):
        """A file saved anew under its name is read again."""
        return changed(FOLDER, injector_name)
