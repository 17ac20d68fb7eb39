"""The one node: scheduler, kubelet, and the life of a Pod on it."""
