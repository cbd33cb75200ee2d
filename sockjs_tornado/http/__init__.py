"""HTTP by way of Tornado: requests as exchanges, their bodies, and accepting connections."""
