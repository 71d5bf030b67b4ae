"""Loads a neighbor that is a program, as a module: none of them is named *.py."""
import importlib.machinery
import importlib.util
import os


def load(name):
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(os.path.dirname(os.path.abspath(__file__)), name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module
