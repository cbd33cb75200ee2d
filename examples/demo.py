"""The chat, the echo page and a dashboard on one port: run `python examples/demo.py` and open the URL it prints."""

import asyncio
from pathlib import Path

from chat import server as chat
from common import arguments, page_specs, serve
from dashboard import server as dashboard
from echo import server as echo

HERE = Path(__file__).resolve().parent


async def main() -> None:
    """Serve a landing page, the chat, the echo page, and a dashboard for both."""
    options = arguments("The chat, the echo page and a dashboard on one port.").parse_args()
    routers = {"chat": chat.make_router(), "echo": echo.make_router()}
    watch = dashboard.make_dashboard(routers)
    home = page_specs("/", HERE)
    specs = [*home, *chat.url_specs(), *echo.url_specs(), *watch.pages]
    await serve([*routers.values(), watch.router], specs, options.host, options.port, first=[watch.guard])


if __name__ == "__main__":
    asyncio.run(main())
