"""Modules for all other rooms: API errors, quantities, timestamps, ids, options and faults."""
