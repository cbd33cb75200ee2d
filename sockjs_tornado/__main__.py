"""Entry point of ``python -m sockjs_tornado``."""

import sys

from .cli import main

sys.exit(main())
