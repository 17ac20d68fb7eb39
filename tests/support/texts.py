"""Texts that are hard to carry from Python through JSON to Lua and back."""

from hypothesis import strategies as st

HARD_TEXT = '"\\\u2028\x00\x1f/\x7f\ud7ff\uffff\U0001f600\r\n\\u0041'
"""Quotes, backslashes, control characters, line separators, and the ends of ranges of Unicode."""

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
"""Any text that UTF-8 can encode, also an empty one."""
