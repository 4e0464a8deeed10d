"""The answer in plain words: what improves, what worsens, what cannot be told apart, and what would decide it.

A sentence is a tuple of text, cells and numbers, so that the page, Markdown and the terminal say the same, and every
number keeps the place in the tables where it stands.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reidablate.report.records import Cell, Contrast, Number, fixed, over_rows
from reidablate.report.study_tables import StudyTables
from reidablate.stats.contrasts import MIN_SEEDS

MOST_NAMED = 4


@dataclass(frozen=True)
class Shown:
    """A number within a sentence, in points unless `unit` is empty."""

    number: Number
    digits: int = 0
    sign: bool = False
    unit: str = ""


Sentence = tuple[str | Cell | Shown, ...]


@dataclass(frozen=True)
class Answer:
    """What a study says on one data set: a headline and the sentences behind it."""

    dataset: str
    word: str  # yes | no | open
    head: Sentence
    sentences: tuple[Sentence, ...]


def plain_text(sentence: Sentence) -> str:
    """Returns a sentence without markup."""
    return "".join(_text(part) for part in sentence)


def _text(part: str | Cell | Shown) -> str:
    if isinstance(part, Cell):
        return part.title
    if isinstance(part, Shown):
        value = part.number.value
        scale = 100 if part.unit == "points" else 1
        return "-" if value is None else fixed(scale * value, part.digits, part.sign)
    return part


def answers(study: StudyTables) -> list[Answer]:
    """Returns an answer for each data set on which something was compared, from the comparisons with the baselines."""
    if study.contrasts is None:
        return []
    found = []
    for dataset in study.datasets:
        by_baseline: dict[str, list[Contrast]] = {}
        for contrast in study.to_baseline(dataset["name"]).values():
            by_baseline.setdefault(contrast.reference.name, []).append(contrast)
        if by_baseline:
            found.append(_answer(dataset["name"], sorted(by_baseline.values(), key=len, reverse=True)))
    return found


def _answer(dataset: str, families: Sequence[Sequence[Contrast]]) -> Answer:
    main, *others = families
    baseline, tested = main[0].reference, [c for c in main if c.ends]
    better = [c for c in main if c.word == "improves"]
    cells: Sentence = (Shown(over_rows(main, "cell", "count")), f" {_plural('cell', len(main))}")
    if better:
        word = "yes"
        head: Sentence = ("Yes, for ", Shown(over_rows(better, "cell", "count")), " of ", *cells, ".")
    elif any(c.word in ("undecided", "worsens", "equivalent") for c in tested):
        word, head = "no", ("No. None of ", *cells, " is shown to be better than ", baseline, ".")
    elif any(c.word == "provisional" for c in main):
        word, head = "open", ("Not known yet: no comparison with ", baseline, " has all its runs.")
    else:
        few = (over_rows(main, "num_seeds", "max").value or 0) < MIN_SEEDS
        why = f", which takes {MIN_SEEDS} seeds of each cell." if few else "; the notes say why."
        word, head = "open", ("Not known: no comparison with ", baseline, f" has an interval{why}")
    sentences = describe(main)
    for other in others:
        sentences += describe(other)
    return Answer(dataset, word, head, tuple(sentences))


def describe(contrasts: Sequence[Contrast]) -> list[Sentence]:
    """Returns what some comparisons in mAP on one data set say: the decided ones with intervals, then the open ones."""
    references = {c.reference.name: c.reference for c in contrasts}
    shared = next(iter(references.values())) if len(references) == 1 else None
    by_word: dict[str, list[Contrast]] = {}
    for contrast in contrasts:
        by_word.setdefault(_kind(contrast), []).append(contrast)
    sentences: list[Sentence] = []
    for word, verb in (("improves", "Better"), ("worsens", "Worse")):
        if chosen := by_word.get(word):
            chosen = sorted(chosen, key=lambda c: -abs(c.value))
            than: Sentence = (" than ", shared) if shared else ()
            sentences.append((verb, *than, " in mAP: ", *_listed(chosen, sizes=True, over=not shared), "."))
    if chosen := by_word.get("equivalent"):
        margin = Shown(over_rows(chosen, "delta", "max"), 2, unit="points")
        sentences.append(("Equivalent within ", margin, " points: ", *_listed(chosen, over=not shared), "."))
    sentences += _open(by_word.get("undecided", []), shared)
    if chosen := by_word.get("diverged"):
        sentences.append(("With a diverged seed, so never called better or equivalent: ", *_listed(chosen), "."))
    if chosen := by_word.get("provisional"):
        sentences.append(("No verdict yet, since runs are missing: ", *_listed(chosen), "."))
    if chosen := by_word.get(""):
        sentences.append(("Not compared, for the reasons in the notes: ", *_listed(chosen), "."))
    return sentences


def _kind(contrast: Contrast) -> str:
    if contrast.word == "undecided" and contrast.num_diverged:
        return "diverged"
    if contrast.word == "undecided" and not contrast.ends:
        return ""
    return contrast.word


def _open(undecided: Sequence[Contrast], shared: Cell | None) -> list[Sentence]:
    """Returns what cannot be told apart, the smallest difference that would have been seen, and what would help."""
    if not undecided:
        return []
    source: Sentence = (shared,) if shared else ("the reference",)
    seeds, size = Shown(over_rows(undecided, "num_seeds", "max")), _range(undecided, "detectable", 1, "points")
    sentence: Sentence = (
        "Cannot be told apart from ", *source, " with ", seeds, " seeds: ", *_listed(undecided),
        ". This design sees a true difference of ", *size, " points or more.",
    )  # fmt: skip
    soon = [c for c in undecided if c.seeds_needed and c.seeds_needed.value is not None]
    never = [c for c in undecided if c.undecidable]
    if soon:
        needed = _range(soon, "seeds_needed", 0, "")
        sentence += (" About ", *needed, " seeds would decide ", *_part(soon, undecided), ", if the estimates hold")
        sentence += ("." if soon[0].after else "; to add seeds until decided, start a study with seeds=auto.",)
    if never:
        sentence += (" No number of seeds would decide ", *_part(never, undecided), ": that takes more identities.")
    return [sentence]


def _part(some: Sequence[Contrast], of: Sequence[Contrast]) -> Sentence:
    if len(some) == len(of):
        return ("it",) if len(of) == 1 else ("them",)
    return (Shown(over_rows(some, "cell", "count")), " of them")


def _range(contrasts: Sequence[Contrast], column: str, digits: int, unit: str) -> Sentence:
    """Returns the smallest and the largest value of a column, once where they look the same."""
    low, high = (Shown(over_rows(contrasts, column, how), digits, unit=unit) for how in ("min", "max"))
    return (low,) if _text(low) == _text(high) else (low, " to ", high)


def _listed(contrasts: Sequence[Contrast], *, sizes: bool = False, over: bool = False) -> Sentence:
    """Returns the cells by title, each with its difference and interval, and its reference, if wanted.

    Beyond a few cells only their number is given.
    """
    parts: list[str | Cell | Shown] = []
    shown = contrasts if len(contrasts) <= MOST_NAMED + 1 else contrasts[:MOST_NAMED]
    for place, contrast in enumerate(shown):
        parts += [] if place == 0 else [", "]
        parts.append(contrast.cell)
        if sizes:
            parts += [" by ", Shown(contrast.estimate, 2, sign=True, unit="points")]
            parts += [" points"] if place == 0 else []
        if sizes and contrast.ends:
            low, high = (Shown(end, 2, sign=True, unit="points") for end in contrast.ends)
            parts += [" [", low, ", ", high, "]"]
        parts += [" over ", contrast.reference] if over else []
    if rest := contrasts[len(shown) :]:
        parts += [" and ", Shown(over_rows(rest, "cell", "count")), " more"]
    return tuple(parts)


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"


def answer_text(study: StudyTables, names: Iterable[str] = ()) -> list[str]:
    """Returns a line for each data set: its name, the headline and the sentences."""
    titles = {d["name"]: str(d.get("title") or d["name"]) for d in study.datasets}
    wanted = set(names) or titles.keys()
    return [
        f"{titles[answer.dataset]}: " + " ".join(map(plain_text, (answer.head, *answer.sentences)))
        for answer in answers(study)
        if answer.dataset in wanted
    ]


def short_answer(study: StudyTables) -> str:
    """Returns the answer in one line: the headline of each data set, and behind a *yes* what is better."""
    titles = {d["name"]: str(d.get("title") or d["name"]) for d in study.datasets}
    lines = [f"{study.smoke}."] if study.smoke else []
    for answer in answers(study):
        mark = " (synthetic)" if answer.dataset in study.synthetic_names else ""
        told = (answer.head, *answer.sentences[: answer.word == "yes"])
        lines.append(f"{titles[answer.dataset]}{mark}: {' '.join(map(plain_text, told))}")
    return " ".join(lines)
