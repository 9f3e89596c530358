"""What image files are called, by which folders and shards tell images from what lies beside them.

Photos in formats that cannot be decoded are images too: each is listed as one that cannot be read, not passed over.
"""

_DECODED = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
_NOT_DECODED = ("heic", "heif", "jxl", "jp2", "dng", "cr2", "nef", "arw", "svg")
IMAGE_SUFFIXES = frozenset((*_DECODED, *_NOT_DECODED))  # in lower case, without a dot
