"""A soak test of the server with many kinds of clients on all transports (``python -m soak``)."""
