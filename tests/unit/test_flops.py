"""FLOPs of an image against arithmetic by hand."""

import torch
from torch import nn

from reidablate.config import ModelConfig
from reidablate.engine.flops import flops_per_image
from reidablate.models.neck import ReidModel

CPU = torch.device("cpu")


def test_a_convolution_and_a_linear_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Flatten(), nn.Linear(4 * 4 * 3, 5))
    # 12 places of 4 filters over 3 x 2 x 2 values, and 5 rows of 48.
    assert flops_per_image(model, (8, 6), CPU) == 2 * (12 * 4 * 12 + 5 * 48)


def test_a_transformer_and_that_it_is_left_as_it_was() -> None:
    config = ModelConfig(backbone="vit_quickstart", image_size=(64, 32), stem="conv")
    model = ReidModel(config, num_classes=7)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = flops_per_image(model, (64, 32), CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    width, depth, hidden, patches = 32, 2, 4 * 32, (64 // 8) * (32 // 8)
    tokens = patches + 1
    block = tokens * (4 * width * width + 2 * width * hidden) + 2 * tokens * tokens * width
    stem, classifier = patches * width * 3 * 8 * 8, 7 * width
    assert found == 2 * (depth * block + stem + classifier)
