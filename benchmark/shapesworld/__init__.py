"""ShapesWorld: the drawn demo dataset, in M-BEIR layout."""
