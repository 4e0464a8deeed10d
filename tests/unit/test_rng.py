"""Random streams: the same key gives the same numbers, another key gives others."""

import itertools
from typing import Any

import numpy as np
import torch

from reidablate.rng import generator, seed_int, torch_generator

KEYS: list[Any] = [
    (0, "batches"),
    (1, "batches"),
    (0, "augment"),
    (0, "batches", 0),
    (0, "batches", 1),
    (0, "batches", 0, 0),
]


def test_a_stream_is_a_function_of_its_key() -> None:
    for key in KEYS:
        assert generator(*key).integers(2**60) == generator(*key).integers(2**60)
        one, two = (torch.rand(4, generator=torch_generator(*key)) for _ in range(2))
        assert torch.equal(one, two)


def test_streams_of_different_keys_differ() -> None:
    draws = {key: generator(*key).integers(2**60, size=4) for key in KEYS}
    for one, two in itertools.combinations(KEYS, 2):
        assert not np.any(draws[one] == draws[two])


def test_drawing_more_from_one_stream_moves_no_other() -> None:
    expected = generator(3, "augment", 5).random(3)
    generator(3, "batches", 5).random(1000)
    np.random.default_rng(0).random(10)
    assert np.array_equal(generator(3, "augment", 5).random(3), expected)


def test_seeds_for_foreign_generators_fit_63_bits_and_vary() -> None:
    seeds = [seed_int(seed, "dropout", epoch) for seed in range(20) for epoch in range(20)]
    assert len(set(seeds)) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
