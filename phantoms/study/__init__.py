"""A reading study on phantoms: what two readers see in QSM and in GRE phase, and the statistics of it."""
