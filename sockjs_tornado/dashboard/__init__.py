"""A page with live statistics, sessions and rooms of a server's routers, for any application::

    from sockjs_tornado.dashboard import Dashboard

    dashboard = Dashboard({"chat": router}, password=os.environ["DASHBOARD_PASSWORD"])
    application = tornado.web.Application(router.urls + dashboard.urls)
    await serve(application, [router, dashboard.router], sockets)

``/dashboard/`` shows the traffic of the last five minutes, and the open sessions, which can be closed there. It needs
no other package; distributions of this package contain its scripts for browsers.

**It must not be public.** It requires a password, or ``local_only=True``. Serve it over TLS, or on a private port.
Pages of other sites cannot connect to it, neither directly nor by DNS rebinding.
"""

from .service import Dashboard

__all__ = ["Dashboard"]
