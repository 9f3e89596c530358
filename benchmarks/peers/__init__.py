"""What others do on the same vectors and the same images; each peer runs in an environment of its own."""
