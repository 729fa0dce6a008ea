"""The words of the house: what tasks, backbones and methods have in common.

    data      what travels between tasks and models: TaskSpec, Batch, Output
    scores    how well a model does, and how a task is trained: Quality, Recipe
    tasks     Task, and the extras that a task may declare
    models    Trunk, Backbone, Method

Letters in shape comments, here and everywhere: B samples, T tokens, D width, H hidden width,
E experts, C classes or vocabulary.

Nothing here imports torch at run time, so that reading and planning stay light. Plugins import
ranges of settings (`Range`, `OneOf`) from here, too.
"""

from bench.types.data import (
    Batch,
    Batches,
    Direction,
    Kind,
    Output,
    Point,
    Split,
    TaskSpec,
    Unsupported,
)
from bench.types.models import Backbone, Block, Method, Model, State, Trunk
from bench.types.scores import Quality, Recipe
from bench.types.tasks import Corruption, Criterion, Extras, Task, extras_of
from bench.values import OneOf, Range, check_fields

__all__ = [
    "Backbone",
    "Batch",
    "Batches",
    "Block",
    "Corruption",
    "Criterion",
    "Direction",
    "Extras",
    "Kind",
    "Method",
    "Model",
    "OneOf",
    "Output",
    "Point",
    "Quality",
    "Range",
    "Recipe",
    "Split",
    "State",
    "Task",
    "TaskSpec",
    "Trunk",
    "Unsupported",
    "check_fields",
    "extras_of",
]
