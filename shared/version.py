"""The version of API and worker.

`pyproject.toml` takes the version from this file. The container image and `make dev` run from the source tree, where
no installed package has metadata to read the version from.
"""

VERSION = "0.1.0"
