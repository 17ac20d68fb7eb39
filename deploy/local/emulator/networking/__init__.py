"""Addresses and node ports of Services, and the connections to Pods."""
