#!/usr/bin/env bash
# What a visit to a CUDA machine proves of the meters: docs/measuring.md. Resumes: what is stored is not measured again.
#
#   benchmarks/measuring_visit.sh OUT [RESULTS]
set -uo pipefail
out=$1 results=${2:-/tmp/efficientllm-measuring} here="$(dirname "$0")"
export PYTHONPATH="$(cd "$here/../src" && pwd)${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 COLUMNS=120
cli() { python3 -m efficientllm.cli.main "$@"; }
{
  nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader
  cli doctor --device cuda
  time cli calibrate --device cuda --results "$results"
  python3 "$here/measuring_proof.py" "$results"
  cli run "$here/ten_processes.yaml" --results "$results"
  python3 "$here/repeats_proof.py" "$results"
} 2>&1 | tee "$out/log.txt"
for study in measuring ten-processes; do cli bundle "$study" --results "$results" -o "$out/$study.tar.xz"; done
cp "$results"/calibration/measurements/*.json "$out/" 2>/dev/null
