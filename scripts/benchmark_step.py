"""Time a step of every optimizer beside torch.optim: the same as ``optizoo bench step``, with the same arguments.

python scripts/benchmark_step.py --threads 2 --json benchmarks/step_cpu.json
"""

import sys

from optizoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "step", *sys.argv[1:]]))
