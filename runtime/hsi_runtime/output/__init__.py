"""Everything a run writes: rasters, their journal, and what is drawn from them."""
