"""Imported by each Python program that tests start: it does not log how long anything has taken.

This depends on the machine, and many tests expect that a program logs nothing.
"""

import logging

for name in ("blocking", "lag_probe", "slow_callbacks"):
    logging.getLogger(f"sockjs_tornado.session.{name}").disabled = True
