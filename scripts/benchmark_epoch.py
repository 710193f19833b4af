"""Time an epoch of a CIFAR-10 model: the lab's loop, a hand-written one, and the usual DataLoader script.

The same as ``optizoo bench epoch``, with the same arguments.

python scripts/benchmark_epoch.py --json benchmarks/epoch_cpu.json
"""

import sys

from optizoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "epoch", *sys.argv[1:]]))
