"""The command line: ``python -m sdd_utils``."""
