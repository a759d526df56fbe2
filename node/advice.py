"""What to do about each reason why there is no QSM, in the words of `docs/refusals.md`.

Knows nothing of images. The page that a radiologist gets (`node.notices`) and the documentation say the same.
"""

from __future__ import annotations

_SEND_AGAIN = "send the whole study again; check the routing rule and the PACS"
_MULTI_ECHO = "use a multi-echo gradient-echo protocol that stores phase of every echo"
_SAMPLE = "a sample without patient data helps: the next version of qsm-node may read it"
_HEADER = "check what exported or changed the images: the scanner writes it"
_EVEN = "use one stack of evenly spaced slices"
_MEMORY = "give the node more memory"
_REPORT = "report it with what the node's log says"
_NOTHING = "nothing: not gradient echo for QSM"

ADVICE = {
    "incomplete": _SEND_AGAIN,
    "duplicate-images": "send one scan",
    "unreadable": "send it again",
    "missing-metadata": "complete the sidecar",
    "no-phase": "store phase (Siemens, Philips) or real and imaginary images (GE) of every echo",
    "phase-difference": _MULTI_ECHO,
    "field-map-hz": _MULTI_ECHO,
    "processed-swi": "store the unprocessed phase",
    "filtered-phase": "store the unprocessed phase: switch off SWI and phase filters",
    "derived-image": "send the original images",
    "uncombined-coils": "switch on coil combination",
    "lossy-compression": "send uncompressed or losslessly compressed",
    "too-few-echoes": "more echoes",
    "slice-gaps": "contiguous slices, or a 3D scan",
    "ambiguous-phase": "keep SequenceName when exporting or anonymising",
    "too-few-slices": "cover the head",
    "epi-or-mosaic": _NOTHING,
    "not-mr-gre": _NOTHING,
    "unverified-sign": f"state them in the configuration if you know them; {_SAMPLE}",
    "suspect-phase": _SAMPLE,
    "suspect-magnitude": _SAMPLE,
    "ambiguous-chopper": _SAMPLE,
    "no-scaling": _HEADER,
    "uneven-slices": _EVEN,
    "mixed-geometry": _EVEN,
    "no-geometry": _HEADER,
    "no-echo-time": _HEADER,
    "echo-times": _HEADER,
    "no-frequency": _HEADER,
    "frequency-mismatch": _HEADER,
    "mixed-acquisitions": "send one scan at a time",
    "mixed-variants": "store all echoes in the same way: normalised and corrected, or not",
    "sign-contradiction": "to see the map: `withhold_contradictions = false`, then `qsm-node jobs retry ID` "
    "or `qsm-node reconstruct --config FILE`",
    "own-output": "nothing: it is recognised and left alone",
    "bad-mask": "give a mask of these images, NIfTI or DICOM Segmentation",
    "no-mask": "reconstruct with a mask of yours: `qsm-node reconstruct --mask FILE`",
    "out-of-memory": _MEMORY,
    "worker-lost": _MEMORY,
    "time-limit": "give the node more memory or more cores",
    "disk-full": "free space: it goes on by itself",
    "disk": "free space, check the disk",
    "not-reproduced": "go back to version and settings of then and `qsm-node jobs retry ID`, or "
    "`qsm-node jobs forget ID`",
    "bad-input": _REPORT,
    "node-crash": _REPORT,
    "internal-error": _REPORT,
}
"""What to do, by the code of a `node.errors.Refusal`."""


def advice_on(code: str) -> str:
    """What to do, as a sentence."""
    text = ADVICE.get(code, "see the node's log").replace("`", "")
    return f"{text[0].upper()}{text[1:]}."
