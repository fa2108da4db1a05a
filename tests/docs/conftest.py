import sys
from pathlib import Path

# The hooks of the documentation find each other beside themselves.
sys.path.insert(0, str(Path(__file__).parents[2] / ".docs"))
