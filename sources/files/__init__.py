"""Where bytes are: files on this machine, over HTTP, and at other addresses."""
