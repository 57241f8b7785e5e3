"""What Schemathesis is told beside the description: which bytes are a picture."""

from __future__ import annotations

import io
from typing import Any

import schemathesis
from PIL import Image
from schemathesis.transport.serialization import Binary


def photo() -> bytes:
    """A small PNG."""
    file = io.BytesIO()
    Image.new("RGB", (20, 30), "teal").save(file, "PNG")
    return file.getvalue()


PHOTO = photo()


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Put a picture into the file fields of forms, where they would be random bytes."""
    if isinstance(body, dict):
        return {name: Binary(PHOTO) if isinstance(value, Binary) else value for name, value in body.items()}
    return body


@schemathesis.hook
def filter_body(context: Any, body: Any) -> bool:
    """Leave out forms that cannot be sent as they are meant: null goes as the text "null", an empty list not
    at all, and an empty text is a field left out.
    """
    return not isinstance(body, dict) or not any(value in (None, [], {}, "") for value in body.values())
