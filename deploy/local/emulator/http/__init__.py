"""The HTTP server: requests, answers, watches, and the control of the emulator."""
