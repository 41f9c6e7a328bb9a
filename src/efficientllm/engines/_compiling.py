"""How torch.compile is told to treat a grid of shapes."""

from __future__ import annotations

import torch


def compile_each_window() -> None:
    """Let torch compile once for each shape of a grid, and fail where it would go on uncompiled without a word."""
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.fail_on_recompile_limit_hit = True
