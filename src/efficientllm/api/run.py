"""`efficientllm.run`: a recipe from Python."""

from __future__ import annotations

from pathlib import Path

from efficientllm.records.measurement import Measurement


def run(recipe: str, *overrides: str, results: str | Path = "results") -> list[Measurement]:
    """Measure a recipe, as the command `efficientllm run` does, and return its records in the plan's order.

        for measurement in efficientllm.run("quickstart", "repeats=1", "mixer=[mha,mla]"):
            print(measurement.trial.technique(), measurement.outcome)

    Args:
        recipe: a built-in recipe's name or a YAML file.
        overrides: `key=value` words.
        results: folder of all results; what is stored there is not measured again.

    Raises:
        UserError: the recipe, the corpus or the results folder cannot be used.
    """
    from efficientllm.bench.study import open_run
    from efficientllm.cli._watch import RichWatcher
    from efficientllm.recipes.load import load_recipe

    loaded = load_recipe(recipe, list(overrides))
    with RichWatcher() as watcher:
        study_run = open_run(loaded, Path(results), watcher)
        study_run.study.check_writable()
        study_run.study.keep_recipe(loaded.text.encode())
        return study_run.run()
