"""The page a quality run leaves behind: what was measured, and what the numbers look like in single queries."""
