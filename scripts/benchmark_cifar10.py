"""Run the CIFAR-10 comparisons and keep their results, without the curves of every run, under ``benchmarks/``.

    OPTIZOO_DATA=path/to/images python scripts/benchmark_cifar10.py
    python scripts/benchmark_cifar10.py configs/cifar10_linear.toml --runs runs

A comparison that was interrupted goes on where it stopped, and one that is complete is only copied.
"""

import argparse
from pathlib import Path

from optizoo.lab.benchmark import keep_comparison
from optizoo.lab.compare import compare
from optizoo.lab.config import load_compare

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [ROOT / "configs" / f"cifar10_{name}.toml" for name in ("linear", "two_layer", "schedules")]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", type=Path, default=CONFIGS)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the run folders lie")
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks", help="where the results are kept")
    arguments = parser.parse_args()
    for path in arguments.configs:
        config = load_compare(path)
        result = compare(config, arguments.runs / config.name)
        keep_comparison(result, arguments.to / config.name)
        print(result.table, end="\n\n")
