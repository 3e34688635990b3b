"""The command line: ``python -m sdd_utils``."""

from sdd_utils.cli.commands import main

__all__ = ["main"]
