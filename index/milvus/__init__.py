"""What `MilvusIndex` is made of: the way to the server, the collection, rows, filters and images."""
