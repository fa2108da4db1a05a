"""Where lines come from: a growing file, a pipe, or a ring in shared memory."""
