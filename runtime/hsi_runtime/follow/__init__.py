"""Follows a sensor: the map grows while the camera flies.

A push-broom camera writes lines; a network needs `halo` lines of context and nothing
else. So the classes of a line are final as soon as `halo` more lines are there:

- A *source* (`sources`) is a `Scene` whose lines become available one by one: a growing
  ENVI file, a stream, or a ring in shared memory. It knows how many lines are whole,
  and whether more may come.
- `blocks` waits for lines and reads them, with their context, as the strips that the
  engine knows. `pace` says how many lines make a block: as few as keep the engine
  efficient, or as the latency asked for allows; more where the engine is behind.
- `live.live_map` keeps the classes: a folder beside the output with a growing ENVI
  Classification that others may map, and a journal that survives SIGKILL.
- `live.events` tells of each block: lines of JSON, and a command for a class that is
  looked for.
- `flight` ties these together, and when the sensor ends hands over to
  `pipeline.run`, which does what it does for any scene: the blocks enter its journal as
  its own pieces, pieces that are missing or doubtful are computed, and one path
  publishes. The result has the bytes of a batch run.

An engine whose answer depends in its last bits on the shape of a window (GPUs,
bfloat16) is found out before the first line (`exactness`); its live map is for looking
only, and all pieces are computed again at the end. So are they where the final header
describes other values than the first.
"""
