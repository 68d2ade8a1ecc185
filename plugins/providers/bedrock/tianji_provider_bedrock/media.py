"""Images, documents, videos and audio as Converse's blocks.

Docs: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html and its members' pages
"""

import re
from base64 import b64encode
from typing import Any
from urllib.parse import unquote_to_bytes

from tianji import BadRequest

from .shapes import Body

FORMATS = {
    "image": {"png": "png", "jpeg": "jpeg", "jpg": "jpeg", "gif": "gif", "webp": "webp"},
    "document": {
        "pdf": "pdf", "csv": "csv", "doc": "doc", "docx": "docx", "xls": "xls", "xlsx": "xlsx", "html": "html",
        "htm": "html", "txt": "txt", "text": "txt", "md": "md", "markdown": "md",
    },
    "video": {
        "mp4": "mp4", "mov": "mov", "mkv": "mkv", "webm": "webm", "flv": "flv", "mpeg": "mpeg", "mpg": "mpg",
        "wmv": "wmv", "3gp": "three_gp",
    },
    "audio": {
        "mp3": "mp3", "wav": "wav", "opus": "opus", "aac": "aac", "flac": "flac", "ogg": "ogg", "m4a": "m4a",
        "mpga": "mpga", "pcm": "pcm", "mka": "mka",
    },
}  # fmt: skip
"""Kind of block → file extension → Bedrock's name of the format."""

_MIME = {
    "application/pdf": "pdf", "application/msword": "doc", "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/plain": "txt", "text/x-markdown": "md", "application/csv": "csv", "video/quicktime": "mov",
    "video/x-matroska": "mkv", "video/x-flv": "flv", "video/x-ms-wmv": "wmv", "video/3gpp": "3gp", "audio/mpeg": "mp3",
    "audio/x-wav": "wav", "audio/pcm16": "pcm",
}  # fmt: skip
"""MIME types whose second half is not the extension. The standard library's table is the machine's: not pure."""

_NAMELESS = re.compile(r"[^A-Za-z0-9()\[\] -]+")


class Files:
    """Makes blocks for one request, in which every document must have a name of its own."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def block(self, source: Any, mime: Any, filename: Any, path: str) -> Body:
        """The block for a data URL, an `s3://` location or bare base64; its kind follows from the format.

        Args:
            mime: A MIME type or an extension that overrules what the data URL says; None or "" where nobody says.
            path: Of the source, for errors.
        """
        if not isinstance(source, str) or not source:
            raise BadRequest("Expected a data URL or an s3:// location.", param=path)
        if source.startswith(("http://", "https://")):
            raise BadRequest(
                "Bedrock reads no web addresses. Send the content as a data URL, or give an s3:// location.", param=path
            )
        said = mime if isinstance(mime, str) and mime else ""
        named = _extension(filename) if isinstance(filename, str) else ""
        if source.startswith("s3://"):
            body: Body = {"s3Location": {"uri": source}}
            kind, format = _format([said, named, _extension(source)], path)
        else:
            type_, data = _inline(source, path)
            body = {"bytes": data}
            kind, format = _format([said, type_, named], path)
        block: Body = {"format": format, "source": body}
        if kind == "document":
            block["name"] = self._name(filename)
        return {kind: block}

    def _name(self, filename: Any) -> str:
        """A name in the alphabet that Bedrock accepts, used once."""
        stem = filename.rpartition(".")[0] or filename if isinstance(filename, str) else ""
        name = " ".join(_NAMELESS.sub(" ", stem).split())[:180] or "document"
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name} {number}"
        self._names.add(unique)
        return unique


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _inline(source: str, path: str) -> tuple[str, str]:
    """MIME type and base64 of a data URL; bare base64 has no type."""
    if not source.startswith("data:"):
        return "", source
    head, comma, data = source[5:].partition(",")
    if not comma:
        raise BadRequest("The data URL has no data.", param=path)
    type_, *options = head.split(";")
    if "base64" not in options:
        data = b64encode(unquote_to_bytes(data)).decode("ascii")
    return type_.lower(), data


def _format(candidates: list[str], path: str) -> tuple[str, str]:
    """Kind and format by the first of the MIME types and extensions that Bedrock has a format for."""
    for candidate in candidates:
        half, _, rest = candidate.lower().partition("/")
        extension = _MIME.get(candidate.lower(), rest or half)
        kinds = [half] if half in FORMATS and rest else list(FORMATS)
        for kind in [*kinds, *FORMATS]:
            if extension in FORMATS[kind]:
                return kind, FORMATS[kind][extension]
    told = next((candidate for candidate in candidates if candidate), "none")
    raise BadRequest(f"Bedrock has no format for content of type {told[:100]!r}.", param=path)


def audio(data: str, format: str, path: str) -> Body:
    """An audio block from bare base64."""
    known = FORMATS["audio"].get(format.rpartition("/")[2].lower())
    if known is None:
        raise BadRequest(f"Bedrock has no audio format {format[:100]!r}.", param=path)
    return {"audio": {"format": known, "source": {"bytes": data}}}
