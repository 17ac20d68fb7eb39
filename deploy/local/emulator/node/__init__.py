"""The only node: its scheduler, its kubelet, and the lifecycle of its Pods."""
