"""A study's files without whose they are, still one study: ids hash what stands there now, and everything validates.

    file bytes -> JSON -> names, paths, UUIDs disguised -> ids hashed again -> old ids replaced wherever they stand

Records say so under `absent.identity`. Figures, series, settings, labels and times are as they were; a technique that
is a user's own file keeps its name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec

from efficientllm.recipes.override import with_words, words_of
from efficientllm.recipes.yaml import parse_mapping
from efficientllm.records.environment import environment_digests
from efficientllm.records.trial import trial_digest
from efficientllm.store.disguise import Disguise, users_in

#: What is hidden, as the manifest and each record say.
HIDDEN = ("host", "user", "paths", "device UUIDs", "addresses", "process ids", "command lines")
_NOTE = f"{', '.join(HIDDEN)} were replaced by pseudonyms when the study was bundled, and ids made anew"
#: Versions are no addresses, and a card's links are its sources.
_PUBLIC = ("libraries", "cards", "python")

#: Trials, machines and environments are named by a hash, measurements by two and an attempt.
_HASH = re.compile(r"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")
_ID = re.compile(rf"{_HASH.pattern}(?:-{_HASH.pattern}-\d+)?")

_Json = dict[str, Any]


def anonymised(contents: Mapping[str, bytes], names: Iterable[str] = ()) -> dict[str, bytes]:
    """Return the files of a bundle with all that tells whose they are replaced, under the names that they have now.

    Args:
        contents: `measurements/ID.json` and `recipes/HASH.yaml` -> bytes, each readable.
        names: further words to hide: this machine's name, this user's.
    """
    records = {name: msgspec.json.decode(data) for name, data in contents.items() if name.startswith("measurements/")}
    disguise = Disguise(_key(contents), {*names, *_names_in(records.values(), contents.values())})
    plain = {name: _hidden(record, disguise) for name, record in records.items()}
    ids: dict[str, str] = {}
    for record in plain.values():
        _rehash_environment(record["environment"], ids)
    _rehash_trials(list(plain.values()), ids)
    result: dict[str, bytes] = {}
    for record in plain.values():
        _rehash_measurement(record, ids, disguise)
    for record in plain.values():
        found = _mapped(record, lambda text: _with_ids(text, ids))
        result[f"measurements/{found['id']}.json"] = msgspec.json.encode(found, order="deterministic")
    for name, data in contents.items():
        if name.startswith("recipes/"):
            text = _recipe(data.decode(), disguise, PurePosixPath(name).name)
            result[f"recipes/{hashlib.sha256(text).hexdigest()[:8]}.yaml"] = text
    return result


def _key(contents: Mapping[str, bytes]) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(contents[name]).digest() for name in sorted(contents))).digest()


def _names_in(records: Iterable[_Json], texts: Iterable[bytes]) -> set[str]:
    names: set[str] = set()
    for record in records:
        environment = record["environment"]
        names |= {environment.get("host", ""), *(device["uuid"] for device in environment["devices"])}
    for text in texts:
        names |= users_in(text.decode(errors="replace"))
    return names


def _hidden(record: _Json, disguise: Disguise) -> _Json:
    """Return a record with every text disguised; the ids are still those of before."""
    hidden: _Json = _disguised(record, disguise)
    environment, settings = hidden["environment"], hidden["trial"]["settings"]
    if environment.get("host"):
        environment["host"] = disguise.name(record["environment"]["host"])
    for device, before in zip(environment["devices"], record["environment"]["devices"], strict=True):
        device["uuid"] = disguise.name(before["uuid"])
    if settings.get("command"):
        settings["command"] = _command(record["trial"]["settings"]["command"], disguise)
    hidden.setdefault("absent", {})["identity"] = _NOTE
    return hidden


def _disguised(value: Any, disguise: Disguise, *, public: bool = False) -> Any:
    if isinstance(value, str):
        return disguise.text(value, addresses=not public)
    if isinstance(value, dict):
        return {key: _disguised(one, disguise, public=public or key in _PUBLIC) for key, one in value.items()}
    if isinstance(value, list) and value and not isinstance(value[0], int | float):
        return [_disguised(one, disguise, public=public) for one in value]
    return value


def _command(command: str, disguise: Disguise) -> str:
    return f"anonymous-command-{disguise.pseudonym(command)}"


def _rehash_environment(environment: _Json, ids: dict[str, str]) -> None:
    id_, machine = environment_digests(environment)
    ids[environment["id"]], ids[environment["machine_id"]] = id_, machine


def _rehash_trials(records: list[_Json], ids: dict[str, str]) -> None:
    """Hash trials again, parents before those that go on from them."""
    by_id = {record["trial"]["id"]: record["trial"] for record in records}
    fresh: dict[str, str] = {}

    def id_of(old: str) -> str:
        if old not in by_id:
            return old
        if old not in fresh:
            trial = by_id[old]
            fresh[old] = old  # a circle of parents, which no run makes, ends here
            fresh[old] = trial_digest({**trial, "parent": id_of(trial["parent"])})
        return fresh[old]

    for old in by_id:
        ids[old] = id_of(old)


def _rehash_measurement(record: _Json, ids: dict[str, str], disguise: Disguise) -> None:
    trial, environment = record["trial"]["id"], record["environment"]["id"]
    attempt = record["id"].removeprefix(f"{trial}-{environment}-")
    ids[record["id"]] = f"{ids[trial]}-{ids[environment]}-{attempt}"
    calibration = (record.get("ceilings") or {}).get("calibration", "")
    if calibration and calibration not in ids:  # its environment's id would tell the machine
        digits = disguise.pseudonym(calibration, 32)
        ids[calibration] = f"{digits[:16]}-{digits[16:]}-{calibration.rpartition('-')[2]}"


def _with_ids(text: str, ids: Mapping[str, str]) -> str:
    """Return a text with each id in it as it is now, a measurement's whole or by its parts."""
    return _ID.sub(lambda found: ids.get(found[0]) or _HASH.sub(lambda part: ids.get(part[0], part[0]), found[0]), text)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(one, change) for key, one in value.items()}
    if isinstance(value, list) and value and not isinstance(value[0], int | float):
        return [_mapped(one, change) for one in value]
    return value


def _recipe(text: str, disguise: Disguise, file: str) -> bytes:
    """Return a recipe's values as JSON, which is YAML too; comments, which may tell anything, stay behind."""
    values = _disguised(parse_mapping(text, file), disguise)
    for stage in [values, *(values.get("stages") or [])]:
        if isinstance(stage, dict) and isinstance(stage.get("command"), str):
            stage["command"] = _command(_original(text, file, stage), disguise)
    words = [disguise.text(word) for word in words_of(text)]
    return with_words(msgspec.json.format(msgspec.json.encode(values), indent=2).decode() + "\n", words).encode()


def _original(text: str, file: str, stage: _Json) -> str:
    """Return a stage's command as it was written."""
    raw = parse_mapping(text, file)
    for one in [raw, *(raw.get("stages") or [])]:
        if isinstance(one, dict) and one.get("name") == stage.get("name") and isinstance(one.get("command"), str):
            return str(one["command"])
    return str(stage["command"])
