"""Admission plugins: they refuse a new object that its namespace does not allow."""
