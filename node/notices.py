"""When a study that got no QSM gets a page that says why, and what the page says.

The page is for the radiologist who waits for a map. Routing sends whole studies, so nearly every study holds scans
that are refused; a page comes only where one was meant for QSM, once in a study, and only when the study has been
quiet for long. Knows no network and no SQL; `node.capture` makes the page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from node.advice import advice_on
from node.completeness import MIN_SLICES
from node.config import Settings
from node.headers import Header, scan_name
from node.journal import Journal
from node.log import get_logger
from node.records import Notice, Reason, Settled, Stopped

OTHER_PURPOSE = frozenset(
    {
        "epi-or-mosaic",
        "not-mr-gre",
        "derived-image",
        "own-output",
        "processed-swi",
        "phase-difference",
        "field-map-hz",
    }
)
"""Refusals of images that have their own use in a study: fMRI, diffusion, the field maps that correct these, SWI."""

LONG_TE_S = 0.010
"""Magnitude of echoes that all come earlier is Dixon: at 1.5 T fat is in phase at 4.6 and 9.2 ms, at 3 T at half."""

FORGOTTEN_S = 86400.0
"""A study is not looked at again after so long: who switches notices on gets none for what is in the journal."""

log = get_logger("node.notices")


def meant_for_qsm(code: str, headers: Sequence[Header]) -> bool:
    """Whether an acquisition that was refused or failed with this code looks like an attempt at QSM.

    The mark is several echoes: a single one with phase is SWI's raw material, or flow. With phase that is enough;
    magnitude alone has to cover a head and to reach an echo time that shows susceptibility.
    """
    frames = [frame for header in headers for frame in header.frames]
    te_s = {round(frame.te_s, 5) for frame in frames if frame.te_s > 0}
    if code in OTHER_PURPOSE or len(te_s) < 2:
        return False
    if {frame.component for frame in frames} & {"P", "R", "I"}:
        return True
    return max(te_s) >= LONG_TE_S and len({frame.position_mm for frame in frames}) >= MIN_SLICES


class Notifier:
    """Queues the page of a study that is settled without QSM.

    Parameters
    ----------
    queued
        Called after a page was queued.
    clock
        Seconds since the epoch, as the journal's.
    monotonic
        Seconds that never jump: how long a study is quiet is seen, and a node that starts anew waits again.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        queued: Callable[[], None],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._queued = queued
        self._clock = clock
        self._monotonic = monotonic
        self._settled_s: dict[Settled, float] = {}
        self._seen: set[Settled] = set()

    def step(self) -> None:
        """Look at every study that has been settled for long enough since it was last looked at."""
        now_s = self._monotonic()
        settled = set(self._journal.studies.settled(self._clock() - FORGOTTEN_S))
        self._settled_s = {study: self._settled_s.get(study, now_s) for study in settled}
        self._seen &= settled
        for study in settled - self._seen:
            if now_s - self._settled_s[study] >= 60 * self._settings.notice_after_min:
                self._look(study)
                self._seen.add(study)

    def _look(self, study: Settled) -> None:
        found = [
            (stopped, headers)
            for stopped in self._journal.studies.stopped(study.study_uid)
            if meant_for_qsm(stopped.refusal.code, headers := self._headers(stopped))
        ]
        if not found:
            return
        reasons = (Reason(scan_name(headers), s.refusal, advice_on(s.refusal.code)) for s, headers in found)
        notice = Notice(self._settings.ae_title, tuple(reasons))
        acquisition = found[0][0].acquisition_id
        derived_at = datetime.fromtimestamp(self._clock()).astimezone().replace(microsecond=0)
        job = self._journal.studies.notify(study, acquisition, notice, derived_at)
        if job is not None:
            codes = [stopped.refusal.code for stopped, _ in found]
            log.info("the study gets a page that says why", job=job, acquisition=acquisition, codes=codes)
            self._queued()

    def _headers(self, stopped: Stopped) -> list[Header]:
        try:
            return [Header.from_json(line) for line in self._journal.headers(stopped.acquisition_id)]
        except ValueError:
            log.exception("headers in the journal cannot be read", acquisition=stopped.acquisition_id)
            return []
