"""Items to vectors: from the cache, else in batches that many requests share."""
