"""The defaults that the API server fills in before validation. Pure functions from body to body."""
