"""`Call`: the head of a request, whichever server read it. Endpoints decide by this alone.

Stream requests come from Triocast's own handshakes as well as through Quart, publishes straight
from ASGI. With one form for all of them, one function per endpoint serves every way in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qsl

from triocast.errors import BadRequest, WrongContentEncoding
from triocast.wire.numbers import parse_whole

MOST_QUERY_FIELDS: Final = 2_000

MAX_LENGTH: Final = 2**63 - 1
"""Bytes of body that can be announced; what is beyond counts as this, and is refused as such."""

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Headers as ASGI and h11 have them: names in lower case."""


class Fields:
    """Header or query fields: several may have one name, and keep their order."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def get(self, name: str, default: str | None = None, /) -> str | None:
        """Return the first value of a name."""
        values = self._values.get(name)
        return default if values is None else values[0]

    def all(self, name: str) -> list[str]:
        """Return every value of a name."""
        return self._values.get(name, [])

    def __contains__(self, name: str, /) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        """Yield each name once."""
        return iter(self._values)


class Headers(Fields):
    """Header fields; their names are in any case."""

    def __init__(self, raw: RawHeaders) -> None:
        super().__init__((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw)

    def get(self, name: str, default: str | None = None, /) -> str | None:
        return super().get(name.lower(), default)

    def all(self, name: str) -> list[str]:
        return super().all(name.lower())

    def __contains__(self, name: str, /) -> bool:
        return super().__contains__(name.lower())

    def tokens(self, name: str) -> list[str]:
        """Return the elements of a field that is a list, over all its lines."""
        elements = (part.strip() for value in self.all(name) for part in value.split(","))
        return [element for element in elements if element]


class Call:
    """One request's head. ``address`` is the peer's IP address, None where there is none.

    ``scheme`` is http, https, ws or wss; ``http_version`` 1.0, 1.1 or 2.
    """

    def __init__(
        self,
        *,
        method: str,
        scheme: str,
        http_version: str,
        query_string: bytes,
        headers: RawHeaders,
        address: str | None,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.http_version = http_version
        self.address = address
        self._query_string = query_string
        self._raw_headers = headers

    @classmethod
    def of_scope(cls, scope: Any) -> Call:
        """Return the call that an ASGI scope describes."""
        client = scope.get("client")
        return cls(
            method=scope.get("method", "GET"),
            scheme=scope["scheme"],
            http_version=scope["http_version"],
            query_string=scope["query_string"],
            headers=scope["headers"],
            address=client[0] if client else None,
        )

    @cached_property
    def headers(self) -> Headers:
        return Headers(self._raw_headers)

    @cached_property
    def query(self) -> Fields:
        """The query's fields. Raises BadRequest for more of them than anybody needs."""
        if not self._query_string:
            return Fields(())
        try:
            pairs = parse_qsl(
                self._query_string.decode("latin-1"),
                keep_blank_values=True,
                errors="replace",
                max_num_fields=MOST_QUERY_FIELDS,
            )
        except ValueError:
            raise BadRequest(f"a query has at most {MOST_QUERY_FIELDS} fields") from None
        return Fields(pairs)

    @property
    def content_type(self) -> str:
        """The media type of the body, without parameters, in lower case; empty if not said."""
        return (self.headers.get("content-type") or "").partition(";")[0].strip().lower()

    @property
    def has_json(self) -> bool:
        """Whether the body is said to be JSON."""
        return self.content_type == "application/json" or self.content_type.endswith("+json")

    def check_encoding(self) -> None:
        """Raise WrongContentEncoding if the body is not sent as it is: nothing is decoded here."""
        codings = [coding.lower() for coding in self.headers.tokens("content-encoding")]
        if any(coding != "identity" for coding in codings):
            raise WrongContentEncoding(
                "the header Content-Encoding says that the body is encoded: send it as it is"
                " (identity), without compression"
            )

    @property
    def has_body(self) -> bool:
        """Whether a body is announced, of whatever length."""
        return bool(self.content_length) or "transfer-encoding" in self.headers

    @property
    def content_length(self) -> int | None:
        """How many bytes of body are announced, up to `MAX_LENGTH`; None if it is not said."""
        text = self.headers.get("content-length") or ""
        if not (text.isascii() and text.isdecimal()):
            return None
        length = parse_whole(text, most=MAX_LENGTH)
        return MAX_LENGTH if length is None else length
