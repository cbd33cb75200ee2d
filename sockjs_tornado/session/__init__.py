"""Sessions: their states, queues, callbacks, deadlines and limits."""
