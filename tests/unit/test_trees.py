"""What a YAML file of options may hold."""

from pathlib import Path

import pytest

from reidablate.errors import UserError
from reidablate.trees import load_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.yaml"


def test_merge_keys_work_and_own_keys_win(file: Path) -> None:
    file.write_text("base: &b {x: 1, y: 2}\nother: &c {<<: *b, y: 3}\nlast: {<<: [*c, *b], z: 4}\n")
    assert load_yaml(file) == {"base": {"x": 1, "y": 2}, "other": {"x": 1, "y": 3}, "last": {"x": 1, "y": 3, "z": 4}}


def test_a_date_is_the_text_that_it_is_written_as(file: Path) -> None:
    file.write_text("title: 2024-13-45\nother: 2024-01-02 03:04:05\n")
    assert load_yaml(file) == {"title": "2024-13-45", "other": "2024-01-02 03:04:05"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &a {b: *a}", "an anchor that holds itself"),
        (BOMB, "more than 20000 values"),
        ("a: !!int abc", "'abc', which cannot be read as int"),
        ("a: !!binary YQ==", "which no option has"),
        ("a: !!python/object:os.system {}", "which no option has"),
        ("a: " + "9" * 5000, "cannot be read as int"),
        ("a: 0x" + "f" * 5000, "cannot be read as int"),
        ("a: 9223372036854775808", "cannot be read as int"),
        ('a: "\\uD800"', "half of a surrogate pair"),
        ("1: a", "key 1, which is no word"),
        ("a: 1\n'a': 2", "key 'a' stands twice"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: b\n" * 60_000, "bytes, more than"),
    ],
)
def test_what_no_option_is_made_of_is_one_short_sentence(file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    with pytest.raises(UserError, match=problem) as refused:
        load_yaml(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 700
