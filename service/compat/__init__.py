"""What other people's clients speak: a file for each dialect, which reads the same items as the others."""
