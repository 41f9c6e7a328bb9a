#!/usr/bin/env bash
# What a visit to a GPU machine checks and brings home: the doctor's table, the ceilings, every mixer's captured decode,
# and the quickstart with its bundle and page. Resumes: what is stored in the results folder is not measured again.
#
#   benchmarks/gpu_visit.sh OUT [RESULTS]
set -uo pipefail
out=$1 results=${2:-/tmp/efficientllm-results}
export PYTHONPATH="$(cd "$(dirname "$0")/../src" && pwd)${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 COLUMNS=120
cli() { python3 -m efficientllm.cli.main "$@"; }
{
  nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader
  cli doctor --device cuda
  cli calibrate --device cuda --results "$results"
  python3 "$(dirname "$0")/cuda_check.py"
  cli run quickstart --results "$results"
} 2>&1 | tee "$out/log.txt"
cli bundle quickstart --results "$results" -o "$out/quickstart.tar.xz"
cp "$results/quickstart/report.html" "$out/report.html"
cp "$results"/calibration/measurements/*.json "$out/" 2>/dev/null
tail -n 60 "$out/log.txt"
