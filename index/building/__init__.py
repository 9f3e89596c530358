"""From a corpus to vectors, and into an index or into shards."""
