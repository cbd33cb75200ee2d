"""The modules of ``compare.py``: what is compared, how it is run, and what is made of the figures."""
