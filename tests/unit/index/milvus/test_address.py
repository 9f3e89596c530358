"""What names a collection, and what does not."""

import pytest

from anykey.index.milvus.address import CollectionAddress, parse_address


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ("https://milvus.example:443/a_1/", CollectionAddress("https://milvus.example:443", "a_1")),
        ("/data/keys.db/products", CollectionAddress("/data/keys.db", "products")),
        ("keys.dbx/products", None),
        ("indexes/keys.db.old/v1", None),
    ],
)
def test_collections_are_told_from_directories(index: str, expected: CollectionAddress | None) -> None:
    assert parse_address(index) == expected


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("http://localhost:19530", "expected the name of a collection"),
        ("http://localhost:19530/a/b", "expected the name of a collection"),
        ("http://localhost:19530/1st", "got '1st'"),
        ("keys.db/no-name", "got 'no-name'"),
        ("o/keys.db", r"behind the file of Milvus Lite, o/keys.db/NAME, got o/keys.db$"),
        ("keys.db/a/b", r"keys.db/NAME, got keys.db/a/b$"),
        ("http://localhost:abc/products", "Port could not be cast"),
        ("http://localhost:99999/products", "Port out of range"),
        ("http://localhost:19530/products?db=shop", "expected nothing behind the name"),
        ("http://localhost:19530/products#shop", "expected nothing behind the name"),
        ("http:///products", "expected a path, or the address of a collection"),
        ("s3://bucket/index", "expected a path, or the address of a collection"),
        ("http://root:secret@localhost:19530/products", "setting milvus_token"),
    ],
)
def test_what_is_no_address_is_refused_with_what_was_expected(index: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_address(index)
    assert "secret" not in str(caught.value)
