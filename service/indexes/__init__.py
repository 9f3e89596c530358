"""The indexes that are served, by name: what each needs, its releases, and whether it answers."""
