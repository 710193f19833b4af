#!/usr/bin/env bash
# Everything that needs a CUDA device, in one go and under eight minutes: equality, GPU tests, both benchmarks, a training.
#
#     scripts/gpu_check.sh                 # records go to benchmarks/
#     OUT=records PYTHON=python3.12 OPTIZOO_DATA=path/to/images scripts/gpu_check.sh
#
# A part that fails or runs out of time does not stop the others; the exit status says whether all passed.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
out=${OUT:-benchmarks}
export PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out"

"$python" -c '
import sys, torch
if not torch.cuda.is_available():
    sys.exit("no CUDA device is visible to torch; run this on a machine that has one")
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {sys.version.split()[0]}")
' || exit 2

# CIFAR-10 where its images are at hand; the time of a step does not depend on what the pictures show.
data=cifar10
if [[ -z "${OPTIZOO_DATA:-}" && ! -d data ]]; then
    data=synthetic
    echo "no images: set OPTIZOO_DATA to their folder; benchmark and training take synthetic ones"
fi

summary=()
failed=0

part() { # NAME SECONDS COMMAND...: run the command, for so long at most, and note how it ended
    local name=$1 limit=$2 start=$SECONDS status=0 verdict=passed
    shift 2
    printf '\n== %s\n' "$name"
    timeout --kill-after=5 "$limit" "$@" || status=$?
    if ((status == 124 || status == 137)); then
        verdict="stopped after its $limit s"
    elif ((status)); then
        verdict="failed with status $status"
    fi
    ((status)) && failed=1
    summary+=("$(printf '%-10s %4d s  %s' "$name" $((SECONDS - start)) "$verdict")")
}

# 110 + 110 + 140 + 75 + 40 = 475 seconds at most.
part tests 110 "$python" -m pytest -q -m gpu tests
part verify 110 "$python" -m optizoo.cli verify --device cuda --steps 30 --json "$out/verify_cuda.json"
part step 140 "$python" scripts/benchmark_step.py --device cuda --json "$out/step_cuda.json"
part epoch 75 "$python" scripts/benchmark_epoch.py --device cuda --model linear two_layer --data "$data" --json "$out/epoch_cuda.json"
part train 40 "$python" -m optizoo.cli train configs/cifar10_linear_train.toml --out "$scratch/train" --no-progress \
    --train.device cuda --data.name "$data"

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
