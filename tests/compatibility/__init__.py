"""Applications for sockjs-tornado 1.0, and other releases of Tornado."""
