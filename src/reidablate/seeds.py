"""The setting `seeds`: a number, the preset's, or as many as the looks of the study ask for."""

from reidablate.config import MOST_SEEDS

AUTO = "auto"
CAP = 10
LEAST_CAP = 4
DECLARED = (3, 5, 7, 10)


def check_seeds(seeds: int | str) -> int | str:
    """Returns the setting, `auto` with its cap.

    Raises:
        ValueError: With what is expected instead.
    """
    if isinstance(seeds, int) and not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"a whole number from 1 to {MOST_SEEDS}")
    if isinstance(seeds, int) or seeds == "preset":
        return seeds
    word, _, cap = seeds.partition(":")
    if word != AUTO or (seeds != AUTO and not (cap.isascii() and cap.isdigit())):
        raise ValueError("a whole number, preset, auto, or auto:N with the most seeds N")
    most = int(cap or CAP)
    if not LEAST_CAP <= most <= MOST_SEEDS:
        raise ValueError(f"auto:N with N, the most seeds, from {LEAST_CAP} to {MOST_SEEDS}")
    return f"{AUTO}:{most}"


def cap_of(seeds: int | str) -> int | None:
    """Returns the most seeds where they are added in looks, None where their number is fixed."""
    return int(seeds.partition(":")[2]) if isinstance(seeds, str) and seeds.startswith(AUTO) else None


def look_seeds(cap: int) -> tuple[int, ...]:
    """Returns the numbers of seeds of the looks: the declared ones below the cap, and the cap."""
    return (*(number for number in DECLARED if number < cap), cap)
