"""The wire engine: websocket frames without I/O, and connections taken over from HTTP servers."""
