"""The targets, each a module with a class ``Target``."""
