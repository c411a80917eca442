"""Style Matching Score: move a latent along the difference of a style model's and a fake model's score."""
