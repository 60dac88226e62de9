"""Fixtures shared by the tests of the model and its media."""

from __future__ import annotations

import importlib
import sys
import types

import pytest


@pytest.fixture(scope="session")
def package():
    """keye-vl-utils, the reference of the frame plan.

    It imports torchvision only by name, so empty modules stand in while it is imported.
    """
    names = ("torchvision", "torchvision.io", "torchvision.transforms")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["torchvision"].io = sys.modules["torchvision.io"]
        sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
        sys.modules["torchvision.transforms"].InterpolationMode = object
        return importlib.import_module("keye_vl_utils.vision_process")
