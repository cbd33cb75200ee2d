"""The SockJS client, ``sockjs_tornado.client``."""
