"""Hold every optimizer against torch.optim on this machine: the same as ``optizoo verify``, with the same arguments."""

import sys

from optizoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
