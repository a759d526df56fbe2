"""The virtual reading study: a cohort of phantom patients, simulated readers, and the statistics of their reading."""
