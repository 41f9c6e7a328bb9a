"""A site's data described for machines: schema.org's Dataset in the Croissant form for machine learning.

Source: Croissant format specification 1.0, http://mlcommons.org/croissant/1.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from efficientllm import __version__
from efficientllm.analysis.long_table import COLUMNS
from efficientllm.validity.validate import INTEGRITY

#: Columns of the table that hold numbers; the others are text.
_TYPES = {"repeat": "sc:Integer", "value": "sc:Float"}
_ENCODINGS = {".csv": "text/csv", ".xz": "application/x-xz"}

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


@dataclass(frozen=True, kw_only=True)
class About:
    """What only the person who publishes a data set can say of it.

    Attributes:
        title: its name.
        license: an SPDX name or a link.
        creator: a person's name, or `org:NAME`.
        published: date, as YYYY-MM-DD.
        url: where it will stand; empty where that is not known.
    """

    title: str
    license: str
    creator: str
    published: str
    url: str = ""


def croissant(about: About, files: Mapping[str, bytes], table: str) -> bytes:
    """Return the description.

    Args:
        about: licence, creator and the like.
        files: path in the site -> bytes, of all that is data.
        table: which of them is the table of all metrics.
    """
    link = about.license
    described: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": about.title,
        "description": f"Measurements of efficiency techniques for language models by efficientllm {__version__}, "
        f"with their raw series. {INTEGRITY}",
        "license": link if "://" in link else f"https://spdx.org/licenses/{link}.html",
        "creator": _creator(about.creator),
        "citeAs": f"{_creator(about.creator)['name']} ({about.published[:4]}). {about.title}. "
        f"Measured with efficientllm {__version__}.",
        "datePublished": about.published,
        "version": "1.0.0",
        "isLiveDataset": False,
        "distribution": [_file(path, data) for path, data in files.items()],
        "recordSet": [_records(table)],
    }
    if about.url:
        described["url"] = about.url
    return msgspec.json.format(msgspec.json.encode(described), indent=2)


def _creator(name: str) -> dict[str, str]:
    organisation = name.removeprefix("org:")
    return {"@type": "sc:Person" if organisation == name else "sc:Organization", "name": organisation}


def _file(path: str, data: bytes) -> dict[str, Any]:
    suffix = path[path.rfind(".") :]
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path.rpartition("/")[2],
        "contentUrl": path,
        "contentSize": f"{len(data)} B",
        "encodingFormat": _ENCODINGS.get(suffix, "application/octet-stream"),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _records(table: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "metrics",
        "name": "metrics",
        "description": "One line a metric of one window of one measured process.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"metrics/{column}",
                "name": column,
                "description": meaning,
                "dataType": _TYPES.get(column, "sc:Text"),
                "source": {"fileObject": {"@id": table}, "extract": {"column": column}},
            }
            for column, meaning in COLUMNS.items()
        ],
    }
