"""The modules of ``compare.py``: loads, servers, measurements and reports."""
