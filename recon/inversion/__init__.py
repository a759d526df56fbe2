"""Field to susceptibility: one file per method."""
