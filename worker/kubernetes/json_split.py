"""Splits JSON without recursion: for objects that are nested too deeply for the decoder."""

import re

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},:]', re.DOTALL)


def split(raw: bytes) -> list[bytes]:
    """Return the elements of an array, or the keys and values of an object in turn, each as its own text."""
    parts: list[bytes] = []
    depth = start = 0
    for token in _TOKEN.finditer(raw):
        mark = token[0]
        if mark in b"{[":
            depth += 1
            start = token.end() if depth == 1 else start
        elif mark in b"}]":
            depth -= 1
        elif mark not in b",:" or depth != 1:
            continue
        if depth == 0 or (depth == 1 and mark in b",:"):
            parts.append(raw[start : token.start()].strip())
            start = token.end()
    return [part for part in parts if part]


def members(raw: bytes) -> dict[bytes, bytes]:
    """Return the values of an object by their keys, which are without quotes."""
    parts = split(raw)
    return {key.strip(b'"'): value for key, value in zip(parts[::2], parts[1::2], strict=False)}
