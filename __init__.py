"""Stylization: style with the content kept and measured, for the model that is already loaded."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The extension, imported when ComfyUI asks for it."""
    from .nodes import StylizationExtension

    return StylizationExtension()
