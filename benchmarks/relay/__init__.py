"""The parts of `benchmarks/relay_clients.py`: the clients, and the server that they ask."""
