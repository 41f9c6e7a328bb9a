"""The `datasets` library: instruction data of the hub, or saved on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from efficientllm.data.corpora._contract import Split
from efficientllm.data.corpora.datasets import Source, import_datasets
from efficientllm.data.instructions._contract import Instructions, InstructionsEntry
from efficientllm.data.instructions._example import example_pairs
from efficientllm.data.instructions._records import Placed, RecordInstructions
from efficientllm.errors import DataError
from efficientllm.records.choice import Scalar


def open_dataset(
    dataset: str,
    split: str = "train",
    heldout_split: str = "",
    config: str = "",
    revision: str = "",
    streaming: bool = False,
    prompt_key: str = "",
    response_key: str = "",
    answer_after: str = "",
) -> Instructions:
    """Open a dataset.

    Args:
        dataset: a hub id (`openai/gsm8k`) or a folder that `save_to_disk` wrote.
        split: the training split.
        heldout_split: the held-out split; empty: about one sample in ten of `split`, by the hash of its prompt.
        config: the dataset's configuration (`main`), where it has several.
        revision: commit or tag of a hub dataset; without it the newest one is read, and named so in the record.
        streaming: whether samples are fetched while reading instead of downloading the dataset first.
        prompt_key: the column of the question, if it is none of the usual ones.
        response_key: likewise of the response.
        answer_after: what comes in a response before the part that is right or wrong.

    Raises:
        DataError: the library is not there; while reading, whatever keeps the dataset from being read.
    """
    import_datasets("instructions")
    if heldout_split == split:
        raise DataError(
            f"instructions datasets: heldout_split {split!r} is the training split. Leave it out, or change it."
        )
    source = Source(dataset, config, revision, streaming)
    names = {"train": split, "heldout": heldout_split or split}
    facts = {
        "dataset": dataset,
        "split": f"{split} / {heldout_split or 'by hash of the prompt'}",
        "revision": revision or ("on disk" if Path(dataset).is_dir() else "newest"),
        **({"config": config} if config else {}),
    }

    def read(wanted: Split) -> Iterator[Placed]:
        name = names[wanted]
        for number, record in enumerate(source.load(name)):
            yield f"dataset {dataset!r}, {name} row {number}", record

    return RecordInstructions(
        read,
        bool(heldout_split),
        lambda: source.fingerprint(*names.values()),
        facts,
        prompt_key=prompt_key,
        response_key=response_key,
        answer_after=answer_after,
    )


def _example(folder: Path) -> dict[str, Scalar]:
    datasets = import_datasets("instructions")
    turns = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in example_pairs()
    ]
    datasets.Dataset.from_dict({"messages": turns}).save_to_disk(str(folder / "saved"))
    return {"dataset": str(folder / "saved")}


ENTRY = InstructionsEntry(
    title="The datasets library: a hub id or a saved dataset",
    open=open_dataset,
    example=_example,
    endings=(".arrow",),
)
