"""The typed fields of each kind.

Decoding a body with them drops unknown fields and refuses wrong types, as the real server does. Encoding leaves out
empty values, as Go's `omitempty` does. If the zero of a field has a meaning, the absent field is None.
"""
