"""AnyKey: searches a corpus of images, texts and image+text pages with any of the three.

The packages are links to the folders at the top of the repository: `docs/adr/0036-one-import-name.md` says why.
"""
