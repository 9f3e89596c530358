"""What `MilvusIndex` is made of: the way to the server, the collection, records, filters and images."""
