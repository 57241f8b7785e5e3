"""Parsing of forms: multipart forms with the library `multipart`, and all texts decoded strictly.

Werkzeug's parser for multipart forms compiles two regular expressions per request, since each has its own
boundary; that is a fifth of the cost of accepting a job with a small photo. It also replaces bytes that it
cannot decode, instead of refusing them.
"""

from __future__ import annotations

from collections.abc import Mapping
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from flask import Request
from gunicorn.http.errors import ParseException
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.exceptions import BadRequest, ClientDisconnected, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from mead.http.errors import ApiError

Parsed = tuple[IO[bytes], MultiDict[str, str], MultiDict[str, FileStorage]]
Text = tuple[str, bytes, "str | None"]
"""The name and value of a field, and the character encoding that its part names."""

CHARSET = "_charset_"
"""The field that names the encoding of all other fields (RFC 7578, 4.6)."""
CHARSETS = {*aliases.values(), "cp874", "koi8_u"} - {"utf_7"}
"""Python's names of encodings. Python would cache every other name it is asked for, without limit."""


class FormParser(FormDataParser):
    """Werkzeug's form parser with its limits, but with other parsers for both form types.

    The encoding of a text is that of its part's Content-Type, the field `_charset_` or the form's
    Content-Type, in this order; by default UTF-8.

    Raises:
        ApiError: 400, naming the field that cannot be decoded.
        BadRequest: the body is malformed or incomplete.
        RequestEntityTooLarge: it has too many fields or too long a text.
    """

    def parse(
        self,
        stream: IO[bytes],
        mimetype: str,
        content_length: int | None,
        options: Mapping[str, str] | None = None,
    ) -> Parsed:
        """The stream, texts and files of a form."""
        options = options or {}
        files: MultiDict[str, FileStorage] = MultiDict()
        if mimetype == "multipart/form-data":
            if not options.get("boundary"):
                raise BadRequest(
                    "the Content-Type has no boundary: do not set it yourself but let the HTTP client do it, "
                    'as in curl -F prompt="a red house" (multipart/form-data)'
                )
            try:
                texts = self._read_multipart(stream, options["boundary"], content_length, files)
            except ParserLimitReached:
                raise self._too_many() from None
            except MultipartError:
                raise BadRequest("the multipart form is malformed or incomplete") from None
        elif mimetype == "application/x-www-form-urlencoded":
            texts = self._read_urlencoded(stream)
        else:
            return stream, MultiDict(), files
        return stream, _decoded(texts, options.get("charset")), files

    def _read_multipart(
        self,
        stream: IO[bytes],
        boundary: str,
        content_length: int | None,
        files: MultiDict[str, FileStorage],
    ) -> list[Text]:
        """The texts of a multipart form; its files are added to `files`."""
        texts: list[Text] = []
        parser = PushMultipartParser(
            boundary,
            max_segment_count=self.max_form_parts or float("inf"),
            header_charset="latin-1",  # file names have any encoding, and are not used
        )
        segment: MultipartSegment
        name = ""
        content: Any = None  # the pieces of a text, or a file
        for found in parser.parse_blocking(lambda size: _read(stream, size)):
            if isinstance(found, MultipartSegment):
                segment, name = found, _name_of(found)
                _set_file_name(segment)
                content = [] if segment.filename is None else self._file_for(segment, content_length)
            elif found:
                if segment.filename is not None:
                    content.write(found)
                    continue
                content.append(bytes(found))
                self._check_length(segment.bytes_received)
            elif segment.filename is None:
                texts.append((name, b"".join(content), segment.charset))
            else:
                content.seek(0)
                headers = Headers(segment.headerlist)
                files.add(name, FileStorage(content, segment.filename, name, headers=headers))
        return texts

    def _read_urlencoded(self, stream: IO[bytes]) -> list[Text]:
        body = bytearray()
        while piece := _read(stream, 2**16):
            body += piece
        pairs = [pair for pair in bytes(body).split(b"&") if pair]
        if self.max_form_parts is not None and len(pairs) > self.max_form_parts:
            raise self._too_many()
        texts: list[Text] = []
        for pair in pairs:
            name, _, value = (unquote_to_bytes(part) for part in pair.replace(b"+", b" ").partition(b"="))
            self._check_length(len(value))
            texts.append((name.decode("utf-8", "replace"), value, None))
        return texts

    def _check_length(self, length: int) -> None:
        if self.max_form_memory_size is not None and length > self.max_form_memory_size:
            raise RequestEntityTooLarge(
                f"a text of the form is longer than {self.max_form_memory_size:,} bytes"
            )

    def _too_many(self) -> RequestEntityTooLarge:
        return RequestEntityTooLarge(f"the form has more than {self.max_form_parts:,} fields")

    def _file_for(self, segment: MultipartSegment, content_length: int | None) -> IO[bytes]:
        return self.stream_factory(
            total_content_length=content_length,
            filename=segment.filename,
            content_type=segment.content_type,
            content_length=None,
        )


class FormRequest(Request):
    """A request whose forms are parsed by `FormParser`."""

    form_data_parser_class = FormParser


def _read(stream: IO[bytes], size: int) -> bytes:
    """Read from the body of a request.

    Raises:
        BadRequest: it is malformed or incomplete.
    """
    try:
        return stream.read(size)
    except (ClientDisconnected, OSError, ParseException):  # Werkzeug's, the socket's, gunicorn's
        raise BadRequest("the body of the request is malformed or incomplete") from None


def _name_of(segment: MultipartSegment) -> str:
    """The field name of a part.

    Raises:
        ApiError: 400; it has no name, or a Content-Transfer-Encoding.
    """
    name = segment.name.encode("latin-1").decode("utf-8", "replace")
    if not name:
        raise ApiError(400, "a part of the form has no name in its Content-Disposition")
    encoding = segment.header("Content-Transfer-Encoding", "binary").strip().lower()
    if encoding not in {"7bit", "8bit", "binary"}:
        raise ApiError(400, f"{name}: must be sent without Content-Transfer-Encoding", name)
    return name


def _set_file_name(segment: MultipartSegment) -> None:
    """Recognise a file by `filename*` (RFC 5987) or by an image type."""
    if segment.filename is None:
        disposition = segment["Content-Disposition"]
        if "filename" in disposition.lower():
            segment.filename = parse_options_header(disposition)[1].get("filename")
        elif (segment.content_type or "").startswith("image/"):
            segment.filename = "picture"


def _decoded(texts: list[Text], charset: str | None) -> MultiDict[str, str]:
    for name, value, _ in texts:
        if name == CHARSET:
            charset = value.decode("latin-1").strip() or charset
    decoded: MultiDict[str, str] = MultiDict()
    for name, value, own in texts:
        if name != CHARSET:
            decoded.add(name, _decode(name, value, own or charset or "utf-8"))
    return decoded


def _encoding(charset: str) -> str:
    """Python's name of a character encoding.

    Raises:
        LookupError: it is unknown.
    """
    name = normalize_encoding(charset).lower()
    name = aliases.get(name, name)
    if name not in CHARSETS:
        raise LookupError(charset)
    return name


def _decode(name: str, value: bytes, charset: str) -> str:
    """A field's text.

    Raises:
        ApiError: 400.
    """
    try:
        return value.decode(charset if charset == "utf-8" else _encoding(charset))
    except UnicodeDecodeError:
        message = f"is not valid {charset}; send UTF-8, or name the charset in the Content-Type"
    except LookupError:  # Python also has encodings that are not for text
        message = f"the charset {charset[:40]!r} is not supported; send UTF-8"
    raise ApiError(400, f"{name}: {message}", name)
