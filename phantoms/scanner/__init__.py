"""A phantom as the DICOM files that a scanner would send, and as a perfect loader reads those files.

One file per vendor. Only headers and the integer coding are made here; the numbers come from the phantom.

=======================  ==========================================  =======================================
vendor                   series                                      phase as stored
=======================  ==========================================  =======================================
``siemens``              VE11 classic: M and P                       0..4095 for a turn, rises with the field
``siemens-xa``           XA30 classic: every echo of M and of P      as ``siemens``
``siemens-xa-enhanced``  XA30: M and P, one object for each echo     as ``siemens``
``ge``                   one: M, R, I of every echo and slice        R and I, the conjugate, every second
                                                                     slice negated
``ge-phase``             one: M, P of every echo and slice           the angle of these, in mrad
``philips``              one: all M, then all P                      mrad by rescale, rises with the field
``philips-enhanced``     one object: all M, then all P               as ``philips``
``philips-complex``      one: all R, then all I                      R and I by rescale
=======================  ==========================================  =======================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from phantoms.scanner import ge, philips, siemens
from phantoms.simulate import Phantom
from phantoms.vendor import Vendor
from recon.types import Acquisition

__all__ = ["Vendor", "as_stored", "write_dicom"]

_WRITERS: Mapping[Vendor, Callable[[Phantom, Path], list[Path]]] = {
    Vendor.SIEMENS: siemens.write_classic,
    Vendor.GE: ge.write_complex,
    Vendor.GE_PHASE: ge.write_phase,
    Vendor.PHILIPS: philips.write_classic,
    Vendor.PHILIPS_ENHANCED: philips.write_enhanced,
    Vendor.PHILIPS_COMPLEX: philips.write_complex,
    Vendor.SIEMENS_XA: siemens.write_xa,
    Vendor.SIEMENS_XA_ENHANCED: siemens.write_enhanced,
}
_READINGS: Mapping[Vendor, Callable[[Phantom], Acquisition]] = {
    Vendor.SIEMENS: siemens.as_stored,
    Vendor.GE: ge.as_stored_complex,
    Vendor.GE_PHASE: ge.as_stored_phase,
    Vendor.PHILIPS: philips.as_stored,
    Vendor.PHILIPS_ENHANCED: philips.as_stored,
    Vendor.PHILIPS_COMPLEX: philips.as_stored_complex,
    Vendor.SIEMENS_XA: siemens.as_stored,
    Vendor.SIEMENS_XA_ENHANCED: siemens.as_stored,
}


def write_dicom(phantom: Phantom, folder: Path, vendor: Vendor = Vendor.SIEMENS) -> list[Path]:
    """Write every echo and slice as ``vendor`` does.

    Parameters
    ----------
    phantom
        What to write. Equal phantoms give equal bytes, UIDs included; another vendor gives other UIDs.
    folder
        Made if absent. A series that is not alone has a sub-folder of its own.
    vendor
        Whose files.

    Returns
    -------
    list of Path
        The files in the order of SeriesNumber and InstanceNumber: magnitude first.
    """
    return _WRITERS[vendor](phantom, folder)


def as_stored(phantom: Phantom, vendor: Vendor = Vendor.SIEMENS) -> Acquisition:
    """What a perfect loader reads from the files of `write_dicom`, without writing them.

    Magnitude is in the unit of the files: stored integers (Siemens, GE) or precise values (Philips: the phantom's own
    unit). Phase is in rad and rises with the field. Echo times, frequency and geometry are what the decimal strings
    carry. A loader that works in float32 as a scanner's header suggests (scale, shift, convert) gives the same bits.

    One format loses a constant: of GE's alternating slices, nothing says which half is negated. This is the phase if
    the first slice along the normal is not, as `write_dicom` has it; a loader that takes the other half gets pi more,
    the same in every voxel and echo.
    """
    return _READINGS[vendor](phantom)
