"""Whose endpoint is measured: AnyKey's own, or an embeddings endpoint of others, whose vectors the harness searches."""
