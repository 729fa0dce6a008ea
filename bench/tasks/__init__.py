"""The bundled tasks, one file per task; each file names its data and their source.

    digits           images         scikit-learn's digits, distorted and cluttered
    imagenet_shapes  images         random pixels: cost of untrained models of published size
    keywords         audio          ten synthesised keywords in noise
    multitask        images         digits and keywords through one trunk
    numbers          seq2seq        French number words into Japanese ones
    shapes           any kind       random values of a stated shape: counts of published models
    text             tokens, causal Python's language reference, character by character
    topics           tokens         which package a docstring comes from

A further task takes three places:

1. a file here with a dataclass of its settings. `parts.preloaded.Preloaded` supplies batches and
   hash for data in memory; the class adds `spec`, `recipe`, `samples`, `criterion` and `evaluate`
   (`bench.types.Task` is the protocol, and lists what else a task may offer);
2. a line under [project.entry-points."condbench.tasks"] in pyproject.toml, followed by
   `pip install -e .`, because entry points are read from the installed metadata;
3. a test file in tests/tasks/.

Code that several tasks share is in `parts`; named settings of a task are files in conf/task/. A
task of another package needs no file here, only the entry point in its own pyproject.toml.
"""
