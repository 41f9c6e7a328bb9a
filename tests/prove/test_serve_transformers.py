"""A model that is trained here, served by `transformers serve`, measured from the command line: the whole way, for real."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from efficientllm.store.folder import Study

pytestmark = pytest.mark.prove

SERVER = (
    f"{sys.executable} -m transformers.cli.transformers serve {{model}} --port {{port}} --device cpu --dtype {{dtype}}"
)
RECIPE = f"""
name: served
protocol: smoke
repeats: 1
stages:
  - name: pretrain
    workload: pretrain
    shape: {{num_layers: 2, width: 64, num_heads: 2, num_kv_heads: 1, head_dim: 32, mlp_width: 96}}
    corpus: stdlib
    vocab_tokens: 512
    sequence_tokens: 64
    micro_batch: 2
    tokens: 2560
    learning_rate: 1e-3
    heldout_tokens: 512
    axes: {{mixer: [gqa]}}
  - name: serve
    workload: serve
    from: pretrain
    requests: 20
    command: "{SERVER}"
    loads:
      - {{concurrency: 1, tokens: 32, new_tokens: 16}}
      - {{concurrency: 4, tokens: 32, new_tokens: 16}}
      - {{per_minute: 120, tokens: 32, new_tokens: 16}}
"""


def test_a_trained_model_is_measured_through_transformers_serve(tmp_path):
    (tmp_path / "served.yaml").write_text(RECIPE)
    words = [sys.executable, "-m", "efficientllm.cli.main", "run", "served.yaml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=600, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "End to end" in done.stdout
    (served,) = [m for m in Study(tmp_path / "results", "served").read_all()[0] if m.trial.stage == "serve"]
    assert (served.outcome, served.reason) == ("ok", "")
    windows = [window for window in served.windows if window.name == "serve"]
    assert [window.outcome for window in windows] == ["ok"] * 3
    for window in windows:
        requests, first = window.find("request_s").values, window.find("ttft_s").values
        assert len(requests) == len(first) == 20
        assert all(0 < ttft <= whole for ttft, whole in zip(first, requests, strict=True))
        assert window.figures["failed_requests"] == 0
        assert 0 < window.figures["new_tokens_mean"] <= 16
        assert 25 < window.figures["prompt_tokens_mean"] < 40  # ours were 32, and the server has the same tokenizer
        # the server's libraries are in the watched memory: a client alone stays below
        assert max(window.find("process_memory_bytes").values) - served.figures["memory_baseline_bytes"] > 1e8
    assert "no log-probabilities" in served.find("quality").absent["heldout_bits_per_byte"]
    # this server knows no ignore_eos, and the reader is told
    assert "end_of_text" in {caution.code for caution in served.cautions}
