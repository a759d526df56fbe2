"""A scanner and a PACS on this machine, for the demo: real DICOM peers that know nothing of the node.

The scanner is a storage SCU. The PACS is a storage SCP that writes what it is sent into a folder, one sub-folder
for each series. Both use the loopback interface alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pydicom
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.events import EventHandlerType

from node.association import on_open
from node.errors import TransientError

LOOPBACK = "127.0.0.1"
SUCCESS = 0x0000
CANNOT_UNDERSTAND = 0xC000


class Pacs:
    """A storage SCP on a free loopback port (``port``) while the ``with`` block lasts."""

    def __init__(self, folder: Path, ae_title: str = "PACS") -> None:
        self.folder = folder
        self.ae_title = ae_title
        self._ae = AE(ae_title)
        self._ae.supported_contexts = StoragePresentationContexts
        self._arrived = threading.Condition()
        self._paths: dict[str, Path] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        handlers: list[EventHandlerType] = [(evt.EVT_CONN_OPEN, on_open), (evt.EVT_C_STORE, self._store)]
        server = self._ae.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
        assert server is not None
        self.port: int = server.server_address[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ae.shutdown()

    def paths(self) -> list[Path]:
        """Every instance stored so far."""
        with self._arrived:
            return list(self._paths.values())

    def wait_for_more(self, than: int, timeout_s: float) -> int:
        """Number of instances, as soon as it exceeds ``than`` or the time is over."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._paths) > than, timeout_s)
            return len(self._paths)

    def _store(self, event: evt.Event) -> int:
        try:
            ds = event.dataset
            path = self.folder / f"series-{ds.SeriesNumber}" / f"{ds.InstanceNumber:04d}.dcm"
            uid = str(ds.SOPInstanceUID)
        except (AttributeError, ValueError, TypeError):
            return CANNOT_UNDERSTAND
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(event.encoded_dataset())
        with self._arrived:
            self._paths[uid] = path
            self._arrived.notify_all()
        return SUCCESS


def send(
    paths: Sequence[Path],
    port: int,
    called_ae: str,
    calling_ae: str = "SCANNER",
    sent: Callable[[int], None] = lambda _: None,
) -> None:
    """Send MR images, classic or enhanced, to a loopback port in one association, in this order.

    ``sent`` hears how many are stored.

    Raises
    ------
    TransientError
        There is no association, or an image was not answered with Success.
    """
    ae = AE(calling_ae)
    for sop_class in (MRImageStorage, EnhancedMRImageStorage):
        ae.add_requested_context(sop_class)
    handlers: list[EventHandlerType] = [(evt.EVT_CONN_OPEN, on_open)]
    association = ae.associate(LOOPBACK, port, ae_title=called_ae, evt_handlers=handlers)
    if not association.is_established:
        raise TransientError(f"{called_ae} on port {port} accepts no association from {calling_ae}")
    try:
        for count, path in enumerate(paths, start=1):
            status = association.send_c_store(pydicom.dcmread(path))
            if status.get("Status") != SUCCESS:
                answer = f"0x{status.Status:04X}" if "Status" in status else "no answer"
                raise TransientError(f"{called_ae} answered {answer} to image {count} of {len(paths)}")
            sent(count)
    finally:
        association.release()
