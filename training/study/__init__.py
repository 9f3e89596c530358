"""The comparison of losses on one start: a plan of runs, the runs, and a report of what they reach."""
