"""From an acquisition to susceptibility and GRE phase: the only place that knows the order of the stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from recon.background import reach_mm, remove_background
from recon.bipolar import corrected, readout_phase
from recon.centroid import at_middle
from recon.echoes import Echoes, echo_spacing_s, first_phase, fit_field, phase_offset, whole_turns
from recon.grid import WorkGrid
from recon.highpass import homodyne
from recon.inversion import LinearTv, Medi, NonlinearTv, Problem, invert
from recon.mask import automatic_mask
from recon.morphology import erode, inner
from recon.recipe import Recipe
from recon.reference import Reference, RegionValue, WholeBrain, ventricular_csf
from recon.reference import values as region_values
from recon.signcheck import SignCheck, check_sign
from recon.solve import Step, run
from recon.types import (
    Acquisition,
    BadInput,
    BadRecipe,
    BoolArray,
    ChiMap,
    FieldMap,
    FloatArray,
    LocalField,
    Trace,
    Vector,
)
from recon.unwrap import unwrap
from recon.weights import FLOOR_HZ, field_weight, peeled, rim_weight

BRAIN, CSF = "whole brain", "cerebrospinal fluid of the ventricles"

Progress = Callable[[str, float], None]
"""Told the stage and how much of it is done, 0 to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Everything a reconstruction yields, on the acquired grid.

    Parameters
    ----------
    chi
        Susceptibility in ppm.
    local, field
        Local field in ppm; total field in Hz with R2* and the quality of the fit.
    brain
        bool (X, Y, Z), the brain mask, given or found.
    weight2
        float32 (X, Y, Z), how far the inversion trusts the local field: its squared data weight W^2, dimensionless,
        about 1 on average over ``local.mask`` and 0 outside. Before the inversion finds contradictions (MERIT).
    highpass_rad, highpass_te_s
        float32 (X, Y, Z), high-passed phase in rad, rising with the field, of the echo at this time.
    recipe
        What was asked for.
    traces
        What each stage did.
    sign
        Whether independent evidence agrees that the phase rises with the field. Told, never acted on.
    references
        Mean chi of the whole brain, and of ventricular fluid where it was found: who wants the other reference
        subtracts it.
    """

    chi: ChiMap
    local: LocalField
    field: FieldMap
    brain: BoolArray
    weight2: FloatArray
    highpass_rad: FloatArray
    highpass_te_s: float
    recipe: Recipe
    traces: tuple[Trace, ...]
    sign: SignCheck
    references: tuple[RegionValue, ...] = ()


def reconstruct(
    acquisition: Acquisition,
    recipe: Recipe = Recipe(),  # noqa: B008  a frozen value
    mask: BoolArray | None = None,
    progress: Progress | None = None,
) -> Result:
    """Reconstruct susceptibility and GRE phase.

    Parameters
    ----------
    acquisition
        Multi-echo gradient echo; one or two echoes work too, less accurately.
    recipe
        Methods and parameters.
    mask
        bool (X, Y, Z), the brain; found automatically if absent.
    progress
        Told about stages.

    Raises
    ------
    BadInput
        If the mask does not fit the acquisition or is empty, or the volume has fewer than three slices.
    BadRecipe
        If a method cannot work on this acquisition or mask; before anything is computed that takes time.
    NoMask
        If no brain is found.
    """
    tell = progress or _silent
    if min(acquisition.geometry.shape) < 3:
        raise BadInput(f"the volume has shape {acquisition.geometry.shape}: a field needs 3 voxels along every axis")
    if mask is not None:
        check_room(checked_mask(mask, acquisition), acquisition.geometry.voxel_mm, recipe)
    f0_mhz, voxel_mm, b0_dir = acquisition.f0_mhz, acquisition.geometry.voxel_mm, acquisition.geometry.b0_dir
    traces: list[Trace] = []

    tell("GRE phase", 0)
    highpass_rad, highpass_te_s = homodyne(acquisition, recipe.highpass)
    traces.append(Trace("GRE phase", "homodyne", warnings=lowpass_warning(acquisition, recipe.highpass.samples)))

    tell("mask", 0)
    if mask is None:
        found = automatic_mask(acquisition, recipe.mask)
        brain = found.mask
        traces.append(Trace("mask", "automatic", warnings=found.warnings))
        check_room(brain, voxel_mm, recipe)
    else:
        brain = mask
        traces.append(Trace("mask", "given", warnings=parts_warning(brain)))
    grid = WorkGrid.around(brain)
    work_brain = grid.embed(brain)

    tell("field", 0)
    echoes = Echoes.of(acquisition, brain, work_brain)
    echoes, field, steps = total_field(echoes, recipe, lambda done: tell("field", done))
    traces.extend(steps)

    tell("background", 0)
    reliable = peeled(work_brain, echoes.volume(echoes.magnitude[0]))
    del echoes
    weight2, error_hz = field_weight(field, reliable, voxel_mm)
    total_ppm = hz_to_ppm(field.field_hz, f0_mhz)
    total_ppm -= np.average(total_ppm, weights=weight2)
    local, last = run(
        remove_background(total_ppm, weight2, reliable, voxel_mm, b0_dir, recipe.background),
        _teller(tell, "background"),
    )
    traces.append(Trace("background", type(recipe.background).__name__, last.iteration, last.residual))

    tell("inversion", 0)
    weight2 *= rim_weight(field, reliable, voxel_mm)
    csf = np.zeros_like(work_brain)
    if len(acquisition.te_s) > 1:  # one echo tells no R2*
        csf = ventricular_csf(field.r2s_hz, work_brain, voxel_mm, recipe.csf)
    problem = Problem(
        local=local,
        weight2=weight2,
        brain=work_brain,
        magnitude=field.amplitude,
        csf=csf,
        rad_per_ppm=2 * np.pi * f0_mhz * echo_spacing_s(acquisition.te_s),
        voxel_mm=voxel_mm,
        b0_dir=b0_dir,
    )
    inversion = recipe.inversion
    if isinstance(inversion, NonlinearTv | LinearTv | Medi):
        inversion = replace(inversion, alpha_ppm=inversion.alpha_ppm * error_hz / FLOOR_HZ)
    chi_ppm, last = run(invert(problem, inversion), _teller(tell, "inversion"))
    traces.append(Trace("inversion", type(recipe.inversion).__name__, last.iteration, last.residual))
    zero, reference, warnings = reference_region(recipe.reference, work_brain, csf)
    chi = referenced(chi_ppm, work_brain, zero)
    traces.append(Trace("reference", reference, warnings=warnings))

    chi_map, field = ChiMap(grid.restore(chi), brain, reference), restored(field, grid)
    return Result(
        chi_map,
        LocalField(grid.restore(local.field_ppm), grid.restore(local.mask)),
        field,
        brain,
        grid.restore(np.where(local.mask, weight2, np.float32(0))),
        highpass_rad,
        highpass_te_s,
        recipe,
        tuple(traces),
        check_sign(acquisition, field, chi_map),
        region_values(chi, {BRAIN: work_brain, CSF: csf}),
    )


def restored(field: FieldMap, grid: WorkGrid) -> FieldMap:
    """The field map on the acquired grid."""
    return FieldMap(
        grid.restore(field.field_hz),
        grid.restore(field.sd_hz),
        grid.restore(field.r2s_hz),
        grid.restore(field.amplitude),
        grid.restore(field.misfit),
        field.noise,
    )


def total_field(
    echoes: Echoes, recipe: Recipe, tell: Callable[[float], None]
) -> tuple[Echoes, FieldMap, tuple[Trace, ...]]:
    """Field of all sources from the echoes of a brain; and the echoes, read forwards all of them."""
    readout = readout_phase(echoes, recipe.readout)
    echoes = corrected(echoes, readout)
    phase, second, amplitude = (echoes.volume(values) for values in first_phase(echoes))
    unwrapped = unwrap(phase, second, amplitude, echoes.mask, recipe.unwrap)
    spacing_s = echo_spacing_s(echoes.te_s)
    start_hz = unwrapped[echoes.mask] / np.float32(2 * np.pi * spacing_s)
    start_hz += np.float32(whole_turns(echoes, start_hz) / spacing_s)
    tell(0.3)
    offset_rad = phase_offset(echoes, start_hz, recipe.echoes)
    field = fit_field(echoes, start_hz, offset_rad, recipe.echoes)
    field = at_middle(field, echoes.mask, echoes.te_s, spacing_s)
    misfit = float(np.median(field.misfit[echoes.mask]))
    fit = Trace("field", f"{type(recipe.unwrap).__name__}, complex fit", residual=misfit)
    return echoes, field, (Trace("readout", readout.words), fit)


def hz_to_ppm(field_hz: FloatArray, f0_mhz: float) -> FloatArray:
    """Field in ppm of B0: 1 ppm is ``f0_mhz`` Hz."""
    return field_hz / np.float32(f0_mhz)


def referenced(chi_ppm: FloatArray, brain: BoolArray, zero: BoolArray) -> FloatArray:
    """Chi relative to its mean over ``zero``, 0 outside the brain."""
    mean = np.float32(chi_ppm[zero].mean(dtype=np.float64))
    return np.where(brain, chi_ppm - mean, np.float32(0))


def reference_region(method: Reference, brain: BoolArray, csf: BoolArray) -> tuple[BoolArray, str, tuple[str, ...]]:
    """Where chi is to be 0 on average, the region's name, and what to say where the wanted one was not found."""
    if isinstance(method, WholeBrain):
        return brain, BRAIN, ()
    if csf.any():
        return csf, CSF, ()
    return brain, BRAIN, ("no ventricular cerebrospinal fluid was found: values refer to the whole brain",)


def checked_mask(mask: BoolArray, acquisition: Acquisition) -> BoolArray:
    """The mask given by the user, if it fits the acquisition."""
    if mask.shape != acquisition.geometry.shape:
        raise BadInput(f"mask has shape {mask.shape}, the acquisition {acquisition.geometry.shape}")
    if mask.dtype != np.bool_:
        raise BadInput(f"mask must be bool, got {mask.dtype}")
    if not mask.any() or not inner(mask[WorkGrid.around(mask).box]).any():
        raise BadInput(f"mask holds {np.count_nonzero(mask)} voxels, none of them inside: too small to reconstruct")
    dark = float(np.mean(acquisition.magnitude[0][mask] == 0))
    if dark > 0.3:
        raise BadInput(f"mask: {100 * dark:.0f} % of its voxels have no signal at all: it is not a mask of tissue")
    return mask


def check_room(brain: BoolArray, voxel_mm: Vector, recipe: Recipe) -> None:
    """Raise BadRecipe where background removal would leave nothing of the brain."""
    radius_mm = reach_mm(recipe.background)
    if radius_mm and not erode(np.pad(brain, 1), voxel_mm, radius_mm).any():
        method = type(recipe.background).__name__
        raise BadRecipe(f"background: {method} needs a ball of {radius_mm:g} mm inside the mask, and none fits")


def lowpass_warning(acquisition: Acquisition, samples: int) -> tuple[str, ...]:
    """What to say of a low-pass that keeps all that was acquired."""
    x, y, _ = acquisition.geometry.shape
    return (
        (f"the low-pass of {samples} samples is no narrower than the matrix {x} x {y}",)
        if samples >= min(x, y)
        else ()
    )


def parts_warning(mask: BoolArray) -> tuple[str, ...]:
    """What to say of a mask whose parts do not touch: nothing ties their fields to one another."""
    count = ndimage.label(mask[WorkGrid.around(mask).box])[1]
    return (f"the mask has {count} parts that do not touch: values of small parts are unsure",) if count > 1 else ()


def _silent(_stage: str, _done: float) -> None:
    pass


def _teller(tell: Progress, stage: str) -> Callable[[Step], None]:
    return lambda step: tell(stage, step.iteration / step.limit)
