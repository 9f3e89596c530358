"""Where corpora and images come from: files on this machine, over HTTP, and at other addresses."""
