"""The package from Python: `efficientllm.run`, `load`, `measure`, `MeasureCallback`.

Like `cli`, this room joins the wings: what is measured comes back as a table. `import efficientllm` loads none of it;
the first use of a name does.
"""
