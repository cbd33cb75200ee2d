"""What applications of sockjs-tornado 1.0 need to move over."""
