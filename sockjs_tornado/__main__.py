"""``python -m sockjs_tornado``: the command line."""

import sys

from .cli import main

sys.exit(main())
