"""The named variants in conf/method are settings of a built-in method that can be built."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import conf
from bench.plugins.hooks import resolve

VARIANTS = sorted((Path(conf.__file__).parent / "method").glob("*.yaml"))
DOORS = {door.name: door for door in entry_points(group="condbench.methods")}


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_variant_overrides_a_method_and_can_be_built(path: Path, tiny_image) -> None:
    """A variant names its method, sets existing settings of it, some differently, and is built."""
    settings = OmegaConf.to_container(OmegaConf.load(path))
    (name,) = settings.pop("defaults")
    defaults = DOORS[name].load()()
    assert settings.keys() <= vars(defaults).keys()
    assert any(getattr(defaults, key) != value for key, value in settings.items())
    method = DOORS[name].load()(**settings)
    model = resolve(method).hooks.build(tiny_image.spec, tiny_image.backbone).eval()
    with torch.no_grad():
        assert model(tiny_image.batch(2)).logits.isfinite().all()


def test_no_variant_hides_a_method() -> None:
    """A variant's name is not that of a method, whose typed node it would replace."""
    assert not {path.stem for path in VARIANTS} & set(DOORS)
