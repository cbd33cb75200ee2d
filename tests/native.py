"""A plugin for pytest: all servers that the tests start in their own process are native ones."""

import tornado.httpserver

import sockjs_tornado

tornado.httpserver.HTTPServer = sockjs_tornado.HTTPServer  # type: ignore[misc]
