"""Fine-tuning speed of ours and of the peers on one CUDA device: each case in a process of its own, one after another.

    python benchmarks/finetune.py [--out FOLDER] [--seconds 540] [--only NAME …] [--profile] [--list] [--smoke]

Random weights in bf16 and random tokens; rank 64 on all linear layers, adapters in float32, dropout 0 unless it says
otherwise; AdamW with clipping, the loss read each step. Resumes as `pretrain.py` does. `--smoke` runs tiny shapes on
the processor, to see that all of it works; its figures mean nothing. The table comes last.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_SMOKE = "--smoke" in sys.argv
_DEVICE = "cpu" if _SMOKE else "cuda"
_SEQUENCE, _VOCABULARY, _RANK = (32, 512, 4) if _SMOKE else (2048, 151_936, 64)
_CAP = {"cap_bytes": 24e9, "activation_checkpointing": "full"}
_PACKED, _SAMPLE = ("flash", "mask"), 256
_WIDTHS = (10, 7, 8, 6, 9, 10, 10, 8, 9, 11, 9)


@dataclass(frozen=True)
class Case:
    """One row: who trains what.

    Attributes:
        who: `ours`, `loop` (transformers and peft in a plain loop) or `trainer` (`transformers.Trainer`).
        rows: of a step.
        method: its name; a peer has `full` and what `peft.LoraConfig` can be told.
        options: of the method, `dropout` also of a peer.
        settings: of ours; `compile` also of the plain loop; `autocast` of peers: to bf16, adapters too; `cap_bytes`:
            most that the allocator may hold; `packed_rows`: samples of 256 tokens in each row, kept apart by `flash`
            attention or by a `mask`.
        seconds: how long it takes at most, with compilation.
    """

    who: str
    size: str
    rows: int
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 90.0

    @property
    def name(self) -> str:
        """What the table calls it."""
        told = {**self.options, **self.settings}
        short = {"cap_bytes": "cap", "activation_checkpointing": "recompute", "base_precision": "base"}
        said = [f"{short.get(key, key)}={f'{value:g}' if key == 'cap_bytes' else value}" for key, value in told.items()]
        return " ".join([self.who, self.size, self.method, *said, f"rows={self.rows}"])


def cases() -> list[Case]:
    """Return the rows of the table."""
    compiled = {"compile": True}
    # As they come, peft's adapters compute in float32: that is the libraries' default, not the best of them.
    cast = {"compile": True, "autocast": True}
    casts: dict[str, list[dict[str, Any]]] = {"full": [], "lora": [cast], "dora": [cast]}
    found = []
    for size, rows in (("1.5b", 4), ("7b", 2)):
        slow = 60.0 if size == "7b" else 45.0
        for method in ("full", "lora", "dora"):
            found += [
                Case("loop", size, rows, method, seconds=slow),
                Case("loop", size, rows, method, settings=compiled, seconds=slow + 110),
                *[Case("loop", size, rows, method, settings=one, seconds=slow + 110) for one in casts[method]],
                Case("ours", size, rows, method, settings=compiled, seconds=slow),
            ]
        found += [Case("trainer", size, rows, method, seconds=slow) for method in ("full", "lora")]
        found.append(Case("trainer", size, rows, "lora", settings={"autocast": True}, seconds=slow))
        others = _others() if size == "1.5b" else []
        found += [Case("ours", size, rows, method, settings=compiled, seconds=slow) for method in others]
        for who in ("loop", "ours"):
            seconds = slow + 110 if who == "loop" else slow
            found.append(Case(who, size, rows, "lora", {"dropout": 0.1}, cast if who == "loop" else compiled, seconds))
    found += [Case("ours", "1.5b", 4, "lora", settings={"packed_rows": x, **compiled}, seconds=45) for x in _PACKED]
    packed = {"base_precision": "nf4"}
    found += [Case("ours", "14b", 1, method, settings=compiled, seconds=80) for method in ("lora", "rslora")]
    found.append(Case("ours", "14b", 1, "lora", settings={**packed, **compiled}, seconds=90))
    found.append(Case("ours", "7b", 1, "lora", settings={**compiled, **_CAP}, seconds=70))
    found.append(Case("ours", "7b", 1, "lora", settings={**packed, **compiled, **_CAP}, seconds=80))
    if not _SMOKE:
        return found
    # One size, nothing compiled, no caps: what is left is every way through this file.
    small = [replace(c, size="tiny", rows=2, settings={k: v for k, v in c.settings.items() if k not in ("compile", "cap_bytes")}) for c in found]  # fmt: skip # noqa: E501
    return list({case.name: case for case in small}.values())


def _others() -> list[str]:
    """Return the further methods that are here, by their names."""
    from efficientllm import catalog

    return [name for name in catalog.names("method") if name not in ("full", "lora", "dora", "lora_plus")]


def ours(case: Case) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return what takes a step and returns its loss, the model's counts, predicted memory, and counts to record."""
    import inspect

    import torch

    from efficientllm import registry
    from efficientllm.adapters._layer import AdaptedLinear
    from efficientllm.adapters.attach import attach
    from efficientllm.devices.choose import open_device
    from efficientllm.models.build import build_decoder
    from efficientllm.models.costs import facts
    from efficientllm.models.linear import Linear
    from efficientllm.planner.predict import predict_for
    from efficientllm.records.choice import Choice
    from efficientllm.records.finetune_settings import FinetuneSettings
    from efficientllm.training.loop import TrainLoop
    from efficientllm.training.tokens import StepTokens
    from random_text import RandomText

    told = dict(case.settings)
    if "cap_bytes" in told:
        share = told.pop("cap_bytes") / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(share)
    packed_rows = told.pop("packed_rows", None)
    if "base_precision" in told:
        told["base_precision"] = Choice(name=told["base_precision"])
    takes_rank = "rank" in inspect.signature(registry.load("method", case.method).attach).parameters
    method = Choice(name=case.method, options={**({"rank": _RANK} if takes_rank else {}), **case.options})
    settings = FinetuneSettings(
        size=case.size, method=method, dtype="bfloat16", weights_dtype="bfloat16", micro_batch=case.rows,
        sequence_tokens=_SEQUENCE, learning_rate=1e-5, tokens=10**10, **told,
    )  # fmt: skip
    device = open_device(_DEVICE)
    decoder = build_decoder(settings, vocab_tokens=_VOCABULARY, seed=0, device=_DEVICE, dtype=torch.bfloat16)
    attached = attach(decoder, settings, seed=0)
    bases = [layer.base for layer in decoder.modules() if isinstance(layer, AdaptedLinear)]
    if settings.base_precision and any(type(base) is Linear for base in bases):
        raise RuntimeError("the base was not packed, so the row would not be what it is called")
    decoder.train()
    text = RandomText(_VOCABULARY)
    batches = StepTokens(text, settings, device.torch_device(), 0)  # type: ignore[arg-type] # has what the loop reads
    if packed_rows:
        _pack(batches, packed_rows)
    loop = TrainLoop(decoder, settings, batches, device)
    counts = facts(decoder, 2, _SEQUENCE, trains_in=torch.bfloat16)
    layers, held_bytes = decoder.shape.num_layers, attached.held_bytes()
    predicted = predict_for(decoder, layers, settings, _DEVICE, held_bytes)
    told_of = {"parameters_trained": counts.parameters_trained, "predicted_lower_bound": bool(predicted.at_least)}
    return loop.step, counts, predicted.peak_bytes or None, told_of


def _pack(batches: Any, way: str) -> None:
    """Let each row be samples one after another."""
    from dataclasses import replace as changed

    import torch

    plain = batches.sent

    def sent(step: int) -> Any:
        found = plain(step)
        rows, length = found[0].tokens.shape
        ids = (torch.arange(length, device=_DEVICE) // _SAMPLE).int().expand(rows, -1)
        most = rows * -(-length // _SAMPLE) if way == "flash" else 0
        return [changed(batch, sequence_ids=ids, most_sequences=most) for batch in found]

    batches.sent = sent


def peer(case: Case) -> tuple[Any, None, None, dict[str, Any]]:
    """Return what takes a step of transformers' Qwen2 under peft: a plain loop, or the library's own."""
    import torch
    import transformers

    from efficientllm.models.shape import resolve_shape
    from efficientllm.records.model_settings import ModelSettings

    shape = resolve_shape(ModelSettings(size=case.size), _VOCABULARY)
    config = transformers.Qwen2Config(
        vocab_size=_VOCABULARY, hidden_size=shape.width, num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads, num_key_value_heads=shape.num_kv_heads,
        intermediate_size=shape.mlp_width, tie_word_embeddings=shape.tie_embeddings,
        max_position_embeddings=_SEQUENCE, use_cache=False,
    )  # fmt: skip
    with torch.device(_DEVICE):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    if case.method != "full":
        import peft

        lora = peft.LoraConfig(
            r=_RANK, lora_alpha=2 * _RANK, lora_dropout=case.options.get("dropout", 0.0), target_modules="all-linear",
            use_dora=case.method == "dora", task_type="CAUSAL_LM",
        )  # fmt: skip
        model = peft.get_peft_model(model, lora)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    step = by_trainer(model, case) if case.who == "trainer" else by_loop(model, trained, case)
    return step, None, None, {"parameters_trained": sum(parameter.numel() for parameter in trained)}


def by_loop(model: Any, trained: list[Any], case: Case) -> Any:
    """Return a step of a plain loop."""
    import torch

    run = torch.compile(model) if case.settings.get("compile") else model
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows = token_rows(case)

    def step() -> float:
        tokens = next(rows).to(_DEVICE, non_blocking=True)
        with torch.autocast(_DEVICE, torch.bfloat16, enabled=case.settings.get("autocast", False)):
            loss = run(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def by_trainer(model: Any, case: Case) -> Any:
    """Return a step of `transformers.Trainer`, which runs in a thread and waits before each.

    The thread is stopped and waited for at the process' end: torch aborts a process that ends amid a thread's step.
    """
    import torch
    import transformers

    turns, losses, ended = threading.Semaphore(0), queue.Queue[Any](), threading.Event()

    class Turns(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turns.acquire()
            control.should_training_stop = ended.is_set()  # after this step, which nobody measures

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                losses.put(float(logs["loss"]))

    class Rows(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            for tokens in token_rows(replace(case, rows=1)):
                yield {"input_ids": tokens[0], "labels": tokens[0]}

    arguments = transformers.TrainingArguments(
        output_dir="/tmp/efficientllm-trainer", per_device_train_batch_size=case.rows, max_steps=10**6,
        logging_steps=1, save_strategy="no", report_to=[], optim="adamw_torch_fused", learning_rate=1e-5,
        max_grad_norm=1.0, weight_decay=0.1, disable_tqdm=True, use_cpu=_SMOKE,
        bf16=case.settings.get("autocast", False),
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[Turns()])

    def train() -> None:
        try:
            trainer.train()
        except BaseException as error:  # noqa: BLE001 - raised by who waits for the step
            losses.put(error)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        turns.release()
        thread.join()

    atexit.register(end)

    def step() -> float:
        turns.release()
        said = losses.get()
        if isinstance(said, BaseException):
            raise said
        return float(said)

    return step


def token_rows(case: Case) -> Any:
    """Yield a step's rows after another."""
    import itertools

    import numpy as np
    import torch

    from random_text import RandomText

    text = RandomText(_VOCABULARY)
    for first in itertools.count(0, case.rows):
        yield torch.from_numpy(text.rows(np.arange(first, first + case.rows) * _SEQUENCE, _SEQUENCE)[:, :-1].copy())


def make(case: Case) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Return a case's step, counts, predicted memory of ours, and more to record."""
    return ours(case) if case.who == "ours" else peer(case)


def print_table(out: Path) -> None:
    """Print all that is stored: each against our LoRA of that size, and against the compiled loop of that method."""
    by_name = {r["name"]: r for r in (json.loads(file.read_text()) for file in sorted(out.glob("*.json")))}
    order = [by_name[case.name] for case in cases() if case.name in by_name]
    good = [record for record in order if "failed" not in record]
    peaks = [r["matmul_peak_flops"] for r in by_name.values() if "matmul_peak_flops" in r]
    print(f"rows of {_SEQUENCE} tokens, vocabulary {_VOCABULARY}, rank {_RANK}; matmul_peak {peaks}")
    heads = ("tokens/s", "GB", "mJ/tok", "W", "start s", "trained M", "time", "memory", "joules", "x loop", "GB ratio")
    print(f"{'case':58}" + "".join(f"{head:>{width}}" for head, width in zip(heads, _WIDTHS, strict=True)))
    print(f"{'':58}{'':{sum(_WIDTHS[:6])}}{'against our lora of the size':>29}{'against the loop':>19}")
    for record in order:
        if "failed" in record:
            print(f"{record['name'][:57]:58}{record['failed'][:90]}")
            continue
        lora = _plain(good, "ours", record, "lora")
        loop = _best_loop(good, record)
        told = (
            f"{record['tokens_per_s']:,.0f}", f"{record['peak_bytes'] / 1e9:.1f}",
            f"{1e3 * record['energy_per_token_j']:.2f}", f"{record['power_mean_w']:.0f}", f"{record['startup_s']:.1f}",
            f"{record['parameters_trained'] / 1e6:.1f}",
            _ratio(lora, record, "tokens_per_s"), _ratio(record, lora, "peak_bytes"),
            _ratio(record, lora, "energy_per_token_j"), _ratio(record, loop, "tokens_per_s"),
            _ratio(record, loop, "peak_bytes"),
        )  # fmt: skip
        print(
            f"{record['name'][:57]:58}" + "".join(f"{one:>{width}}" for one, width in zip(told, _WIDTHS, strict=True))
        )


def _plain(records: list[dict[str, Any]], who: str, like: dict[str, Any], method: str) -> dict[str, Any] | None:
    """Return the compiled case of a method at the same size and rows and with no further options."""
    wanted = {"who": who, "size": like["size"], "rows": like["rows"], "method": method, "options": {}}
    settings = {} if _SMOKE else {"compile": True}
    return next((r for r in records if {key: r[key] for key in wanted} == wanted and r["settings"] == settings), None)


def _best_loop(records: list[dict[str, Any]], like: dict[str, Any]) -> dict[str, Any] | None:
    """Return the fastest compiled loop of a record's method and options, at the same size and rows."""
    keys = ("size", "rows", "method", "options")
    loops = [r for r in records if r["who"] == "loop" and (_SMOKE or r["settings"].get("compile"))]
    same = [r for r in loops if all(r[key] == like[key] for key in keys)]
    return max(same, key=lambda r: float(r["tokens_per_s"]), default=None)


def _ratio(above: dict[str, Any] | None, below: dict[str, Any] | None, key: str) -> str:
    return f"{above[key] / below[key]:.2f}" if above and below and below[key] else "-"


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", "/tmp/efficientllm-inductor")
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH", "")]))
    from measured import Bench, arguments, go

    parser = arguments(__doc__, "/tmp/efficientllm-finetune" + "-smoke" * _SMOKE)
    parser.add_argument("--smoke", action="store_true")
    go(Bench(__file__, _SEQUENCE, cases(), make, print_table, _DEVICE), parser.parse_args())
