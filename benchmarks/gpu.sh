#!/usr/bin/env bash
# On a machine with a CUDA device: builds in place, runs the tests on the GPU and the GPU benchmarks,
# and writes benchmarks/results/DEVICE-DATE.json. It needs no network, but Python with torch, triton,
# pytest, hypothesis, pybind11, cmake and ninja; it takes less than ten minutes.
#
#     benchmarks/gpu.sh [--results FOLDER] [--rounds N] [--skip-tests]
#
# PYTHON names another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
tests=yes
arguments=()

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0"
}

while (($#)); do
  case $1 in
    --results | --rounds)
      if (($# < 2)); then
        echo "gpu.sh: $1 needs a value" >&2
        exit 2
      fi
      arguments+=("$1" "$2")
      shift 2
      ;;
    --skip-tests)
      tests=no
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      echo "gpu.sh: there is no option $1" >&2
      usage >&2
      exit 2
      ;;
  esac
done

for module in torch triton pybind11; do
  if ! "$python" -c "import importlib.util as i, sys; sys.exit(not i.find_spec('$module'))"; then
    echo "gpu.sh: $python has no $module; PYTHON=... names another interpreter" >&2
    exit 1
  fi
done
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "gpu.sh: torch finds no CUDA device, and there is nothing to measure without one" >&2
  exit 1
fi
unset TRITON_INTERPRET HOOKRUN_BACKEND

# What is left of ten minutes, in seconds. The first tests also import torch, start CUDA and compile
# the kernels. The figures come last and are kept one by one, so they get all that is left.
limit=580
left() {
  local rest=$((limit - SECONDS - $1))
  echo $((rest > 1 ? rest : 1))
}
figures=200 # seconds that are kept for them, however long the tests take
SECONDS=0

timeout "$(left $((figures + 240)))" "$python" -m pip install --quiet --no-build-isolation --no-deps -e .
failed=0
if [[ $tests == yes ]]; then
  # A test that fails does not keep the figures from being measured, but shows in the exit status.
  mapfile -t marked < <(grep --recursive --files-with-matches --include='test_*.py' 'mark\.gpu' tests)
  timeout "$(left $((figures + 120)))" "$python" -m pytest -m gpu "${marked[@]}" || failed=1
  timeout "$(left $figures)" "$python" -m pytest tests/ops/test_device_step.py tests/kernels/triton \
    --deselect tests/kernels/triton/test_compiled.py || failed=1
fi
timeout "$(left 0)" "$python" benchmarks/bench_gpu.py ${arguments[@]+"${arguments[@]}"}
exit "$failed"
