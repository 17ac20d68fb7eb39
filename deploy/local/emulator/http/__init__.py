"""The HTTP server: requests, responses, watches, and the control API of the emulator."""
