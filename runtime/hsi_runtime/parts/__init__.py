"""One scene in parts, on many machines: the same bytes as one run on one of them.

A part is a run of whole strips of the scene's walk, and the walk is fixed by scene,
model and tile. So the number of parts decides who computes a strip, never its values:

- `agreement`: what all parts must have in common.
- `folder`: what is finished lies in ``OUT.hsi-parts/``, piece by piece.
- `computing`: one part.
- `joining`: all parts become the outputs, by `hsi_runtime.pipeline.run`.
- `attempts`, `run_report`: who computed what, how often and how fast.

With a scheduler, `cluster` sends parts to workers, which do what `working` says:

- `address`, `connecting`: which schedulers may be used, and whether workers are alike.
- `workers`: the same from Python.
"""
