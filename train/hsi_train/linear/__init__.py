"""Linear discriminants of window means: the rival, and where a network starts."""
