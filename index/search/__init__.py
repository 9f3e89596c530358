"""Reading: a published version and what came since, open to be searched. Imports nothing that writes."""
