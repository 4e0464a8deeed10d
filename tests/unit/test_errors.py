"""What the log of a failed stage says, in every way that a stage can end."""

from pathlib import Path

import pytest

from reidablate.errors import UserError, how_it_ended, last_words, plain, sentence

TRACEBACK = """market1501/p1/seed0: epoch 1/2 loss 1.234 900 images/s
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    raise KeyError(1)
KeyError: 1

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in <module>
    first()
torch.OutOfMemoryError: CUDA out of memory.
[W] a line of a library that ends with the process
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch 1/2\nreidablate: the data set has 8 identities, a batch needs 64.\n", "reidablate: the data set has"),
        ("reidablate: no index.\nresource_tracker: 1 leaked object\n", "reidablate: no index."),
        (TRACEBACK, "torch.OutOfMemoryError: CUDA out of memory."),
        ("epoch 1/2 loss 1.2\nepoch 2/2 loss 1.1\n\n", ""),
        ("", ""),
    ],
)
def test_last_words_are_a_refusal_or_an_exception_and_never_a_line_of_progress(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "a.log").write_text(text)
    assert last_words(tmp_path / "a.log").startswith(words)
    assert bool(last_words(tmp_path / "a.log")) == bool(words)


def test_who_was_killed_is_said_to_have_ended_without_a_word(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert how_it_ended(log) == "ended without an error message (killed?)"  # not even a log
    log.write_text("epoch 1/2 loss 1.2\nepoch 2/2 loss 1.1\n\n")
    assert how_it_ended(log) == "ended without an error message (killed?); its last line: epoch 2/2 loss 1.1"
    log.write_text(TRACEBACK)
    assert how_it_ended(log) == "torch.OutOfMemoryError: CUDA out of memory."


def test_texts_of_others_are_one_line_that_steers_no_terminal() -> None:
    assert plain("a \x1b[1mbold\x1b[0m\n\n  reason\tat\x07 \u202eend ") == "a bold reason at end"
    assert sentence(UserError("two\nlines \x9b2J")) == "two lines 2J"
    assert plain("a  b é 中") == "a b é 中"
