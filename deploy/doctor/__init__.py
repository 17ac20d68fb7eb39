"""Checks of an installation, and what to do about each problem found: `python -m deploy.doctor`."""
