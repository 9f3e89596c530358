"""What `MilvusIndex` is made of: a collection that is the store, search in it, and a writer that changes it."""
