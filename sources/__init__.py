"""Where data are and what is in them: files on disk and elsewhere, and the rows that corpora and pairs are made of."""
