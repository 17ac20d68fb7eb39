"""The version of the whole; pyproject.toml says the same."""

VERSION = "0.1.0"
