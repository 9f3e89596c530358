"""open_clip's image and text tower, whose features are added: networks, weights, tokens, and the encoder of them."""
