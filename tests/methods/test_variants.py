"""The named variants in conf/method are settings of a built-in method that can be built."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import conf
from bench.plugins.hooks import resolve
from bench.types import Unsupported

VARIANTS = sorted((Path(conf.__file__).parent / "method").glob("*.yaml"))
DOORS = {door.name: door for door in entry_points(group="condbench.methods")}


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_variant_overrides_a_method_and_can_be_built(path: Path, tiny_image, tiny_text) -> None:
    """A variant names its method, sets existing settings of it, some differently, and is built."""
    settings = OmegaConf.to_container(OmegaConf.load(path))
    (name,) = settings.pop("defaults")
    defaults = DOORS[name].load()()
    assert settings.keys() <= vars(defaults).keys()
    assert any(getattr(defaults, key) != value for key, value in settings.items())
    method = DOORS[name].load()(**settings)
    try:
        model, batch = make(method, tiny_image), tiny_image.batch(2)
    except Unsupported:  # what needs symbols
        model, batch = make(method, tiny_text), tiny_text.batch(2)
    with torch.no_grad():
        assert model.eval()(batch).logits.isfinite().all()


def make(method: object, tiny) -> torch.nn.Module:
    """The untrained model: built, or converted from an untrained dense model."""
    hooks = resolve(method).hooks
    if hooks.convert is None:
        return hooks.build(tiny.spec, tiny.backbone)
    return hooks.convert(tiny.backbone.build(tiny.spec), [tiny.batch(8)])


def test_no_variant_hides_a_method() -> None:
    """A variant's name is not that of a method, whose typed node it would replace."""
    assert not {path.stem for path in VARIANTS} & set(DOORS)
