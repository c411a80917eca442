"""Weight-free rulers: how much of the content stayed, and how far the style came. Nothing optimises them."""
