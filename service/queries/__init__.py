"""What is asked: a query's parts, their weights, and what of the ranking is wanted and shown."""
