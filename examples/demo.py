"""Both examples on one port: run `python examples/demo.py` and open the address it prints."""

import asyncio
from pathlib import Path

from chat import server as chat
from common import arguments, page_specs, serve
from echo import server as echo

HERE = Path(__file__).resolve().parent


async def main() -> None:
    """Serve a landing page, the chat and the echo page."""
    options = arguments("The chat and the echo page on one port.").parse_args()
    home = page_specs("/", HERE)
    specs = [*home, *chat.url_specs(), *echo.url_specs()]
    await serve([chat.make_router(), echo.make_router()], specs, options.host, options.port)


if __name__ == "__main__":
    asyncio.run(main())
