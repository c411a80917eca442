"""How much the training nodes are given in an evidence."""

PICTURES, STEPS = 240, 1000
