"""The fields of each kind, as far as they are typed: what a body may hold.

Reading a body through these prunes unknown fields and refuses wrong types, as the real server's decoder does. Empty
values are left out on the way back, as Go's `omitempty` does; a field whose zero means something is None when absent.
"""
