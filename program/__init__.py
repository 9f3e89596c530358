"""What every AnyKey command shares: settings, progress, one-line errors and exits. Imports nothing of ours."""
