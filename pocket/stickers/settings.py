"""Every choice that shapes the sticker model: sources, things, renderings, grounds, sizes of canvases and networks."""

SEED = 20270
VERSION = "2.0"
LICENCE = "CC-BY-4.0"

CANVAS = 128  # pixels of a side; latents are CANVAS / 8
LATENT_CHANNELS = 8
BANK_SIDE = 256  # pixels of a side at which drawings are kept

# Makers of drawings: name -> npm package and the licence that its metadata states (see CREDITS.md for the makers' own).
MAKERS = {
    "fluent": ("@iconify-json/fluent-emoji-flat", "MIT"),
    "twemoji": ("@iconify-json/twemoji", "CC-BY-4.0"),
    "noto": ("@iconify-json/noto", "Apache-2.0"),
    "emojione": ("@iconify-json/emojione", "CC-BY-4.0"),
    "blob": ("@iconify-json/noto-v1", "Apache-2.0"),
    "fox": ("@iconify-json/fxemoji", "Apache-2.0"),
}
# Renderings that a maker drew itself: the same drawing in another rendering, named (maker, rendering).
NATURAL = {
    ("fluent", "gradient"): ("@iconify-json/fluent-emoji", "MIT"),
    ("fluent", "clay"): ("@lobehub/fluent-emoji-3d", "MIT"),
    ("fluent", "contrast"): ("@iconify-json/fluent-emoji-high-contrast", "MIT"),
    ("emojione", "mono"): ("@iconify-json/emojione-monotone", "CC-BY-4.0"),
}
WORDS_PACKAGE = "emojibase-data"
BASE_MAKERS = ("fluent", "twemoji")  # flat colours, from which every derived rendering can be computed cleanly

# Things of the denoiser: words of the prompt -> name of the emoji. The autoencoder sees many more.
THINGS = {
    "cat": "cat-face", "dog": "dog-face", "panda": "panda", "fox": "fox", "lion": "lion", "frog": "frog",
    "pig": "pig-face", "monkey": "monkey-face", "koala": "koala", "rabbit": "rabbit-face", "unicorn": "unicorn",
    "elephant": "elephant", "turtle": "turtle", "snail": "snail", "octopus": "octopus", "crab": "crab",
    "whale": "spouting-whale", "tropical fish": "tropical-fish", "butterfly": "butterfly", "ladybug": "lady-beetle",
    "bee": "honeybee", "penguin": "penguin", "owl": "owl", "chick": "front-facing-baby-chick",
    "flamingo": "flamingo", "sunflower": "sunflower", "tulip": "tulip", "rose": "rose", "cactus": "cactus",
    "palm tree": "palm-tree", "mushroom": "mushroom", "maple leaf": "maple-leaf", "apple": "red-apple",
    "banana": "banana", "strawberry": "strawberry", "watermelon": "watermelon", "pineapple": "pineapple",
    "grapes": "grapes", "cherries": "cherries", "carrot": "carrot", "avocado": "avocado", "pizza": "pizza",
    "hamburger": "hamburger", "doughnut": "doughnut", "cookie": "cookie", "birthday cake": "birthday-cake",
    "ice cream": "soft-ice-cream", "lollipop": "lollipop", "french fries": "french-fries", "fried egg": "cooking",
    "beer": "beer-mug", "coffee": "hot-beverage", "teapot": "teapot", "house": "house", "castle": "castle",
    "tent": "tent", "rocket": "rocket", "airplane": "airplane", "helicopter": "helicopter", "sailboat": "sailboat",
    "car": "automobile", "fire engine": "fire-engine", "bicycle": "bicycle", "anchor": "anchor",
    "traffic light": "vertical-traffic-light", "volcano": "volcano", "sun": "sun", "moon": "crescent-moon",
    "star": "star", "cloud": "cloud", "rainbow": "rainbow", "umbrella": "umbrella",
    "snowman": "snowman-without-snow", "fire": "fire", "planet": "ringed-planet", "lightning": "high-voltage",
    "soccer ball": "soccer-ball", "basketball": "basketball", "guitar": "guitar", "trumpet": "trumpet",
    "bell": "bell", "crown": "crown", "top hat": "top-hat", "diamond": "gem-stone", "key": "key", "lock": "locked",
    "light bulb": "light-bulb", "candle": "candle", "gift": "wrapped-gift", "balloon": "balloon", "trophy": "trophy",
    "camera": "camera", "telephone": "telephone", "scissors": "scissors", "pencil": "pencil", "bomb": "bomb",
    "hourglass": "hourglass-done", "alarm clock": "alarm-clock", "shirt": "t-shirt", "ghost": "ghost",
    "robot": "robot", "alien": "alien", "skull": "skull", "pumpkin": "jack-o-lantern", "heart": "red-heart",
    "christmas tree": "christmas-tree", "teddy bear": "teddy-bear", "dice": "game-die",
}  # fmt: skip

HELD_OUT_THINGS = (
    "fox", "koala", "penguin", "tulip", "carrot", "castle", "helicopter", "snowman", "crown", "key", "ghost", "trophy",
)  # fmt: skip
TRAINED_THINGS = tuple(thing for thing in THINGS if thing not in HELD_OUT_THINGS)

# Renderings of the base, each a word of the prompt, and those that only LoRAs see, under words the base does not know.
RENDERINGS = ("flat", "outline", "ink", "halftone", "engraving", "pixel", "watercolour", "mosaic", "neon", "puffy")
HELD_OUT_RENDERINGS = ("contrast", "clay", "glass", "knit")
OF_THE_MAKER = ("contrast", "clay")  # of these, what a maker drew itself; the rest is derived from its flat drawing

GROUNDS = {
    "white": (250, 250, 250), "gray": (140, 146, 152), "red": (222, 84, 84), "orange": (244, 164, 84),
    "yellow": (248, 222, 120), "green": (126, 194, 132), "blue": (108, 168, 232), "purple": (164, 132, 220),
    "pink": (246, 176, 204), "navy": (40, 52, 96),
}  # fmt: skip
HORIZON = 88  # row of the canvas at which the lower of two grounds begins

CONTEXT_DIM = 128  # width of the text tower
TEXT_LAYERS = 1
TEXT_LENGTH = 24
HEAD_CHANNELS = 32
UNET = {
    "model_channels": 64,
    "channel_mult": [1, 2, 3],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [1, 1, 0],
    "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
}
