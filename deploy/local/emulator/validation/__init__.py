"""What the API server refuses: every fault of a body, in the order and with the words of the real one."""
