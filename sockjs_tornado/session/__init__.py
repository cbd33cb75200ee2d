"""Sessions: their states, what waits for a client, the application's callbacks, deadlines and limits."""
