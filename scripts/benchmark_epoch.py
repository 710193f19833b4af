"""Time an epoch of the linear CIFAR-10 model: the lab's loop, a hand-written one, and the usual DataLoader script.

python scripts/benchmark_epoch.py --json benchmarks/epoch_cpu.json
"""

import argparse
import json
from pathlib import Path

from optizoo.lab.benchmark import epoch_benchmark, format_epochs
from optizoo.lab.data import load

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="data set; 'synthetic' needs no images")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write the record here")
    arguments = parser.parse_args()
    result = epoch_benchmark(
        load(arguments.data), batch_size=arguments.batch_size, repeats=arguments.repeats, device=arguments.device
    )
    print(format_epochs(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
