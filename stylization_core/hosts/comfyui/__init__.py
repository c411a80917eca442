"""The only place that knows ComfyUI."""
