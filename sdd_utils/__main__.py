"""``python -m sdd_utils``: the commands are in ``cli``."""

import sys

if __name__ == "__main__":
    try:
        from sdd_utils.cli import main  # takes seconds, in which Ctrl-C is no error either

        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped at once. Every saved state is safe; the same command goes on from there.")
