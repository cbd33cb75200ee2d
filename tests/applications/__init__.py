"""Real applications of sockjs-tornado 1.0, moved to this package with the changes that docs/migrating.md names."""
