"""The automatic brain mask; :mod:`recon.mask.automatic` has its steps in order."""

from recon.mask.automatic import AutoMask, BrainMask, automatic_mask

__all__ = ["AutoMask", "BrainMask", "automatic_mask"]
