"""``optizoo bench step`` and ``optizoo bench epoch``."""

import argparse
import sys

from optizoo.cli import arguments
from optizoo.cli.errors import UsageError
from optizoo.zoo import list_optimizers


def step(options: argparse.Namespace) -> int:
    """Time one step of every optimizer."""
    arguments.require_lab()
    from optizoo.lab import step_benchmark as bench
    from optizoo.testing import has_torch_twin

    if options.references:
        return _bench_references(options)
    optimizers = arguments.chosen("--optimizer", options.optimizer, [*filter(has_torch_twin, list_optimizers())])
    workloads = arguments.chosen("--workload", options.workload, bench.WORKLOADS)
    chosen = {name: bench.WORKLOADS[name] for name in workloads or bench.WORKLOADS}
    if not any(each.serves(name) for each in chosen.values() for name in optimizers or bench.OPTIMIZERS):
        raise UsageError(
            f"--workload {' '.join(chosen)} has sparse gradients, which {' and '.join(optimizers)} cannot take; "
            f"--optimizer may be {', '.join(bench.SPARSE)}"
        )
    device = arguments.device(options.device)
    arguments.check_file(options.json)
    _say_what_is_kept(options)
    record = bench.step_benchmark(
        optimizers=optimizers or bench.OPTIMIZERS,
        workloads=chosen,
        repeats=options.repeats,
        threads=options.threads,
        device=device,
        dtype=arguments.dtypes([options.dtype])[0],
        file=options.json,
        progress=sys.stderr.isatty(),
    )
    print(bench.format_summary(record))
    return 0


def _say_what_is_kept(options: argparse.Namespace) -> None:
    from optizoo.lab.files import is_stream, unfinished

    if options.json is not None and not is_stream(options.json):
        options.how_to_go_on = f": {unfinished(options.json)} has the cells that were finished"


def _bench_references(options: argparse.Namespace) -> int:
    from optizoo.lab import reference_benchmark
    from optizoo.lab.step_benchmark import WORKLOADS

    if options.device != "cpu" or options.dtype != "float32":
        raise UsageError("--references times steps on the CPU in float32; leave out --device and --dtype")
    optimizers = arguments.chosen("--optimizer", options.optimizer, list_optimizers())
    workloads = arguments.chosen(
        "--workload", options.workload, [name for name, each in WORKLOADS.items() if not each.batch]
    )
    arguments.check_file(options.json)
    _say_what_is_kept(options)
    record = reference_benchmark.reference_benchmark(
        optimizers=optimizers or (),
        workloads=workloads or reference_benchmark.WORKLOADS,
        repeats=options.repeats,
        threads=options.threads,
        file=options.json,
        progress=sys.stderr.isatty(),
    )
    if not record["cells"]:
        raise UsageError("nothing to compare with is installed; pip install 'optizoo[oracles]'")
    print(reference_benchmark.format_references(record))
    return 0


def epoch(options: argparse.Namespace) -> int:
    """Time an epoch of a model."""
    arguments.require_lab()
    from optizoo.lab import benchmark, data
    from optizoo.lab.files import write_json
    from optizoo.lab.models import list_models

    models = arguments.chosen("--model", options.model, list_models()) or ["linear"]
    arguments.check_file(options.json)
    arguments.training_device(options.device)
    dataset = data.load(options.data)
    settings = {"batch_size": options.batch_size, "repeats": options.repeats, "device": options.device}
    if options.runs is None:
        result = benchmark.epoch_benchmark(dataset, models=models, **settings)
        print(benchmark.format_epochs(result))
    else:
        result = benchmark.population_benchmark(dataset, models=models, runs=options.runs, **settings)
        print(benchmark.format_populations(result))
    if options.json is not None:
        write_json(options.json, result)
    return 0
