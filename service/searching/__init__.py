"""A vector and a scope to hits: calls of the index that are shared, ranking, reranking, and keys looked up."""
