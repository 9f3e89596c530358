"""The parts of the embedded engine, `index.faiss_index`: the store, and the versions derived from it."""
