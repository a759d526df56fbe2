"""Background field removal: one file per method."""
