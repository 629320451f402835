"""CPU stand-in for torchvision (PyPI's does not import beside the CPU build of torch). Text-only serving
imports its names and calls none: every name is an object that raises when called."""

import importlib.abc
import importlib.machinery
import sys
import types

__version__ = "0.0.0"


class _Name:
    def __call__(self, *args, **kwargs):
        raise NotImplementedError("torchvision has no CPU stand-in")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name()


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.startswith("torchvision."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = _Module(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module):
        return None


sys.meta_path.append(_Finder())


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return importlib.import_module(f"torchvision.{name}")
