"""The metadata of a packed study: RO-Crate 1.1, https://w3id.org/ro/crate/1.1.

Every file is an entity with its size, its SHA-256 and what it holds, so that catalogues and readers that know nothing
of this package find their way.
"""

import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reidablate.archive.layout import CHECKSUMS, METADATA

_CONTEXT = [
    "https://w3id.org/ro/crate/1.1/context",
    {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"},
]
_TYPES = mimetypes.MimeTypes()  # those that every Python knows, whatever the system adds
_WHAT = {
    "tables/queries.parquet": "Scores of every query of every run; all other scores follow from it.",
    "tables/metrics.parquet": "Means over the queries of every run.",
    "tables/contrasts.parquet": "Paired comparisons of cells with intervals and verdicts.",
    "tables/claims.parquet": "Published claims and what this study says of them.",
    "tables/cells.json": "The cells of the study and their configurations.",
    "tables/study.json": "What was planned and which data, code and machine made it.",
    "report/index.html": "The report, one self-contained page.",
    "environment.txt": "The packages and versions that were installed.",
}


def metadata(files: Mapping[str, tuple[Path, str]], about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the JSON-LD of a packed study.

    Args:
        files: Path and SHA-256 of every file by its name in the archive, but of the metadata and the checksums.
        about: `name`, `description`, `published` (ISO 8601), `version` of this package, and, if known, `license` and
            `author`.
    """
    root: dict[str, Any] = {
        "@id": "./",
        "@type": "Dataset",
        "name": about["name"],
        "description": about["description"],
        "datePublished": about["published"],
        "hasPart": [{"@id": quote(name)} for name in (*files, CHECKSUMS)],
        "mentions": {"@id": "#reidablate"},
    }
    entities = [_file(name, path, digest) for name, (path, digest) in files.items()]
    check = "SHA-256 of every other file; `sha256sum -c checksums.txt` checks them."
    entities.append(
        {"@id": CHECKSUMS, "@type": "File", "name": CHECKSUMS, "encodingFormat": "text/plain", "description": check}
    )
    program = {
        "@id": "#reidablate",
        "@type": "SoftwareApplication",
        "name": "reidablate",
        "softwareVersion": about["version"],
        "description": "Benchmark and ablation harness for person re-identification.",
    }
    if license_ := about.get("license"):
        root["license"] = {"@id": license_}
        entities.append({"@id": license_, "@type": "CreativeWork", "name": license_, "description": "License."})
    else:
        root["license"] = "Not declared; ask the authors."
    if author := about.get("author"):
        root["author"] = {"@id": "#author"}
        entities.append({"@id": "#author", "@type": "Person", "name": author})
    descriptor = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    return {"@context": _CONTEXT, "@graph": [descriptor, root, program, *entities]}


def _file(name: str, path: Path, digest: str) -> dict[str, Any]:
    what = next((words for end, words in _WHAT.items() if name.endswith(end)), None)
    entity = {
        "@id": quote(name),
        "@type": "File",
        "name": name.rpartition("/")[2],
        "contentSize": str(path.stat().st_size),
        "encodingFormat": _TYPES.guess_type(name)[0] or "application/octet-stream",
        "sha256": digest,
    }
    return entity | ({"description": what} if what else {})
