"""Pairs (an image and its captions) to a checkpoint, with Generalized Contrastive Learning."""
