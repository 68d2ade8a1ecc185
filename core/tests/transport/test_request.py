"""Requests as bytes, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianji.errors import BadRequest
from tianji.model import Headers, Wire
from tianji.transport.request import MAX_TARGETS, Targets, encode_headers, encode_request, parse_url, user_agent


def encoded(wire: Wire) -> bytes:
    return encode_request(wire, parse_url(wire.url))


def lines(wire: Wire) -> list[bytes]:
    return encoded(wire).partition(b"\r\n\r\n")[0].split(b"\r\n")


def test_a_json_request_is_one_piece() -> None:
    raw = encoded(Wire(url="http://api.test/v1/chat?x=1#f", headers={"Authorization": "Bearer k"}, body={"a": "é"}))
    head, _, body = raw.partition(b"\r\n\r\n")
    assert body == '{"a":"é"}'.encode()
    assert head.split(b"\r\n") == [
        b"POST /v1/chat?x=1 HTTP/1.1",
        b"host: api.test",
        b"authorization: Bearer k",
        f"user-agent: {user_agent()}".encode(),
        b"accept-encoding: identity",
        b"content-type: application/json",
        b"content-length: 10",
    ]


def test_given_headers_win_over_ours_but_framing_is_never_the_callers() -> None:
    given_headers = {
        "User-Agent": "mine",
        "Accept-Encoding": "gzip",
        "Content-Type": "application/vnd.x+json",
        "Content-Length": "999",
        "Transfer-Encoding": "chunked",
        "Host": "elsewhere",
        "Connection": "close",
    }
    got = lines(Wire(url="http://api.test/", headers=given_headers, body={}))
    assert got[1:] == [
        b"host: api.test",
        b"user-agent: mine",
        b"accept-encoding: gzip",
        b"content-type: application/vnd.x+json",
        b"content-length: 2",
    ]


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("POST", None, b"0"),
        ("PUT", None, b"0"),
        ("GET", None, None),
        ("HEAD", None, None),
        ("DELETE", None, None),
        ("POST", b"", b"0"),
        ("GET", b"abc", b"3"),
        ("PATCH", b"abc", b"3"),
    ],
)
def test_content_length(method: str, body: bytes | None, length: bytes | None) -> None:
    got = lines(Wire(url="http://h/", method=method, body=body))
    assert got[0] == f"{method} / HTTP/1.1".encode()
    assert [line[16:] for line in got if line.startswith(b"content-length: ")] == ([] if length is None else [length])
    assert not any(line.startswith(b"content-type") for line in got)


def test_the_block_of_headers_is_made_once_and_kept() -> None:
    headers = Headers({"x-a": "1"})
    first = encoded(Wire(url="http://h/", headers=headers, body={}))
    block = headers.block
    assert block is not None
    assert block.startswith(b"x-a: 1\r\n")
    assert encoded(Wire(url="http://h/", headers=headers, body={})) == first
    assert headers.block is block


def test_a_content_type_that_comes_first_is_seen() -> None:
    got = encoded(Wire(url="http://h/", headers=Headers({"content-type": "text/x"}), body={}))
    assert got.count(b"content-type") == 1


@pytest.mark.parametrize("text", ["a\r\nx: y", "a\nb", "a\rb", "a\0b", "a\x7fb"])
def test_nothing_can_end_a_line_early(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        encode_headers({"x-secret": text})
    assert "x-secret" in caught.value.message
    assert text not in caught.value.message
    with pytest.raises(BadRequest):
        encode_headers({text: "v"})
    with pytest.raises(BadRequest):
        parse_url(f"http://h/{text}")
    with pytest.raises(BadRequest):
        encoded(Wire(url="http://h/", method=text))


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=20), max_size=4))
def test_whatever_is_given_either_is_refused_or_stays_on_its_own_line(headers: dict[str, str]) -> None:
    try:
        block = encode_headers(headers)
    except BadRequest:
        return
    body = block.removesuffix(b"\r\n")
    assert b"\0" not in body
    for line in body.split(b"\r\n"):
        assert b"\r" not in line
        assert b"\n" not in line
        assert b": " in line


def test_a_header_beyond_latin_1_is_sent_as_utf_8() -> None:
    assert encode_headers({"x": "é"}).startswith(b"x: \xe9\r\n")
    assert encode_headers({"x": "é→"}).startswith("x: é→\r\n".encode())


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/", "//h/", "http:///x", "http://", "http://u:p@h/", "http://u@h/", "http://h:99999/", "http://h:x/",
        "http://h\\@evil/", "http://h /", "http://h/\u00e9", "http://h_ö/", "http://[::1/", "http://a[::1]/", "h/x",
        "http://h:80:80/", "http://[v1.x]/",
    ],
)  # fmt: skip
def test_urls_that_are_refused_and_never_quoted(url: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_url(url)
    assert url not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "key", "host", "path"),
    [
        ("http://h", "http://h:80", b"host: h\r\n", "/"),
        ("https://H.test:443/a", "https://h.test:443", b"host: h.test\r\n", "/a"),
        ("http://h:8080?q=1", "http://h:8080", b"host: h:8080\r\n", "/?q=1"),
        ("http://h:/x", "http://h:80", b"host: h\r\n", "/x"),
        ("http://[::1]:1234/x", "http://[::1]:1234", b"host: [::1]:1234\r\n", "/x"),
        ("https://[::1]/x", "https://[::1]:443", b"host: [::1]\r\n", "/x"),
    ],
)
def test_urls(url: str, key: str, host: bytes, path: str) -> None:
    target = parse_url(url)
    assert (target.key, target.path) == (key, path)
    assert target.post.endswith(host)


def test_the_cache_of_urls_is_bounded() -> None:
    targets = Targets()
    first = targets["http://h/0"]
    assert targets["http://h/0"] is first
    for number in range(3 * MAX_TARGETS):
        assert targets[f"http://h/{number}"].path == f"/{number}"
    assert len(targets._known) <= MAX_TARGETS
