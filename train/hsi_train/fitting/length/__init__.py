"""How long a training is: its phases, the rule that ends it, and a budget of time."""
