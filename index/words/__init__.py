"""Finding keys by their words: what counts as a word, and what a client who types some asks for."""
