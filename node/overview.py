"""The journal as an administrator reads it: one line for each acquisition, and what was not taken.

Reads only. Knows the journal's tables and nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from node.journal import Journal
from node.report import Report


@dataclass(frozen=True, slots=True)
class Summary:
    """Where an acquisition is on its way, and why it is not further.

    ``state`` is receiving, incomplete, refused, queued, running, failed, done (nowhere to send), delivering,
    delivered, undeliverable or forgotten. Times are seconds since the epoch. ``notice`` is the state of the job that
    makes the study's page "QSM not produced"; empty where there is none.
    """

    id: int
    state: str
    study_uid: str
    senders: tuple[str, ...]
    images: int
    received_at: float
    attempts: int
    delivered: int
    deliveries: int
    code: str
    sentence: str
    notice: str


@dataclass(frozen=True, slots=True)
class DeliveryGroup:
    """Deliveries of one series to one destination in the same state; those with a sentence apart."""

    destination: str
    series: str
    state: str
    objects: int
    attempts: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """What a peer was asked for of an acquisition that lacks images, how often, and what came of it the last time."""

    peer: str
    state: str
    attempts: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Aside:
    """Objects that were not taken (ignored, rejected, conflict): how many, from whom, why."""

    kind: str
    reason: str
    sender: str
    count: int
    last_at: float


def summaries(journal: Journal, acquisition_id: int | None = None) -> list[Summary]:
    """Every acquisition, or one; oldest first."""
    rows = journal.query(
        """
        SELECT a.id, a.state, a.study_uid, a.code, a.sentence, i.senders, i.images, i.received_at,
               j.state, j.code, j.sentence, COALESCE(j.attempts, 0),
               COALESCE(d.delivered, 0), COALESCE(d.total, 0), COALESCE(d.forgotten, 0),
               u.objects, COALESCE(u.sentence, d.sentence), n.state
        FROM acquisition a
        JOIN (SELECT acquisition_id, COUNT(*) AS images, json_group_array(DISTINCT sender) AS senders,
                     MAX(received_at) AS received_at
              FROM instance GROUP BY acquisition_id) i ON i.acquisition_id = a.id
        LEFT JOIN job j ON j.id = (SELECT MAX(id) FROM job WHERE acquisition_id = a.id AND notice = '')
        LEFT JOIN (SELECT job_id, COUNT(*) AS total, SUM(state IN ('delivered', 'stored', 'committed')) AS delivered,
                          SUM(state = 'forgotten') AS forgotten, MAX(sentence) AS sentence
                   FROM delivery GROUP BY job_id) d ON d.job_id = j.id
        LEFT JOIN (SELECT acquisition_id, COUNT(*) AS objects, MAX(delivery.sentence) AS sentence
                   FROM delivery JOIN job ON job.id = job_id
                   WHERE delivery.state = 'undeliverable' AND notice = '' GROUP BY acquisition_id) u
            ON u.acquisition_id = a.id
        LEFT JOIN (SELECT study_uid, job.state, MAX(job.id) FROM job JOIN acquisition b ON b.id = acquisition_id
                   WHERE notice <> '' GROUP BY study_uid) n ON n.study_uid = a.study_uid AND n.state <> 'superseded'
        WHERE ?1 IS NULL OR a.id = ?1 ORDER BY a.id
        """,
        acquisition_id,
    )
    return [_summary(*row) for row in rows]


def _summary(
    id_: int, state: str, study_uid: str, code: str, sentence: str, senders: str, images: int, received_at: float,
    job_state: str | None, job_code: str, job_sentence: str, attempts: int,
    delivered: int, total: int, forgotten: int,
    undeliverable: int | None, delivery_sentence: str, notice: str | None,
) -> Summary:  # fmt: skip
    if state == "complete" and job_state is not None:
        state, code, sentence = job_state, job_code, job_sentence
        if state == "done" and total:
            state = "delivering"
            if undeliverable:
                state = "undeliverable"
            elif delivered + forgotten == total:
                state = "forgotten" if forgotten else "delivered"
            code, sentence = "", delivery_sentence
    return Summary(
        id_, state, study_uid, tuple(sorted(json.loads(senders))), images, received_at,
        attempts, delivered, total, code, sentence, notice or "",
    )  # fmt: skip


def deliveries(journal: Journal, acquisition_id: int) -> list[DeliveryGroup]:
    """What became of the newest job's results, of earlier ones that were not delivered, and of the study's page."""
    rows = journal.query(
        """
        SELECT destination, series, state, COUNT(*), MAX(attempts), MAX(sentence) FROM delivery
        WHERE job_id = (SELECT MAX(id) FROM job WHERE acquisition_id = ?1 AND notice = '') OR job_id IN (
            SELECT job.id FROM job JOIN acquisition b ON b.id = acquisition_id
            WHERE notice <> '' AND study_uid = (SELECT study_uid FROM acquisition WHERE id = ?1))
            OR (state IN ('undeliverable', 'forgotten') AND job_id IN (SELECT id FROM job WHERE acquisition_id = ?1))
        GROUP BY destination, series, state, sentence <> '' ORDER BY destination, MIN(id)
        """,
        acquisition_id,
    )
    return [DeliveryGroup(*row) for row in rows]


def fetches(journal: Journal, acquisition_id: int) -> list[Fetch]:
    """What was asked for of an acquisition."""
    rows = journal.query(
        "SELECT peer, state, attempts, sentence FROM fetch WHERE acquisition_id = ? ORDER BY peer", acquisition_id
    )
    return [Fetch(*row) for row in rows]


def report(journal: Journal, acquisition_id: int) -> Report | None:
    """What is known about the newest job's results; None before there are any."""
    (newest,) = journal.query("SELECT MAX(id) FROM job WHERE acquisition_id = ? AND notice = ''", acquisition_id)[0]
    rows = journal.query("SELECT report FROM job WHERE id = ? AND report <> ''", newest)
    return Report.from_json(rows[0][0]) if rows else None


def asides(journal: Journal) -> list[Aside]:
    """What was ignored, rejected or in conflict."""
    return [Aside(*row) for row in journal.query("SELECT * FROM aside ORDER BY kind, last_at")]
