#!/usr/bin/env bash
# What a visit to a machine with two GPUs shows: links, 1.5b on one and on two, 1.5b with 8 experts on two, the same
# losses, and a recipe by the command line. Under 8 minutes. Resumes: a part whose file is there is not run again.
#
#   benchmarks/two_gpus.sh OUT [RESULTS]
set -uo pipefail
out=$1 results=${2:-/tmp/efficientllm-two-gpus} here="$(cd "$(dirname "$0")" && pwd)"
export PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 COLUMNS=120
mkdir -p "$out"
part() {  # NAME RANKS SECONDS PART [MORE]: one part on so many ranks
  local name=$1 ranks=$2 limit=$3 what=$4; shift 4
  [[ -s $out/$name.json ]] && return
  echo "== $name"
  time timeout "$limit" python3 -m torch.distributed.run --standalone --nproc-per-node "$ranks" \
    "$here/two_gpus.py" "$what" "$out/$name.json" "$@" || echo "$name: failed ($?)"
}
{
  nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader
  nvidia-smi topo -m
  part links 2 60 links
  part train-1.5b-1 1 110 train 1.5b 8
  part train-1.5b-2 2 110 train 1.5b 8
  part losses-1 1 90 losses
  part losses-2 2 90 losses
  part train-1.5bx8-2 2 150 train 1.5bx8 2
  if [[ ! -s $out/records.json ]]; then
    time timeout 150 python3 -m efficientllm.cli.main run "$here/two_gpus.yaml" --results "$results"
    python3 -m efficientllm.cli.main query --study two-gpus --results "$results" --json "SELECT m.technique,
      m.outcome, f.name, f.value FROM figures f JOIN measurements m USING (measurement) WHERE f.name LIKE '%energy_j'
      OR f.name LIKE '%allocated_peak_bytes' OR f.name LIKE 'communication%'" | tee "$out/records.json"
  fi
  python3 "$here/two_gpus.py" table "$out"
} 2>&1 | tee -a "$out/log.txt"
