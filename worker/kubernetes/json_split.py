"""Splits JSON without recursion: for objects that are nested too deeply for the decoder, or have a broken text."""

import re

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]', re.DOTALL)


def split(raw: bytes) -> list[bytes]:
    """Return the elements of an array, or the keys and values of an object in turn, each as its own text.

    Raises:
        ValueError: the text is neither a complete array nor a complete object.
    """
    parts: list[bytes] = []
    depth = start = end = 0
    for token in _TOKEN.finditer(raw):
        mark = token[0]
        if mark in b"{[":
            depth += 1
            start = token.end() if depth == 1 else start
        elif mark in b"}]":
            depth -= 1
            end = token.end()
        if (depth == 1 and mark in b",:") or (depth == 0 and mark in b"}]"):
            parts.append(raw[start : token.start()].strip())
            start = token.end()
    if depth or raw.lstrip()[:1] not in {b"{", b"["} or raw[end:].strip():
        raise ValueError("the text is no complete array or object")
    return [part for part in parts if part]


def members(raw: bytes) -> dict[bytes, bytes]:
    """Return the values of an object by their keys, which are without quotes.

    Raises:
        ValueError: the text is no complete object.
    """
    parts = split(raw)
    return {key.strip(b'"'): value for key, value in zip(parts[::2], parts[1::2], strict=True)}
