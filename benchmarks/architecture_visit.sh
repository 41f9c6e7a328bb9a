#!/usr/bin/env bash
# What a visit to a CUDA machine checks of the architectures: every mixer's kernels and captured decode, every mixer ×
# position × mlp at 0.5b, the mixture of experts, what positions cost. Resumes: what is stored is not measured again.
#
#   benchmarks/architecture_visit.sh OUT [RESULTS] [PART …]        parts: mixers coverage nsa moe positions tests
set -uo pipefail
out=$1 results=${2:-/tmp/efficientllm-architecture} here="$(dirname "$0")"
shift $(($# < 2 ? $# : 2))
parts=" ${*:-mixers coverage nsa moe positions tests} "
export PYTHONPATH="$(cd "$here/../src" && pwd)${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 COLUMNS=120
cli() { python3 -m efficientllm.cli.main "$@"; }
wanted() { [[ $parts == *" $1 "* ]]; }
{
  nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader
  if wanted mixers; then time python3 "$here/cuda_check.py"; fi
  if wanted coverage; then time timeout 430 python3 -m efficientllm.cli.main run architecture/coverage --results "$results"; fi
  if wanted nsa; then time timeout 120 python3 "$here/cuda_nsa.py"; fi
  if wanted moe; then time timeout 200 python3 "$here/cuda_moe.py"; fi
  if wanted positions; then time python3 "$here/cuda_positions.py" 0.5b; fi
  if wanted tests; then
    time (cd "$here/.." && python3 -m pytest -q -x --maxfail=10 -p no:cacheprovider tests/test_engines_contract.py \
      tests/test_engines_positions.py tests/test_positions_contract.py -m "not prove")
  fi
} 2>&1 | tee "$out/log.txt"
if wanted coverage; then cli bundle architecture-coverage --results "$results" -o "$out/architecture-coverage.tar.xz"; fi
