"""What a forger may do to a bundle: each kind edits records, and makes every hash and id anew where one could.

`DETECTED` must be refused, each and every time. `UNDETECTABLE` passes: recomputation cannot know better, and
docs/validation.md says of each why. `JUNK` may do either, and must never end in a traceback.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable
from typing import Any

from tests.submissions import RECIPE, bundled, records_of, rehashed, series_of, window_of, with_recipe

Files = dict[str, bytes]
Bundle = list[tuple[str, bytes]]
Record = dict[str, Any]
Forgery = Callable[[random.Random, Files], Bundle]

DETECTED: dict[str, Forgery] = {}
UNDETECTABLE: dict[str, Forgery] = {}
JUNK: dict[str, Forgery] = {}


def _of_one(edit: Callable[[random.Random, Record], None], *, everywhere: bool = False) -> Forgery:
    """Turn an edit of one record (or of each) into a forgery with all ids and hashes made anew."""

    def forge(rng: random.Random, files: Files) -> Bundle:
        records = records_of(files)
        for record in records if everywhere else [rng.choice(records)]:
            edit(rng, record)
        return bundled(rehashed(records, files))

    return forge


def detected(name: str, *, everywhere: bool = False):
    """Name an edit of a record that recomputation finds."""

    def add(edit: Callable[[random.Random, Record], None]):
        DETECTED[name] = _of_one(edit, everywhere=everywhere)
        return edit

    return add


def undetectable(name: str, *, everywhere: bool = False):
    """Name an edit of a record that no recomputation can find."""

    def add(edit: Callable[[random.Random, Record], None]):
        UNDETECTABLE[name] = _of_one(edit, everywhere=everywhere)
        return edit

    return add


def whole(name: str, into: dict[str, Forgery]):
    """Name a forgery of the whole study."""

    def add(forge: Forgery):
        into[name] = forge
        return forge

    return add


def _scale(rng: random.Random, least: float = 0.05, most: float = 0.6) -> float:
    """Return a factor visibly below or above 1."""
    by = rng.uniform(least, most)
    return 1 - by if rng.random() < 0.5 else 1 + by


# edited values -------------------------------------------------------------------------------------------------------

FIGURES = {
    "memory peak": ("train", "process_memory_peak_bytes"),
    "memory low": ("train", "process_memory_low_bytes"),
    "energy": ("train", "energy_j"),
    "energy of the counter": ("quality", "energy_snapped_j"),
    "net energy": ("train", "energy_net_j"),
    "mean power": ("train", "power_mean_w"),
    "peak power": ("train", "power_instant_peak_w"),
    "cross-check": ("train", "cross_check_ratio"),
    "counter updates": ("train", "num_energy_updates"),
    "bits per byte": ("quality", "heldout_bits_per_byte"),
    "perplexity": ("quality", "heldout_perplexity"),
    "loss": ("quality", "heldout_nats_per_token"),
    "held-out bytes": ("quality", "heldout_bytes"),
    "sampler's cost": ("train", "sampler_cost_ratio"),
}


def _edit_figure(window: str, name: str):
    def edit(rng: random.Random, record: Record) -> None:
        window_of(record, window)["figures"][name] *= _scale(rng)

    return edit


for _name, (_window, _figure) in FIGURES.items():
    DETECTED[f"edited value: {_name}"] = _of_one(_edit_figure(_window, _figure))


@detected("edited value: mean memory below its series")
def _mean_lowered(rng, record):
    window_of(record, "train")["figures"]["process_memory_mean_bytes"] *= 1 - rng.uniform(0.1, 0.9)


@detected("edited value: energy and all that follows from it, without the counter's series")
def _energy_lowered(rng, record):
    window, factor = window_of(record, "train"), _scale(rng)
    figures = window["figures"]
    for name in ("energy_j", "power_mean_w", "energy_snapped_j", "energy_integrated_j"):
        figures[name] *= factor
    figures["energy_net_j"] = figures["energy_j"] - 80.0 * (window["end_s"] - window["begin_s"])


@detected("edited value: quality and all that follows from it, without the rows")
def _quality_improved(rng, record):
    figures, factor = window_of(record, "quality")["figures"], 1 - rng.uniform(0.05, 0.5)
    figures["heldout_nats_per_token"] *= factor
    figures["heldout_bits_per_byte"] *= factor
    figures["heldout_perplexity"] **= factor


@detected("edited value: a trial's figure")
def _trial_figure(rng, record):
    record["figures"][rng.choice(["first_loss", "tokens_fed", "startup_s", "idle_power_w"])] *= _scale(rng)


@detected("edited value: the work of one repeat")
def _work(rng, record):
    work = window_of(record, "train")["work"]
    name = rng.choice(["tokens", "model_flops", "moved_bytes", "samples"])
    work[name] = type(work[name])(work[name] * 2)


@detected("edited value: the model of one repeat")
def _model(rng, record):
    record["model"][rng.choice(["parameters_total", "weight_bytes", "disk_bytes"])] += rng.randrange(1, 10**6)


@detected("edited value: the ceilings of one record")
def _ceilings(rng, record):
    record["ceilings"][rng.choice(["read_bytes_per_s", "copy_bytes_per_s"])] *= _scale(rng)


@detected("edited value: ceilings above the datasheet, in all records", everywhere=True)
def _ceilings_above(rng, record):
    record["ceilings"]["copy_bytes_per_s"] = 5e12


@detected("edited value: work above the card's peak, in all records", everywhere=True)
def _impossible_work(rng, record):
    window_of(record, "train")["work"]["model_flops"] = 1e15


@detected("edited value: marked ok with a code of what is impossible")
def _codes(rng, record):
    record["invalid_codes"] = ["flops_above_peak"]


@detected("edited value: a failure without a reason")
def _failed(rng, record):
    record["outcome"] = rng.choice(["oom", "diverged", "crashed", "unsupported"])


@detected("edited value: a setting")
def _setting(rng, record):
    record["trial"]["settings"]["learning_rate"] *= _scale(rng)


@detected("edited value: the token budget")
def _budget(rng, record):
    record["trial"]["settings"]["tokens"] += rng.randrange(1, 5000)


@detected("edited value: the protocol")
def _protocol(rng, record):
    record["trial"]["protocol"]["min_window_s"] = rng.uniform(0.1, 4.0)


@detected("edited value: the seed")
def _seed(rng, record):
    record["trial"]["seed"] += rng.randrange(2, 100)


@detected("edited value: a parent that is not there")
def _parent(rng, record):
    record["trial"]["parent"] = "0123456789abcdef"


@detected("edited value: a version or an outcome that nobody knows")
def _version(rng, record):
    if rng.random() < 0.5:
        record["trial"]["protocol_version"] = rng.choice([0, -1, 99])
    else:
        record["outcome"], record["reason"] = "excellent", "it was"


# edited series -------------------------------------------------------------------------------------------------------


@detected("edited series: one step made longer")
def _longer(rng, record):
    values = series_of(window_of(record, "train"), "step_s")["values"]
    values[rng.randrange(len(values))] *= 1 + rng.uniform(0.02, 3.0)


@detected("edited series: all steps made longer")
def _all_longer(rng, record):
    one = series_of(window_of(record, "train"), "step_s")
    factor = 1 + rng.uniform(0.02, 1.0)
    one["values"] = [value * factor for value in one["values"]]


@detected("edited series: all steps made shorter by more than a tenth")
def _all_shorter(rng, record):
    one = series_of(window_of(record, "train"), "step_s")
    factor = 1 - rng.uniform(0.12, 0.9)
    one["values"] = [value * factor for value in one["values"]]


@detected("edited series: a step left out")
def _left_out(rng, record):
    one = series_of(window_of(record, "train"), "step_s")
    place = rng.randrange(len(one["values"]))
    del one["values"][place], one["at_s"][place]


@detected("edited series: a loss left out")
def _loss_left_out(rng, record):
    one = series_of(window_of(record, "curve"), "loss")
    place = rng.randrange(len(one["values"]))
    del one["values"][place], one["at_s"][place]


@detected("edited series: the first loss")
def _first_loss(rng, record):
    series_of(window_of(record, "curve"), "loss")["values"][0] *= _scale(rng)


@detected("edited series: a row of the held-out text")
def _row(rng, record):
    values = series_of(window_of(record, "quality"), "row_nats")["values"]
    values[rng.randrange(len(values))] *= _scale(rng)


@detected("edited series: memory held")
def _memory(rng, record):
    one, factor = series_of(window_of(record, "train"), "process_memory_bytes"), _scale(rng)
    one["values"] = [value * factor for value in one["values"]]


@detected("edited series: the energy counter")
def _counter(rng, record):
    one, factor = series_of(window_of(record, "train"), "energy_j"), _scale(rng)
    one["values"] = [value * factor for value in one["values"]]


@detected("edited series: a time put back")
def _time(rng, record):
    one = rng.choice(window_of(record, rng.choice(["train", "quality", "curve"]))["series"])
    place = rng.randrange(1, len(one["at_s"]))
    one["at_s"][place] = one["at_s"][place - 1] - rng.uniform(0.01, 1.0)


@detected("edited series: more values than times")
def _uneven(rng, record):
    one = rng.choice(window_of(record, "train")["series"])
    one["values"].append(one["values"][-1])


@detected("edited series: a window moved away from its series")
def _moved(rng, record):
    window = window_of(record, "train")
    by_s = rng.uniform(0.5, 3.0)
    window["begin_s"], window["end_s"] = window["begin_s"] + by_s, window["end_s"] + by_s


@detected("edited series: a window left out")
def _no_window(rng, record):
    left = rng.choice(["train", "curve", "quality"])
    record["windows"] = [window for window in record["windows"] if window["name"] != left]


@detected("edited series: energy left out without a reason")
def _no_energy(rng, record):
    window = window_of(record, "train")
    window["series"] = [one for one in window["series"] if one["name"] != "energy_j"]
    del window["figures"]["energy_j"]


@detected("edited series: warm-up left out")
def _no_warm_up(rng, record):
    del record["phases_s"]["warmup"]


# dropped and duplicated trials ---------------------------------------------------------------------------------------


def _remade(edit: Callable[[random.Random, list[Record]], None]) -> Forgery:
    def forge(rng: random.Random, files: Files) -> Bundle:
        records = records_of(files)
        edit(rng, records)
        return bundled(rehashed(records, files))

    return forge


def _later(record: Record, minutes: int) -> None:
    record["started_at"] = f"2026-11-22T22:{minutes:02d}:05+00:00"


def _drop(rng, records):
    del records[rng.randrange(len(records))]


def _drop_round(rng, records):
    gone = rng.choice([0, 1])
    records[:] = [record for record in records if record["trial"]["repeat"] != gone]


def _drop_technique(rng, records):
    gone = rng.choice(["mha", "mqa"])
    records[:] = [record for record in records if record["trial"]["axes"]["mixer"] != gone]


def _another_attempt(rng, records):
    again = copy.deepcopy(rng.choice(records))
    again["id"] = f"{again['id'][:-1]}1"
    _later(again, rng.randrange(60))
    for window in again["windows"]:
        for one in window["series"]:
            one["values"] = [value * (1 + rng.uniform(0, 1e-6)) for value in one["values"]]
    records.append(again)


def _second_attempt_alone(rng, records):
    record = rng.choice(records)
    record["id"] = f"{record['id'][:-1]}1"


def _another_repeat(rng, records):
    again = copy.deepcopy(rng.choice(records))
    again["trial"]["repeat"], again["trial"]["seed"] = 2, 2
    _later(again, rng.randrange(60))
    records.append(again)


def _one_run_for_two(rng, records):
    name = rng.choice(["mha", "mqa"])
    one, other = (record for record in records if record["trial"]["axes"]["mixer"] == name)
    for key in ("windows", "figures", "phases_s"):
        other[key] = copy.deepcopy(one[key])


def _one_run_scaled(rng, records):
    _one_run_for_two(rng, records)
    name = rng.choice(records)["trial"]["axes"]["mixer"]
    one = next(record for record in records if record["trial"]["axes"]["mixer"] == name)
    steps, factor = series_of(window_of(one, "train"), "step_s"), 1 - rng.uniform(0.0001, 0.01)
    steps["values"] = [value * factor for value in steps["values"]]


def _at_once(rng, records):
    one, other = rng.sample(records, 2)
    other["started_at"] = one["started_at"]


for _name, _edit in {
    "dropped trial": _drop,
    "dropped trial: a whole round": _drop_round,
    "dropped trial: a whole technique": _drop_technique,
    "dropped trial: the first attempt": _second_attempt_alone,
    "duplicated trial: as another attempt": _another_attempt,
    "duplicated trial: as another repeat": _another_repeat,
    "duplicated trial: one process for two repeats": _one_run_for_two,
    "duplicated trial: one process for two repeats, scaled": _one_run_scaled,
    "duplicated trial: two processes at the same time": _at_once,
}.items():
    DETECTED[_name] = _remade(_edit)


# changed machine -----------------------------------------------------------------------------------------------------


@detected("changed machine: another name for one record's device")
def _device_name(rng, record):
    record["environment"]["devices"][0]["name"] = rng.choice(["NVIDIA H100 80GB HBM3", "NVIDIA L4", "Mine"])


@detected("changed machine: another device for one record")
def _device_uuid(rng, record):
    record["environment"]["devices"][0]["uuid"] = f"GPU-{rng.getrandbits(64):016x}"


@detected("changed machine: another software for one record")
def _software(rng, record):
    record["environment"]["libraries"]["torch"] = "2.99.0"


@detected("changed machine: of another kind, in all records", everywhere=True)
def _device_kind(rng, record):
    record["environment"]["devices"][0]["kind"] = "cpu"


@detected("changed machine: a card that cannot do what was measured, in all records", everywhere=True)
def _weaker_card(rng, record):
    record["environment"]["devices"][0]["name"] = "NVIDIA L4"


@detected("changed machine: a device too small for what was held, in all records", everywhere=True)
def _smaller_card(rng, record):
    record["environment"]["devices"][0]["capacity_bytes"] = 10**9


@detected("changed machine: a lower power cap than was drawn, in all records", everywhere=True)
def _lower_cap(rng, record):
    record["environment"]["devices"][0]["power_cap_w"] = 300.0


@whole("changed machine: without its ids made anew", DETECTED)
def _stale_ids(rng, files):
    name = rng.choice([name for name in files if name.startswith("measurements/")])
    word = rng.choice([b'"python":"3.12.3"', b'"code_digest":"c0de"', b'"driver":"580.1"', b'"threads":16'])
    changed = files[name].replace(word, word.replace(b"1", b"7") if b"1" in word else word.replace(b"0", b"1"))
    assert changed != files[name]
    return bundled({**files, name: changed})


# swapped baseline, and the recipe ------------------------------------------------------------------------------------


@detected("swapped baseline: in the records", everywhere=True)
def _flags(rng, record):
    record["trial"]["baseline"] = not record["trial"]["baseline"]


@detected("swapped baseline: in one record")
def _flag(rng, record):
    record["trial"]["baseline"] = not record["trial"]["baseline"]


@detected("swapped baseline: the techniques' names exchanged", everywhere=True)
def _names(rng, record):
    record["trial"]["axes"]["mixer"] = {"mha": "mqa", "mqa": "mha"}[record["trial"]["axes"]["mixer"]]


@whole("swapped baseline: in the recipe", DETECTED)
def _recipe_baseline(rng, files):
    return bundled(with_recipe(files, RECIPE.replace("baseline: {mixer: mha}", "baseline: {mixer: mqa}")))


@whole("another recipe: fewer tokens", DETECTED)
def _recipe_tokens(rng, files):
    return bundled(with_recipe(files, RECIPE.replace("tokens: 3200", f"tokens: {rng.randrange(100, 3000)}")))


@whole("another recipe: more repeats than were run", DETECTED)
def _recipe_repeats(rng, files):
    return bundled(with_recipe(files, RECIPE.replace("repeats: 2", "repeats: 3")))


@whole("another recipe: none", DETECTED)
def _no_recipe(rng, files):
    return bundled({name: data for name, data in files.items() if not name.startswith("recipes/")})


@whole("another recipe: under its old hash", DETECTED)
def _recipe_hash(rng, files):
    return bundled({n: data + b"# more\n" if n.startswith("recipes/") else data for n, data in files.items()})


# hashes not made anew ------------------------------------------------------------------------------------------------


@whole("hashes: a file edited, the manifest not", DETECTED)
def _stale_hash(rng, files):
    pairs = bundled(files)
    place = rng.randrange(1, len(pairs))
    name, data = pairs[place]
    at = rng.randrange(len(data))
    pairs[place] = name, data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    return pairs


@whole("hashes: a file missing, the manifest not", DETECTED)
def _missing_file(rng, files):
    pairs = bundled(files)
    del pairs[rng.randrange(1, len(pairs))]
    return pairs


@whole("hashes: a file that the manifest does not know", DETECTED)
def _unknown_file(rng, files):
    pairs, record = bundled(files), records_of(files)[0]
    record["trial"]["repeat"] = 7
    return [*pairs, next(iter(rehashed([record], {}).items()))]


@whole("hashes: no manifest", DETECTED)
def _no_manifest(rng, files):
    return bundled(files)[1:]


# what passes ---------------------------------------------------------------------------------------------------------


@undetectable("invented series", everywhere=True)
def _invented(rng, record):
    """All times of the training stretched alike, with every figure that follows: a whole other run, told well."""
    factor = 1.25
    for window in record["windows"]:
        window["begin_s"], window["end_s"] = window["begin_s"] * factor, window["end_s"] * factor
        for one in window["series"]:
            one["at_s"] = [at * factor for at in one["at_s"]]
            if one["name"] in ("step_s", "energy_j", "sampler_processor_s"):
                one["values"] = [value * factor for value in one["values"]]
        figures = window["figures"]
        for name in figures:
            if name in ("energy_j", "energy_net_j", "energy_integrated_j", "energy_snapped_j", "energy_snapped_s",
                        "edge_error_j", "energy_resolution_j", "sampler_processor_s"):  # fmt: skip
                figures[name] *= factor
    record["figures"]["startup_s"] *= factor


@whole("two techniques' results exchanged whole", UNDETECTABLE)
def _exchanged(rng, files):
    records = records_of(files)
    for repeat in (0, 1):
        one, other = (record for record in records if record["trial"]["repeat"] == repeat)
        for key in ("windows", "figures", "phases_s", "model"):
            one[key], other[key] = other[key], one[key]
    return bundled(rehashed(records, files))


@whole("baseline swapped in recipe and records", UNDETECTABLE)
def _rebased(rng, files):
    records = records_of(files)
    for record in records:
        record["trial"]["baseline"] = not record["trial"]["baseline"]
    text = RECIPE.replace("baseline: {mixer: mha}", "baseline: {mixer: mqa}")
    return bundled(with_recipe(rehashed(records, files), text))


@whole("a technique dropped from recipe and records", UNDETECTABLE)
def _narrowed(rng, files):
    records = [record for record in records_of(files) if record["trial"]["axes"]["mixer"] == "mha"]
    return bundled(with_recipe(rehashed(records, files), RECIPE.replace("[mha, mqa]", "[mha]")))


@whole("a round dropped from recipe and records", UNDETECTABLE)
def _fewer_rounds(rng, files):
    records = [record for record in records_of(files) if record["trial"]["repeat"] == 0]
    return bundled(with_recipe(rehashed(records, files), RECIPE.replace("repeats: 2", "repeats: 1")))


@undetectable("another machine that could have done it, in all records", everywhere=True)
def _same_class(rng, record):
    record["environment"]["devices"][0]["name"] = "NVIDIA GH200 144G HBM3e"


@undetectable("lower ceilings, in all records", everywhere=True)
def _lower_ceilings(rng, record):
    record["ceilings"]["matmul_peak_flop_per_s"]["bfloat16"] *= 0.5


@undetectable("a result withdrawn: marked as failed, with an invented reason")
def _withdrawn(rng, record):
    record["outcome"], record["reason"], record["windows"] = "oom", "CUDA out of memory", []
    record["figures"] = {}


@undetectable("a quantity withdrawn, with an invented reason")
def _told_absent(rng, record):
    window = window_of(record, "train")
    window["series"] = [one for one in window["series"] if one["name"] != "energy_j"]
    window["figures"] = {n: v for n, v in window["figures"].items() if "energy" not in n and "power" not in n}
    for name in ("cross_check_ratio", "edge_error_j"):
        window["figures"].pop(name, None)
    window["absent"]["energy_j"] = "the counter was not told"


@undetectable("steps shortened by less than a tenth, as if time lay between them")
def _slightly_shorter(rng, record):
    one = series_of(window_of(record, "train"), "step_s")
    one["values"] = [value * 0.97 for value in one["values"]]


@undetectable("a mean moved within what readings just outside the window may have been")
def _mean_raised(rng, record):
    window_of(record, "train")["figures"]["process_memory_mean_bytes"] *= 1.01


@undetectable("facts that are only told: host, date, commit, versions of software")
def _told(rng, record):
    record["environment"]["host"], record["environment"]["git_commit"] = "elsewhere", "f" * 40
    record["started_at"] = record["started_at"].replace("2026", "2025")


# junk: any leaf of a record's JSON replaced --------------------------------------------------------------------------

_JUNK = (None, True, -1, 0, 1, 10**18, -(10**18), 1e308, -1e308, 1e-308, 0.5, "", "x", "../../etc", "\x00", [], [[]], {},
         {"a": 1}, [1.0], "2026-11-22T21:10:05+00:00", "9" * 400)  # fmt: skip


@whole("junk: a leaf of a record replaced", JUNK)
def _junk_leaf(rng, files):
    records = records_of(files)
    record = rng.choice(records)
    for _ in range(rng.choice([1, 1, 1, 3])):
        _replace_leaf(rng, record)
    try:
        return bundled(rehashed(records, files))
    except (KeyError, TypeError, AttributeError, ValueError):  # too broken for its ids to be made anew
        name = f"measurements/{rng.getrandbits(40)}.json"
        return [*bundled(files)[:1], (name, _json(record)), *bundled(files)[2:]]


@whole("junk: a leaf of a recipe or manifest replaced", JUNK)
def _junk_text(rng, files):
    text = rng.choice(
        [
            RECIPE.replace("mha", rng.choice(["mla2", "[]", "{", "./x.py", "~", "&a *a", "!!python/object:os.system"])),
            RECIPE.replace("repeats: 2", f"repeats: {rng.choice([0, -1, '1e9', '[1]', 'null', '.inf'])}"),
            RECIPE.replace("3200", rng.choice(["-1", "0", "1e400", "true", "''"])),
            RECIPE.replace("workload: pretrain", rng.choice(["workload: finetune", "workload: calibrate", "x: y"])),
            RECIPE + rng.choice(["stages: 3\n", "name: ../x\n", "\t- a", "from: pretrain\n", "# run with: [1]\n"]),
        ]
    )
    return bundled(with_recipe(files, text))


def _replace_leaf(rng: random.Random, record: Record) -> None:
    place: Any = record
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = place[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.9:
            place = inner
            continue
        if rng.random() < 0.2 and isinstance(place, dict):
            del place[key]
        else:
            place[key] = copy.deepcopy(rng.choice(_JUNK))
        return


def _json(record: Record) -> bytes:
    import json

    return json.dumps(record).encode()


def digest_of(text: str) -> int:
    """Return a seed made of a name."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
