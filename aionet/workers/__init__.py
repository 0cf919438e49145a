"""Several processes that serve the same addresses, and the one that looks after them."""
