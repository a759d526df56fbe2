"""What a derived object inherits from its source image: a whitelist, copied unchanged.

Texts keep their bytes, so that no character set is ever re-encoded. Nothing private, no display transformation and
no pixel statistics pass: a copied (0043,102F) would turn a susceptibility map into a GE phase image.
"""

from __future__ import annotations

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import VR, format_number_as_ds


def _keywords(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_PATIENT = _keywords(
    """
    SpecificCharacterSet TimezoneOffsetFromUTC PatientName PatientID IssuerOfPatientID TypeOfPatientID
    PatientBirthDate PatientBirthTime PatientSex OtherPatientIDs OtherPatientNames PatientAge PatientSize
    PatientWeight EthnicGroup Occupation MedicalAlerts Allergies SmokingStatus PregnancyStatus
    AdditionalPatientHistory PatientComments PatientSpeciesDescription PatientBreedDescription
    ResponsiblePerson PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence
    ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSiteID
    ClinicalTrialSiteName ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ClinicalTrialTimePointID
    ClinicalTrialTimePointDescription LongitudinalTemporalInformationModified
    """
)

_STUDY = _keywords(
    """
    StudyInstanceUID StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence StudyID
    ReferringPhysicianName StudyDescription ProcedureCodeSequence AdmittingDiagnosesDescription InstitutionName
    InstitutionAddress InstitutionalDepartmentName PerformedProcedureStepID PerformedProcedureStepStartDate
    PerformedProcedureStepStartTime PerformedProcedureStepDescription BodyPartExamined
    """
)

_GEOMETRY = _keywords(
    """
    FrameOfReferenceUID PositionReferenceIndicator ImagePositionPatient ImageOrientationPatient PixelSpacing
    SliceThickness SpacingBetweenSlices SliceLocation PatientPosition Rows Columns
    """
)

_ACQUISITION = _keywords(
    """
    AcquisitionDate AcquisitionTime AcquisitionDateTime AcquisitionNumber ProtocolName ScanningSequence
    SequenceVariant ScanOptions MRAcquisitionType SequenceName AngioFlag RepetitionTime EchoTime EchoNumbers
    EchoTrainLength InversionTime FlipAngle VariableFlipAngleFlag NumberOfAverages ImagingFrequency
    ImagedNucleus MagneticFieldStrength NumberOfPhaseEncodingSteps PercentSampling PercentPhaseFieldOfView
    PixelBandwidth ReconstructionDiameter ReceiveCoilName TransmitCoilName AcquisitionMatrix
    InPlanePhaseEncodingDirection SAR dBdt ContrastBolusAgent
    """
)

INHERITED = tuple(Tag(keyword) for keyword in (*_PATIENT, *_STUDY, *_GEOMETRY, *_ACQUISITION))
OF_STUDY = INHERITED[: len(_PATIENT) + len(_STUDY)]

_EMPTY_IF_ABSENT_OF_STUDY = _keywords(
    """
    PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber StudyID
    ReferringPhysicianName
    """
)
"""Type 2 attributes of patient and study (PS3.3 C.7.1.1, C.7.2.1): present, if need be without a value."""

_EMPTY_IF_ABSENT = _keywords(
    """
    PositionReferenceIndicator PatientPosition ScanOptions MRAcquisitionType EchoTime
    EchoTrainLength SliceThickness RepetitionTime
    """
)
"""The further ones of the MR Image IOD (PS3.3 A.4)."""

_UNPAIRED = set(_keywords("BRAIN HEAD SKULL NECK SPINE CSPINE TSPINE LSPINE HEART LIVER ABDOMEN PELVIS WHOLEBODY"))
"""Defined terms of BodyPartExamined (PS3.16 annex L) for which Laterality must be absent."""

_TEXT = {
    VR.AE,
    VR.AS,
    VR.CS,
    VR.DA,
    VR.DS,
    VR.DT,
    VR.IS,
    VR.LO,
    VR.LT,
    VR.PN,
    VR.SH,
    VR.ST,
    VR.TM,
    VR.UC,
    VR.UI,
    VR.UT,
}


_BINARY = {VR.AT, VR.FD, VR.FL, VR.SL, VR.SS, VR.SV, VR.UL, VR.US, VR.UV}
"""A number that some write where a text belongs: its bytes are none."""
_DECIMAL_STRING = 16
"""Longest value of VR DS, PS3.5 table 6.2-1."""


def inherited(source: Dataset) -> Dataset:
    """A new dataset with everything that a derived image takes over from its source image."""
    target = _whitelisted(source, INHERITED, _EMPTY_IF_ABSENT_OF_STUDY + _EMPTY_IF_ABSENT)
    for keyword, value in (("ScanningSequence", "GR"), ("SequenceVariant", "NONE")):
        if keyword not in target:
            setattr(target, keyword, value)
    return target


def inherited_study(source: Dataset) -> Dataset:
    """A new dataset with everything that any object takes over from another one: patient, study, part of the body."""
    return _whitelisted(source, OF_STUDY, _EMPTY_IF_ABSENT_OF_STUDY)


def keep_bytes(ds: Dataset) -> None:
    """Have what is raw written as it is, in explicit VR little endian."""
    charset = convert_encodings(ds.SpecificCharacterSet) if "SpecificCharacterSet" in ds else default_encoding
    ds.set_original_encoding(False, True, charset)


def _whitelisted(source: Dataset, tags: tuple[BaseTag, ...], empty_if_absent: tuple[str, ...]) -> Dataset:
    target = Dataset()
    for tag in tags:
        if tag in source:
            _copy(source, tag, target)
    for keyword in empty_if_absent:
        if keyword not in target:
            setattr(target, keyword, None)
    if source.get("Laterality"):
        target.Laterality = source.Laterality
    elif str(source.get("BodyPartExamined", "")).strip() not in _UNPAIRED:
        target.Laterality = None
    return target


def _copy(source: Dataset, tag: int, target: Dataset) -> None:
    item = source.get_item(tag)
    vr = dictionary_VR(tag)
    if item.VR in _BINARY and vr in _TEXT - {VR.DS, VR.IS}:
        return  # no text
    if isinstance(item, RawDataElement) and item.value and vr in _TEXT and item.VR not in _BINARY:
        value = item.value + (b"\0" if vr == VR.UI else b" ") * (len(item.value) % 2)
        target[tag] = item._replace(VR=vr, length=len(value), value=value)  # its length may have been undefined
        return
    element = source[tag]
    if vr == VR.DS and not element.is_empty:
        target[tag] = DataElement(Tag(tag), vr, [_decimal(value) for value in _values(element)])
    elif vr != VR.SQ:
        target[tag] = DataElement(Tag(tag), vr, None if element.is_empty else element.value)
    elif element.value:
        for part in element.value:
            part.remove_private_tags()
        target[tag] = element


def _values(element: DataElement) -> list[object]:
    return [element.value] if element.VM == 1 else list(element.value)


def _decimal(value: object) -> str:
    """As it stands in the source, unless that is a binary number with more digits than fit."""
    text = str(value)
    return text if len(text) <= _DECIMAL_STRING else format_number_as_ds(float(text))
