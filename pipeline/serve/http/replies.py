"""Plain data out as JSON; names, numbers and times in."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from fastapi import Path
from pydantic import AfterValidator, WithJsonSchema
from starlette.responses import Response

from pipeline.errors import SettingsError
from pipeline.serve.times import parse_time


def encode(content: Any) -> bytes:
    """As JSON; a figure that is not finite, for which it has no word, is null."""
    return msgspec.json.encode(content)


def answer(content: Any, status: int = 200) -> Response:
    """Plain data as it goes out."""
    return Response(encode(content), status, media_type="application/json")


def _moment(text: str) -> int:
    """ISO 8601 with zone, or `now`, as microseconds since 1970 UTC.

    A + that was not escaped arrives as a space.
    """
    try:
        return parse_time(re.sub(r" (\d\d:?\d\d)$", r"+\1", text))
    except SettingsError as exc:
        raise ValueError(str(exc)) from None


def _sound(text: str) -> str:
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("a character that no text has")
    return text


#: Text that every database takes.
Sound = Annotated[str, AfterValidator(_sound)]
#: A time in a query.
Moment = Annotated[
    str, AfterValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
StreamName = Annotated[Sound, Path(min_length=1, max_length=255, description="Of the stream.")]
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="Counted within the stream.")]
