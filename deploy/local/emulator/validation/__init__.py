"""Validation of new and updated objects: all errors of a body, in the order and the words of the real server."""
