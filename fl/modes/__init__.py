"""Ways of adding up model updates: one table (:mod:`fl.modes.table`), and the arithmetic of each."""
