"""The search for good settings: a space, trials drawn from it by Optuna, and the best of them as a file."""
