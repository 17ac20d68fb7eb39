"""Addresses and node ports of Services, and the kube-proxy."""
