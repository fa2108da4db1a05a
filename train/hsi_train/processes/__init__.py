"""One training on several processes, as ``torchrun`` starts them.

All processes draw the same windows and the same random numbers, and compute the same
loss of the whole batch. Only what is costly is dealt out, window by window:

- `launch`: what torchrun tells a process.
- `group`: the processes, and what the first decides for all.
- `dealing`: each process computes some windows; all get the results of all.
- `layers`: layers that look at the whole batch, or draw for it.
"""
