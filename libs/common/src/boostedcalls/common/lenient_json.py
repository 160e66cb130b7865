"""Reading JSON that others wrote, so that no report is lost for a flaw in it."""

from __future__ import annotations

import json
from typing import Any

import orjson


def loads(data: bytes) -> Any:
    """Decoded JSON that can be written as JSON again. Raises ValueError for what is no JSON at all.

    JavaScript writes half an emoji, where it cut a text, as a lone surrogate (here `?`); other writers know NaN (here
    null). orjson takes neither, and makes a float of an integer beyond 64 bits.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        lenient = json.loads(data, parse_constant=lambda _: None)
        return orjson.loads(json.dumps(lenient, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deep") from None
