"""``python -m linjax.cli``: the command where it isn't installed."""

import sys

from linjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
