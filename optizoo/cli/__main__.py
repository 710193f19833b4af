"""``python -m optizoo.cli`` is the command ``optizoo``."""

import sys

from optizoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
