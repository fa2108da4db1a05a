"""One scene in parts, on many machines: the same bytes as one run on one of them.

A part is a run of whole strips of the scene's walk, and the walk is fixed by scene,
model and tile. So the number of parts decides who computes a strip, never its values:

- `agreement`: what all parts must have in common.
- `folder`: what is finished lies in ``OUT.hsi-parts/``, piece by piece.
- `computing`: one part.
- `joining`: all parts become the outputs, by `hsi_runtime.pipeline.run`.
"""
