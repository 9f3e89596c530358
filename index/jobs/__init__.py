"""From a corpus to vectors, and into an index, a collection or shards."""
