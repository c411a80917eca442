"""The pocket text tower as ComfyUI CLIP classes: a CLIP text model of any depth and width with a word tokenizer."""

import comfy.clip_model
import comfy.sd1_clip

from .words import WordTokenizer

PREFIX = "cond_stage_model.clip_l.transformer.text_model."


def text_config(state_dict):
    """The CLIP text configuration that the checkpoint's own tensors imply."""
    tokens = state_dict[PREFIX + "embeddings.token_embedding.weight"]
    positions = state_dict[PREFIX + "embeddings.position_embedding.weight"]
    layers = 0
    while PREFIX + f"encoder.layers.{layers}.mlp.fc1.weight" in state_dict:
        layers += 1
    width = tokens.shape[1]
    return {
        "vocab_size": tokens.shape[0],
        "hidden_size": width,
        "max_position_embeddings": positions.shape[0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 32),
        "intermediate_size": 4 * width,
        "hidden_act": "quick_gelu",
        "eos_token_id": 2,
        "model_type": "clip_text_model",
    }


class PocketTextModel(comfy.clip_model.CLIPTextModel):
    """ComfyUI's CLIP text model with a token table of the real size (the stock one always has 49408 rows)."""

    def __init__(self, config_dict, dtype, device, operations):
        super().__init__(config_dict, dtype, device, operations)
        self.text_model.embeddings.token_embedding = operations.Embedding(
            config_dict["vocab_size"], config_dict["hidden_size"], dtype=dtype, device=device
        )


def clip_classes(config):
    """(tokenizer class, text encoder class) for one configuration, as comfy's ClipTarget wants them."""
    length = config["max_position_embeddings"]

    class PocketClipModel(comfy.sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device,
                dtype=dtype,
                max_length=length,
                textmodel_json_config=dict(config),
                model_class=PocketTextModel,
                special_tokens={"start": 1, "end": 2, "pad": 2},
                return_projected_pooled=False,
                model_options=model_options or {},
            )

    class PocketTextEncoder(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(device=device, dtype=dtype, clip_model=PocketClipModel, model_options=model_options or {})

    class PocketWordTokenizer(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            self.vocabulary = tokenizer_data["pocket_vocab"]
            super().__init__(
                self.vocabulary,
                max_length=length,
                embedding_key="clip_l",
                embedding_directory=embedding_directory,
                embedding_size=config["hidden_size"],
                tokenizer_class=WordTokenizer,
            )

        def state_dict(self):
            """Saved by CheckpointSave, so that a saved model keeps its vocabulary."""
            return {"pocket_vocab": self.vocabulary}

    class PocketTokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(
                embedding_directory=embedding_directory,
                tokenizer_data=tokenizer_data or {},
                tokenizer=PocketWordTokenizer,
            )

    return PocketTokenizer, PocketTextEncoder
