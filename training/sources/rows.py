"""What the rows of all formats have in common."""


def captions_of(value: object) -> tuple[str, ...]:
    """The captions in a JSON row: `captions` (list), or `caption` or `text` (string).

    Args:
        value: A decoded JSON value.

    Returns:
        The non-empty captions, stripped.

    Raises:
        ValueError: there are none; the message says what was expected.
    """
    if isinstance(value, dict):
        found: object = next((value[name] for name in ("captions", "caption", "text") if value.get(name)), [])
        listed = [found] if isinstance(found, str) else found
        if isinstance(listed, list) and all(isinstance(text, str) for text in listed):
            captions = tuple(text.strip() for text in listed if text.strip())
            if captions:
                return captions
    raise ValueError("expected an object with non-empty 'captions', 'caption' or 'text'")
