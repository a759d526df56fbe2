"""What Enhanced MR Image objects of all vendors share: PS3.3 A.36.2, and the functional groups of its frames."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRImageStorage

from phantoms.scanner.common import ACQUIRED, DAY, Exam, decimal, echo_ms, frequency_mhz

NAMES = {"M": "MAGNITUDE", "P": "PHASE", "R": "REAL", "I": "IMAGINARY"}
"""Values of ComplexImageComponent."""


def item(**elements: object) -> Dataset:
    """A sequence's item."""
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def dimension(pointer: str, group: str, label: str) -> Dataset:
    """PS3.3 C.7.6.17: an attribute that tells frames apart, in its functional group."""
    made = item(DimensionIndexPointer=Tag(pointer), FunctionalGroupPointer=Tag(group))
    made.DimensionDescriptionLabel = label
    return made


def dimensions(ds: Dataset, exam: Exam, *others: Dataset) -> None:
    """What tells the frames of an object apart: the slice, and ``others``."""
    organization = exam.uid("dimensions")
    ds.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organization)]
    ds.DimensionIndexSequence = [
        dimension("StackID", "FrameContentSequence", "Stack ID"),
        dimension("InStackPositionNumber", "FrameContentSequence", "In-Stack Position Number"),
        *others,
    ]
    for index in ds.DimensionIndexSequence:
        index.DimensionOrganizationUID = organization


def describe(ds: Dataset, component: str, contrast: str) -> None:
    """PS3.3 C.8.13.3.1.1: what the pixels are, of the object or of a frame."""
    ds.PixelPresentation, ds.VolumetricProperties = "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique = "NONE"
    ds.ComplexImageComponent, ds.AcquisitionContrast = component, contrast


def enhanced(exam: Exam, series: str, number: int, time: str, sequence: str) -> Dataset:
    """The object but for its frames: `Exam.header` and the pulse sequence (PS3.3 C.8.13.4)."""
    ds = exam.header(EnhancedMRImageStorage, series, number, time)
    ds.AcquisitionDateTime = DAY + ACQUIRED
    ds.ContentQualification = "RESEARCH"
    ds.AcquisitionContextSequence = []
    ds.ResonantNucleus = "1H"
    ds.MagneticFieldStrength = decimal(exam.phantom.protocol.b0_t)
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.PresentationLUTShape = "NO", "00", "IDENTITY"
    ds.MRAcquisitionType = "3D"
    ds.PulseSequenceName, ds.EchoPulseSequence = sequence, "GRADIENT"
    ds.MultiPlanarExcitation = ds.PhaseContrast = ds.TimeOfFlightContrast = ds.EchoPlanarPulseSequence = "NO"
    ds.SaturationRecovery = "NO"
    ds.SteadyStatePulseSequence = ds.SpectrallySelectedSuppression = ds.OversamplingPhase = "NONE"
    ds.GeometryOfKSpaceTraversal, ds.SegmentedKSpaceTraversal = "RECTILINEAR", "SINGLE"
    ds.RectilinearPhaseEncodeReordering, ds.CoverageOfKSpace = "REVERSE_LINEAR", "FULL"
    _, rows, slices = exam.phantom.acquisition.geometry.shape
    ds.NumberOfKSpaceTrajectories = rows * slices
    ds.AcquisitionDuration = round(exam.phantom.protocol.tr_s * rows * slices, 3)
    ds.KSpaceFiltering, ds.ApplicableSafetyStandardAgency = "NONE", "IEC"
    return ds


def shared_groups(exam: Exam, coil: str, elements: Sequence[Dataset]) -> Dataset:
    """Functional groups that are the same in all frames."""
    acquisition, protocol = exam.phantom.acquisition, exam.phantom.protocol
    columns, rows, slices = acquisition.geometry.shape
    dx, dy, _ = acquisition.geometry.voxel_mm
    modes = (("STATIC FIELD", "IEC_FIRST_LEVEL"), ("RF", "IEC_NORMAL"), ("GRADIENT", "IEC_NORMAL"))
    brain = item(CodeValue="12738006", CodingSchemeDesignator="SCT", CodeMeaning="Brain")
    groups = {
        "FrameAnatomySequence": item(AnatomicRegionSequence=[brain], FrameLaterality="U"),
        "MRAveragesSequence": item(NumberOfAverages="1"),
        "MRFOVGeometrySequence": item(
            PercentSampling="100",
            PercentPhaseFieldOfView=decimal(100 * rows * dy / (columns * dx), 6),
            InPlanePhaseEncodingDirection="COLUMN",
            MRAcquisitionFrequencyEncodingSteps=columns,
            MRAcquisitionPhaseEncodingStepsInPlane=rows,
            MRAcquisitionPhaseEncodingStepsOutOfPlane=slices,
        ),
        "MRImagingModifierSequence": item(
            PixelBandwidth="1008",
            MagnetizationTransfer="NONE",
            BloodSignalNulling="NO",
            Tagging="NONE",
            TransmitterFrequency=float(frequency_mhz(exam.phantom)),
        ),
        "MRModifierSequence": item(
            InversionRecovery="NO",
            FlowCompensation="NONE",
            Spoiling="RF",
            T2Preparation="NO",
            SpectrallySelectedExcitation="NONE",
            SpatialPresaturation="NONE",
            ParallelAcquisition="NO",
            PartialFourier="NO",
        ),
        "MRReceiveCoilSequence": item(
            ReceiveCoilName=coil,
            ReceiveCoilManufacturerName="",
            ReceiveCoilType="MULTICOIL",
            QuadratureReceiveCoil="NO",
            MultiCoilDefinitionSequence=list(elements),
        ),
        "MRTimingAndRelatedParametersSequence": item(
            RepetitionTime=decimal(protocol.tr_s * 1000, 9),
            FlipAngle=decimal(protocol.flip_deg),
            EchoTrainLength=len(acquisition.te_s),
            RFEchoTrainLength=0,
            GradientEchoTrainLength=len(acquisition.te_s),
            OperatingModeSequence=[item(OperatingModeType=kind, OperatingMode=mode) for kind, mode in modes],
            SpecificAbsorptionRateSequence=[
                item(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=0.02)
            ],
            GradientOutputType="DB_DT",
            GradientOutput=50.0,
        ),
        "MRTransmitCoilSequence": item(
            TransmitCoilName="BODY", TransmitCoilManufacturerName="", TransmitCoilType="BODY"
        ),
    }
    return item(**{keyword: [group] for keyword, group in groups.items()})


def frame_groups(exam: Exam, kind: Dataset, window: Dataset, transformation: Dataset, z: int, echo: int) -> Dataset:
    """Functional groups of the frame of a slice and an echo; its dimension indices are left to the vendor.

    Parameters
    ----------
    kind, window, transformation
        The items of its MR Image Frame Type, Frame VOI LUT and Pixel Value Transformation.
    """
    thickness = decimal(exam.phantom.acquisition.geometry.voxel_mm[2], 9)
    content = item(
        FrameAcquisitionDateTime=DAY + ACQUIRED,
        FrameReferenceDateTime=DAY + ACQUIRED,
        FrameAcquisitionDuration=1000 * exam.phantom.protocol.tr_s,
        StackID="1",
        InStackPositionNumber=z + 1,
    )
    measures = item(PixelSpacing=exam.placement.spacing, SliceThickness=thickness, SpacingBetweenSlices=thickness)
    return item(
        FrameContentSequence=[content],
        MREchoSequence=[item(EffectiveEchoTime=float(echo_ms(exam.phantom.acquisition.te_s[echo])))],
        MRImageFrameTypeSequence=[kind],
        PlanePositionSequence=[item(ImagePositionPatient=exam.placement.positions[z])],
        PlaneOrientationSequence=[item(ImageOrientationPatient=exam.placement.orientation)],
        PixelMeasuresSequence=[measures],
        FrameVOILUTSequence=[window],
        PixelValueTransformationSequence=[transformation],
    )
