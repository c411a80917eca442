"""A small diffusion model of stickers: named things by named makers, in named renderings, so that truths are known."""
