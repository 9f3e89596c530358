"""`anykey-bench load`: requests at a given pace, whatever the service does, and what became of each."""
