"""Every choice that shapes the pocket model: pictures kept out, styles, words, network sizes, schedule."""

SEED = 20260
VERSION = "1.1"
LICENCE = "CC0-1.0"

# Photographs in no training set, named by their file stem in the folder of free photographs.
HELD_OUT = (
    "neuschwanstein_castle",
    "chateaude_chenonceau",
    "berlin_cathedral",
    "golden_temple",
    "great_wallof_china",
    "machu_picchu",
    "mysore_palace",
    "pontdu_gard",
    "colosseum",
    "rocamadour",
    "great_pyramid_of_giza",
    "lincoln_memorial",
)

VIEW = (256, 384)  # height and width of every training picture, in pixels
LATENT_CHANNELS = 16
CONTEXT_DIM = 128  # width of the text tower; also the signature of the model family
TEXT_LAYERS = 2
TEXT_LENGTH = 16

# Styles of the base model: word -> renderer. "net:k" is style k of the 26-style network, the rest is in styles.py.
BASE_STYLES = {
    "pastel": "net:0",
    "crayon": "net:8",
    "copper": "net:10",
    "fauve": "net:13",
    "ice": "net:14",
    "mosaic": "net:15",
    "oil": "oil",
    "sketch": "sketch",
    "pixel": "pixel",
    "comic": "comic",
}

# Styles the base never sees, each taught by one LoRA under a trigger word that is not in the vocabulary.
LORA_STYLES = {"starry": "net:19", "ukiyo": "ukiyo", "sepiaink": "sepiaink", "riso": "riso"}

# Words of the prompt templates; words for contents come from the pictures, words for styles from BASE_STYLES.
TEMPLATE_WORDS = "a an the of in style painting picture photo photograph view with and"

UNET = {
    "model_channels": 64,
    "channel_mult": [1, 2, 3],
    "num_res_blocks": [2, 1, 1],
    "transformer_depth": [0, 0, 1, 1],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
}
HEAD_CHANNELS = 32
DRAWN_UNET = {
    "model_channels": 64,
    "channel_mult": [1, 1],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
}

BETA_START, BETA_END = 0.00085, 0.012  # the scaled-linear schedule of SD 1.x, v-prediction
