"""A soak of the server: every kind of client on every transport, for as long as one likes (``python -m soak``)."""
