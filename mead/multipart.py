"""Multipart forms, taken apart by the library `multipart`.

Werkzeug's own parser compiles two regular expressions for each request, since every client makes up its own
boundary: a fifth of what accepting a job with a small photo costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from flask import Request
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

Parsed = tuple[IO[bytes], MultiDict[str, str], MultiDict[str, FileStorage]]


class FormParser(FormDataParser):
    """Werkzeug's reader of forms, with another reader of multipart forms and the same limits.

    Raises:
        BadRequest: where a multipart form is malformed or cut off.
        RequestEntityTooLarge: where it has too many parts or too long a text.
    """

    def parse(
        self,
        stream: IO[bytes],
        mimetype: str,
        content_length: int | None,
        options: Mapping[str, str] | None = None,
    ) -> Parsed:
        """The stream, texts and files of a form."""
        if mimetype != "multipart/form-data":
            return super().parse(stream, mimetype, content_length, dict(options or {}))
        try:
            return stream, *self._read(stream, (options or {}).get("boundary", ""), content_length)
        except ParserLimitReached:
            raise RequestEntityTooLarge from None
        except MultipartError:
            raise BadRequest("the multipart form is malformed or cut off") from None

    def _read(
        self, stream: IO[bytes], boundary: str, content_length: int | None
    ) -> tuple[MultiDict[str, str], MultiDict[str, FileStorage]]:
        texts: MultiDict[str, str] = MultiDict()
        files: MultiDict[str, FileStorage] = MultiDict()
        parser = PushMultipartParser(boundary, max_segment_count=self.max_form_parts or float("inf"))
        segment: MultipartSegment
        content: Any = None  # a text's pieces, or a file
        for found in parser.parse_blocking(stream.read):
            if isinstance(found, MultipartSegment):
                segment = found
                content = [] if segment.filename is None else self._file_for(segment, content_length)
            elif found:
                if segment.filename is not None:
                    content.write(found)
                    continue
                content.append(bytes(found))
                if (
                    self.max_form_memory_size is not None
                    and segment.bytes_received > self.max_form_memory_size
                ):
                    raise RequestEntityTooLarge
            elif segment.filename is None:
                texts.add(segment.name or "", b"".join(content).decode("utf-8", "replace"))
            else:
                content.seek(0)
                headers = Headers(segment.headerlist)
                files.add(
                    segment.name or "", FileStorage(content, segment.filename, segment.name, headers=headers)
                )
        return texts, files

    def _file_for(self, segment: MultipartSegment, content_length: int | None) -> IO[bytes]:
        return self.stream_factory(
            total_content_length=content_length,
            filename=segment.filename,
            content_type=segment.content_type,
            content_length=None,
        )


class FormRequest(Request):
    """A request whose forms `FormParser` reads."""

    form_data_parser_class = FormParser
