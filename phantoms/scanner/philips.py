"""Philips: classic objects, and one enhanced multi-frame object.

All of it is one series: magnitude, then phase, in each the slices rising and in a slice echo by echo. Phase is in
mrad by rescale and rises with the field. The scale slope (2005,100E) turns stored magnitude into precise values, here
in the phantom's own unit. Echoes are announced by EchoTrainLength and (2001,1014), slices by (2001,1018).

In enhanced frames RescaleType says ``US`` for mrad (the unit is in the real world value mapping alone), and the
private copy of the position is off by half a voxel in plane.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRImageStorage

from phantoms.scanner.common import DAY, Exam, add_private, carried, decimal, echo_ms, frequency_mhz, write
from phantoms.scanner.pixels import TOP, PhaseCode, Unsigned, bright, gain, rows_of, stored_magnitude
from phantoms.simulate import Phantom
from phantoms.vendor import Vendor
from recon.types import Acquisition

PHASE = PhaseCode(slope=1.53455433455433, intercept=-3142.0, unit_rad=1e-3, turn=4095)
DISPLAYED = "1.28205128205128"
"""RescaleSlope of magnitude: displayed values reach 5250."""

SCAN, SERIES = 4, 401
IMAGING, MR_IMAGING = "Philips Imaging DD 001", "Philips MR Imaging DD 001"
MR_FRAME = "Philips MR Imaging DD 005"
COMPONENTS = ("M", "P")
ACQUIRED = f"{DAY}120100"


def as_stored(phantom: Phantom) -> Acquisition:
    """What both formats hold. A step is 1.53 mrad of phase, 1/4095 of the largest magnitude."""
    acquisition = phantom.acquisition
    magnitude = stored_magnitude(acquisition.magnitude).astype(np.float32)
    magnitude *= np.float32(1 / float(gain(acquisition.magnitude)))
    return carried(phantom, magnitude, PHASE.decode(PHASE.encode(acquisition.phase)))


def write_classic(phantom: Phantom, folder: Path) -> list[Path]:
    """One file per image."""
    return write(_images(_Scan.of(phantom, Vendor.PHILIPS)), folder)


def write_enhanced(phantom: Phantom, folder: Path) -> list[Path]:
    """One file that holds all frames."""
    return write([_enhanced(_Scan.of(phantom, Vendor.PHILIPS_ENHANCED))], folder)


@dataclass(frozen=True, slots=True, eq=False)
class _Scan:
    """An exam with its stored integers.

    ``scale_slope`` is (2005,100E) of magnitude images: stored over precise value. ``width`` is that of their window.
    """

    exam: Exam
    stored: dict[str, Unsigned]
    scale_slope: float
    width: int

    @classmethod
    def of(cls, phantom: Phantom, vendor: Vendor) -> _Scan:
        acquisition = phantom.acquisition
        magnitude, phase = stored_magnitude(acquisition.magnitude), PHASE.encode(acquisition.phase)
        return cls(
            exam=Exam.of(phantom, vendor, magnitude, phase),
            stored={"M": magnitude, "P": phase},
            scale_slope=float(gain(acquisition.magnitude)),
            width=round(bright(magnitude) * float(DISPLAYED)),
        )

    def order(self) -> Iterator[tuple[str, int, int]]:
        """Component, slice, echo of each image."""
        echoes, _, _, slices = self.stored["M"].shape
        return ((component, z, echo) for component in COMPONENTS for z in range(slices) for echo in range(echoes))

    def pixels(self, component: str, z: int, echo: int) -> bytes:
        """PixelData of an image."""
        return rows_of(self.stored[component][echo], z)

    def make(self, ds: Dataset) -> None:
        """The scanner and the scan, with the counts that it announces."""
        echoes, _, _, slices = self.stored["M"].shape
        ds.Manufacturer, ds.SoftwareVersions = "Philips", ["5.7.1", "5.7.1.1"]
        ds.SeriesDescription, ds.ProtocolName = "3D mGRE", "WIP 3D mGRE"
        ds.AcquisitionNumber = SCAN
        add_private(ds, 0x2001, IMAGING, {0x14: ("SL", echoes), 0x18: ("SL", slices)})

    def mark(self, ds: Dataset, component: str) -> None:
        """The private component and scale slope of a classic image, or of a frame's private copy of it."""
        slope = self.scale_slope if component == "M" else TOP / (2 * math.pi)
        ds.ImageType = ["ORIGINAL", "PRIMARY", {"M": "M_FFE", "P": "PHASE MAP"}[component], component, "FFE"]
        add_private(ds, 0x2005, MR_IMAGING, {0x0E: ("FL", slope), 0x11: ("CS", component)})

    def window(self, ds: Dataset, component: str) -> None:
        """The window, in rescaled values."""
        centre, width = (self.width // 2, self.width) if component == "M" else (0, 6284)
        ds.WindowCenter, ds.WindowWidth = str(centre), str(width)


def _rescale(ds: Dataset, component: str, kind: str) -> None:
    ds.RescaleSlope = DISPLAYED if component == "M" else f"{PHASE.slope:.15g}"
    ds.RescaleIntercept = "0" if component == "M" else f"{PHASE.intercept:g}"
    ds.RescaleType = kind


def _real_world(component: str) -> Dataset:
    """PS3.3 C.7.6.16.2.11: the only place that names the unit in enhanced frames."""
    kind, code, meaning = ("normalized", "1", "no units") if component == "M" else ("mrad", "mrad", "milliradian")
    unit = Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = code, "UCUM", meaning
    item = Dataset()
    item.LUTExplanation, item.LUTLabel = f"Real World Value Mapping for {kind}", "Philips"
    item.MeasurementUnitsCodeSequence = [unit]
    item.add_new("RealWorldValueFirstValueMapped", "US", 0)
    item.add_new("RealWorldValueLastValueMapped", "US", TOP)
    item.RealWorldValueIntercept = 0.0 if component == "M" else PHASE.intercept
    item.RealWorldValueSlope = float(DISPLAYED) if component == "M" else PHASE.slope
    return item


def _images(scan: _Scan) -> Iterator[Dataset]:
    headers = {component: _classic(scan, component) for component in COMPONENTS}
    for number, (component, z, echo) in enumerate(scan.order(), start=1):
        ds = headers[component]
        scan.exam.number(ds, number)
        scan.exam.place(ds, echo, z)
        ds.EchoNumbers = echo + 1
        ds.PixelData = scan.pixels(component, z, echo)
        yield ds


def _classic(scan: _Scan, component: str) -> Dataset:
    ds = scan.exam.classic("complex", SERIES, "120500")
    scan.make(ds)
    scan.mark(ds, component)
    scan.window(ds, component)
    ds.ScanOptions = "FC"
    _rescale(ds, component, {"M": "normalized", "P": "mrad"}[component])
    ds.RealWorldValueMappingSequence = [_real_world(component)]
    return ds


def _enhanced(scan: _Scan) -> Dataset:
    """PS3.3 A.36.2: the Enhanced MR Image."""
    exam, order = scan.exam, list(scan.order())
    ds = exam.header(EnhancedMRImageStorage, "complex", SERIES, "120500")
    scan.make(ds)
    exam.number(ds, 1)
    ds.AcquisitionDateTime = ACQUIRED
    ds.ImageType = ["ORIGINAL", "PRIMARY", "T1", "MIXED"]
    _describe(ds, "MIXED")
    ds.ContentQualification = "RESEARCH"
    ds.AcquisitionContextSequence = []
    ds.ResonantNucleus = "1H"
    ds.MagneticFieldStrength = decimal(exam.phantom.protocol.b0_t)
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.PresentationLUTShape = "NO", "00", "IDENTITY"
    _sequence(ds, exam)
    _dimensions(ds, exam)
    ds.NumberOfFrames = len(order)
    ds.SharedFunctionalGroupsSequence = [_shared(exam)]
    ds.PerFrameFunctionalGroupsSequence = [_frame(scan, *which) for which in order]
    ds.PixelData = b"".join(scan.pixels(*which) for which in order)
    return ds


def _item(**elements: object) -> Dataset:
    """A sequence's item."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _describe(ds: Dataset, component: str) -> None:
    """PS3.3 C.8.13.3.1.1: what the pixels are, of the object or of a frame."""
    ds.PixelPresentation, ds.VolumetricProperties = "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique = "NONE"
    ds.ComplexImageComponent, ds.AcquisitionContrast = component, "T1"


def _sequence(ds: Dataset, exam: Exam) -> None:
    """PS3.3 C.8.13.4: the pulse sequence."""
    ds.MRAcquisitionType = "3D"
    ds.PulseSequenceName, ds.EchoPulseSequence = "T1FFE", "GRADIENT"
    ds.MultiPlanarExcitation = ds.PhaseContrast = ds.TimeOfFlightContrast = ds.EchoPlanarPulseSequence = "NO"
    ds.SaturationRecovery = "NO"
    ds.SteadyStatePulseSequence = ds.SpectrallySelectedSuppression = ds.OversamplingPhase = "NONE"
    ds.GeometryOfKSpaceTraversal, ds.SegmentedKSpaceTraversal = "RECTILINEAR", "SINGLE"
    ds.RectilinearPhaseEncodeReordering, ds.CoverageOfKSpace = "REVERSE_LINEAR", "ELLIPTICAL"
    _, rows, slices = exam.phantom.acquisition.geometry.shape
    ds.NumberOfKSpaceTrajectories = rows * slices
    ds.AcquisitionDuration = round(exam.phantom.protocol.tr_s * rows * slices, 3)
    ds.KSpaceFiltering, ds.ApplicableSafetyStandardAgency = "RIESZ", "IEC"


def _dimensions(ds: Dataset, exam: Exam) -> None:
    """PS3.3 C.7.6.17: frames are told apart by slice, echo time and a private element, the component."""
    organization = exam.uid("dimensions")
    content, echo = Tag("FrameContentSequence"), Tag("MREchoSequence")
    public = (
        ("StackID", content, "Stack ID"),
        ("InStackPositionNumber", content, "In-Stack Position Number"),
        ("EffectiveEchoTime", echo, "Effective Echo Time"),
    )
    component = _item(
        DimensionIndexPointer=Tag(0x2005, 0x1011),
        DimensionIndexPrivateCreator=MR_IMAGING,
        FunctionalGroupPointer=Tag(0x2005, 0x140F),
        FunctionalGroupPrivateCreator=MR_FRAME,
        DimensionDescriptionLabel="Private ImageTypeMR",
    )
    ds.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    ds.DimensionIndexSequence = [
        *(
            _item(DimensionIndexPointer=Tag(of), FunctionalGroupPointer=group, DimensionDescriptionLabel=label)
            for of, group, label in public
        ),
        component,
    ]
    for item in ds.DimensionIndexSequence:
        item.DimensionOrganizationUID = organization


def _shared(exam: Exam) -> Dataset:
    """Functional groups that are the same in all frames."""
    acquisition, protocol = exam.phantom.acquisition, exam.phantom.protocol
    columns, rows, slices = acquisition.geometry.shape
    dx, dy, _ = acquisition.geometry.voxel_mm
    modes = (("STATIC FIELD", "IEC_FIRST_LEVEL"), ("RF", "IEC_NORMAL"), ("GRADIENT", "IEC_NORMAL"))
    brain = _item(CodeValue="12738006", CodingSchemeDesignator="SCT", CodeMeaning="Brain")
    element = _item(MultiCoilElementName="MULTI ELEMENT", MultiCoilElementUsed="YES")
    groups = {
        "FrameAnatomySequence": _item(AnatomicRegionSequence=[brain], FrameLaterality="U"),
        "MRAveragesSequence": _item(NumberOfAverages="1"),
        "MRFOVGeometrySequence": _item(
            PercentSampling="100",
            PercentPhaseFieldOfView=decimal(100 * rows * dy / (columns * dx), 6),
            InPlanePhaseEncodingDirection="COLUMN",
            MRAcquisitionFrequencyEncodingSteps=columns,
            MRAcquisitionPhaseEncodingStepsInPlane=rows,
            MRAcquisitionPhaseEncodingStepsOutOfPlane=slices,
        ),
        "MRImagingModifierSequence": _item(
            PixelBandwidth="1008",
            MagnetizationTransfer="NONE",
            BloodSignalNulling="NO",
            Tagging="NONE",
            TransmitterFrequency=float(frequency_mhz(exam.phantom)),
        ),
        "MRModifierSequence": _item(
            InversionRecovery="NO",
            FlowCompensation="NONE",
            Spoiling="RF",
            T2Preparation="NO",
            SpectrallySelectedExcitation="NONE",
            SpatialPresaturation="NONE",
            ParallelAcquisition="NO",
            PartialFourier="NO",
        ),
        "MRReceiveCoilSequence": _item(
            ReceiveCoilName="MULTI COIL",
            ReceiveCoilManufacturerName="",
            ReceiveCoilType="MULTICOIL",
            QuadratureReceiveCoil="NO",
            MultiCoilDefinitionSequence=[element],
        ),
        "MRTimingAndRelatedParametersSequence": _item(
            RepetitionTime=decimal(protocol.tr_s * 1000, 9),
            FlipAngle=decimal(protocol.flip_deg),
            EchoTrainLength=len(acquisition.te_s),
            RFEchoTrainLength=0,
            GradientEchoTrainLength=len(acquisition.te_s),
            OperatingModeSequence=[_item(OperatingModeType=kind, OperatingMode=mode) for kind, mode in modes],
            SpecificAbsorptionRateSequence=[
                _item(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=0.02)
            ],
            GradientOutputType="DB_DT",
            GradientOutput=50.0,
        ),
        "MRTransmitCoilSequence": _item(
            TransmitCoilName="BODY", TransmitCoilManufacturerName="", TransmitCoilType="BODY"
        ),
    }
    return _item(**{keyword: [group] for keyword, group in groups.items()})


def _frame(scan: _Scan, component: str, z: int, echo: int) -> Dataset:
    """Functional groups of one frame."""
    exam = scan.exam
    geometry = exam.phantom.acquisition.geometry
    thickness = decimal(geometry.voxel_mm[2], 9)
    te_ms = echo_ms(exam.phantom.acquisition.te_s[echo])
    name = {"M": "MAGNITUDE", "P": "PHASE"}[component]
    kind = _item(FrameType=["ORIGINAL", "PRIMARY", "T1", component])
    _describe(kind, name)
    window, transformation = Dataset(), Dataset()
    scan.window(window, component)
    _rescale(transformation, component, "US")
    frame = _item(
        FrameContentSequence=[
            _item(
                FrameAcquisitionDateTime=ACQUIRED,
                FrameReferenceDateTime=ACQUIRED,
                FrameAcquisitionDuration=1000 * exam.phantom.protocol.tr_s,
                StackID="1",
                InStackPositionNumber=z + 1,
                DimensionIndexValues=[1, z + 1, echo + 1, COMPONENTS.index(component) + 1],
            )
        ],
        MREchoSequence=[_item(EffectiveEchoTime=float(te_ms))],
        MRImageFrameTypeSequence=[kind],
        PlanePositionSequence=[_item(ImagePositionPatient=exam.placement.positions[z])],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=exam.placement.orientation)],
        PixelMeasuresSequence=[
            _item(PixelSpacing=exam.placement.spacing, SliceThickness=thickness, SpacingBetweenSlices=thickness)
        ],
        FrameVOILUTSequence=[window],
        PixelValueTransformationSequence=[transformation],
        RealWorldValueMappingSequence=[_real_world(component)],
    )
    half = geometry.affine_mm[:3, :2].sum(axis=1) / 2
    shifted = [float(at) - shift for at, shift in zip(exam.placement.positions[z], half, strict=True)]
    private = _item(EchoTime=te_ms, EchoNumbers=echo + 1, ImagePositionPatient=[decimal(at) for at in shifted])
    scan.mark(private, component)
    add_private(frame, 0x2005, MR_FRAME, {0x0F: ("SQ", [private])}, block=0x14)
    return frame
