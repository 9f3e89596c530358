"""Keys that change while the service runs: what a request wants changed, its vectors, and the one writer."""
