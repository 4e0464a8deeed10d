"""Counts what the file names of a data set say, and whether a study on it could be scored; no image is opened.

Planning asks this before anything runs, and the index repeats it with the images at hand.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from reidablate.data.formats import JUNK, SPLITS, Layout, Listing, Record, flat_counts, some
from reidablate.errors import UserError


def count(records: Sequence[Record], layout: Layout) -> dict[str, Any]:
    """Returns {split: {images, ids}, junk, distractors, cameras}; junk and distractors are no identities."""
    images = dict.fromkeys(SPLITS, 0)
    people: dict[str, set[int]] = {split: set() for split in SPLITS}
    junk = distractors = 0
    nobody, cameras = layout.nobody, set()
    for split, _, _, pid, camid in records:
        images[split] += 1  # type: ignore[index]
        cameras.add(camid)
        if pid not in nobody:
            people[split].add(pid)
        elif pid == JUNK:
            junk += 1
        else:
            distractors += 1
    counts: dict[str, Any] = {split: {"images": images[split], "ids": len(people[split])} for split in SPLITS}
    return {**counts, "junk": junk, "distractors": distractors, "cameras": len(cameras)}


def differences(counts: dict[str, Any], layout: Layout) -> str:
    """Returns where counts are not the published ones, such as "query images 7 instead of 3368"; empty if nowhere."""
    if layout.published is None:
        return ""
    found, expected = flat_counts(counts), flat_counts(layout.published.model_dump())
    return ", ".join(f"{key} {found[key]} instead of {expected[key]}" for key in found if found[key] != expected[key])


def warnings_by_name(listing: Listing, layout: Layout, *, synthetic: bool) -> list[str]:
    """Returns what is unusual about the names of a set and stops nothing."""
    warnings = []
    wrong = differences(count(listing.records, layout), layout)
    if wrong and not synthetic:
        warnings.append(f"the counts are not those of {layout.title}: {wrong}")
    if lost := unanswerable(listing.records):
        warnings.append(
            f"{counted(len(lost), 'query', 'queries')} without a positive from another camera: {some(lost)}"
        )
    if others := listing.unexpected:
        warnings.append(f"{counted(len(others), 'file')} ignored, not named as images: {some(others)}")
    return warnings


def check_identities(records: Sequence[Record], layout: Layout) -> None:
    """Checks that test scores would mean something.

    Raises:
        UserError: An identity is in both train and test, a file shared by query and gallery has another pid or camera
            there, or no query at all has a positive from another camera.
    """
    _check_disjoint(records, layout)
    shared_files(records)
    queries = sum(record.split == "query" for record in records)
    if queries and len(unanswerable(records)) == queries:
        cameras = sorted({record.camid for record in records if record.split != "train"})
        seen = f"all are of camera {cameras[0]}" if len(cameras) == 1 else "the persons or cameras do not fit"
        raise UserError(
            f"none of the {queries} queries of {layout.title} has a gallery image of its person from another camera "
            f"({seen}), so nothing could be scored; correct pid and camid of query and gallery."
        )


def _check_disjoint(records: Sequence[Record], layout: Layout) -> None:
    people: dict[bool, dict[int, str]] = {True: {}, False: {}}
    for record in records:
        if record.pid not in layout.nobody:
            people[record.split == "train"].setdefault(record.pid, record.path)
    both = sorted(people[True].keys() & people[False].keys())
    if not both:
        return
    said = (
        f"{counted(len(both), 'identity', 'identities')} of the training images also in query or gallery "
        f"(pid {both[0]}: {people[False][both[0]]})"
    )
    if 2 * len(both) > min(len(people[True]), len(people[False])):
        raise UserError(
            f"{said}: train and test seem to be numbered separately, each from {min(people[True])}; "
            f"if they show different people, add a number such as {10 ** len(str(max(people[False])))} to every pid of "
            "train."
        )
    raise UserError(f"{said}, so a test score would mean nothing; use the official split.")


def unanswerable(records: Sequence[Record]) -> list[str]:
    """Returns the names of the queries without a positive from another camera."""
    cameras: dict[int, set[int]] = defaultdict(set)
    for record in records:
        if record.split == "gallery":
            cameras[record.pid].add(record.camid)
    return [
        record.name
        for record in records
        if record.split == "query" and not cameras.get(record.pid, set()) - {record.camid}
    ]


def shared_files(records: Sequence[Record]) -> int:
    """Returns how many files stand in query and gallery; the same-camera rule removes them if pid and camera agree.

    Raises:
        UserError: A shared file has another pid or camera in the gallery.
    """
    queries = {record.name: record for record in records if record.split == "query"}
    number = 0
    for record in records:
        twin = queries.get(record.name) if record.split == "gallery" else None
        if twin is None:
            continue
        if twin[3:] != record[3:]:
            raise UserError(
                f"{record.name} stands in query and gallery with another pid or camera; "
                "give a shared file the same pid and camid in both."
            )
        number += 1
    return number


def counted(number: int, singular: str, plural: str = "") -> str:
    """Returns a number with its noun."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
