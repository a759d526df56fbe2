"""QSM and GRE phase from multi-echo gradient echo: arrays in, arrays out. No DICOM, disk, clock or log."""
