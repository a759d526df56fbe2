"""A real PACS: Orthanc routes a study to the node by itself, and both derived series come back into that study."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydicom
import pytest
from pydicom.uid import MRImageStorage

from node import loopback
from node.config import Settings
from node.deliver import Item, Sent, StoreLink
from node.identity import PRODUCT
from node.load import load
from node.overview import asides, deliveries, fetches, summaries
from node.peers import Peer, Tls
from node.service import Node
from node.stow import StowLink
from node.tls import Credentials
from recon.pipeline import Result, reconstruct

T = TypeVar("T")

PLUGIN_FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
CLONE_NEWNET = 0x40000000

ROUTE_EVERYTHING = """
function OnStableSeries(id, tags, metadata)
  RestApiPost('/modalities/node/store', DumpJson({Resources = {id}, Asynchronous = true}, true))
end
"""


class Network:
    """A network of its own for programs that listen on every address; without the right to make one, the host's."""

    def __init__(self, ip: str) -> None:
        self._ip = ip
        self.name = f"qsm-node-{os.getpid()}"
        self.private = (
            subprocess.run([ip, "netns", "add", self.name], capture_output=True, check=False).returncode == 0
        )
        self.prefix = [ip, "netns", "exec", self.name] if self.private else []
        if self.private:
            subprocess.run([*self.prefix, ip, "link", "set", "lo", "up"], check=True)

    def run(self, work: Callable[[], T]) -> T:
        """Do something in a thread that lives in this network, as do the threads and processes that it starts."""
        with ThreadPoolExecutor(1, initializer=self._enter) as thread:
            return thread.submit(work).result()

    def _enter(self) -> None:
        if not self.private:
            return
        with Path(f"/run/netns/{self.name}").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def remove(self) -> None:
        if self.private:
            subprocess.run([self._ip, "netns", "delete", self.name], check=True)


@pytest.fixture
def network(peer: Callable[[str], str]) -> Iterator[Network]:
    network = Network(peer("ip"))
    yield network
    network.remove()


def free_port() -> int:
    """A loopback port that nobody uses now, in the network of this thread."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Orthanc:
    """Orthanc with DICOMweb, routing every stable series to the node."""

    def __init__(
        self, program: str, plugin: Path, network: Network, folder: Path, node_port: int, **more: object
    ) -> None:
        self.dicom_port, self.http_port = free_port(), free_port()
        (folder / "route.lua").write_text(ROUTE_EVERYTHING)
        (folder / "pacs.json").write_text(
            json.dumps(
                {
                    "DicomAet": "TESTPACS",
                    "DicomPort": self.dicom_port,
                    "HttpPort": self.http_port,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "StorageDirectory": str(folder / "db"),
                    "IndexDirectory": str(folder / "db"),
                    "Plugins": [str(plugin)],
                    "DicomCheckCalledAet": True,
                    "DicomAlwaysAllowStore": True,
                    "StableAge": 1,
                    "OverwriteInstances": False,
                    "DicomModalities": {"node": ["QSMNODE", "127.0.0.1", node_port]},
                    "LuaScripts": [str(folder / "route.lua")],
                    **more,
                }
            )
        )
        self.log = folder / "orthanc.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*network.prefix, program, str(folder / "pacs.json")],
                stdout=log, stderr=log, env={**os.environ, "TCP_NODELAY": "1"},
            )  # fmt: skip

    def get(self, path: str) -> bytes:
        """Body of a GET."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}{path}", headers={"Accept": "application/json, */*"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            body: bytes = response.read()
        return body

    def json(self, path: str) -> Any:
        """JSON of a GET."""
        return json.loads(self.get(path))

    def answers(self) -> bool:
        """Whether REST is up."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return bool(self.json("/system"))
        except OSError:
            return False

    def instances(self) -> int:
        """How many instances are stored."""
        return int(self.json("/statistics")["CountInstances"])

    def datasets(self, series_uid: str) -> list[pydicom.Dataset]:
        """The instances of a series, as Orthanc gives them out."""
        found = [s for s in self.json("/series?expand") if s["MainDicomTags"]["SeriesInstanceUID"] == series_uid]
        return [pydicom.dcmread(BytesIO(self.get(f"/instances/{i}/file"))) for i in found[0]["Instances"]]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def plugin(peer: Callable[[str], str]) -> Path:
    """Orthanc's DICOMweb plugin."""
    peer("Orthanc")
    found = [path for folder in PLUGIN_FOLDERS for path in sorted(Path(folder).glob("libOrthancDicomWeb.so*"))]
    if not found:
        reason = "Orthanc's DICOMweb plugin is not installed: apt-get install orthanc-dicomweb"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return found[0]


@pytest.mark.peers
def test_a_study_that_the_pacs_routes_comes_back_as_two_series(
    peer: Callable[[str], str],
    plugin: Path,
    network: Network,
    tmp_path: Path,
    tiny_study: list[Path],
    eventually: Callable[..., None],
) -> None:
    network.run(lambda: route_and_check(peer, plugin, network, tmp_path, tiny_study, eventually))


def route_and_check(
    peer: Callable[[str], str],
    plugin: Path,
    network: Network,
    tmp_path: Path,
    tiny_study: list[Path],
    eventually: Callable[..., None],
) -> None:
    node_port = free_port()
    pacs = Orthanc(peer("Orthanc"), plugin, network, tmp_path, node_port)
    try:
        eventually(pacs.answers, "Orthanc answers", 60)
        settings = Settings(
            port=node_port,
            data_dir=tmp_path / "data",
            quiet_s=4.0,
            peers={"pacs": Peer(ae_title="TESTPACS", host="127.0.0.1", port=pacs.dicom_port, commitment=True)},
        )
        with Node(settings) as node:
            send = [peer("storescu"), "-aet", "SCANNER", "-aec", "TESTPACS", "127.0.0.1", str(pacs.dicom_port)]
            folder = str(tiny_study[0].parent.parent)
            subprocess.run(
                [*network.prefix, *send, "+sd", "+r", folder], check=True, env={**os.environ, "TCP_NODELAY": "1"}
            )
            assert pacs.instances() == len(tiny_study)

            eventually(
                lambda: [s.state for s in summaries(node.journal)] == ["delivered"], "results are delivered", 120
            )
            eventually(
                lambda: {(d.state, d.objects) for d in deliveries(node.journal, 1)} == {("committed", 16)},
                "Orthanc commits them over an association that it opens",
                60,
            )
            back = 2 * 16
            eventually(
                lambda: sum(a.count for a in asides(node.journal)) >= back, "Orthanc routes the results back", 60
            )
            (aside,) = asides(node.journal)
            assert (aside.kind, aside.reason) == ("ignored", "derived by this product, sent back")
            assert (aside.count, aside.sender) == (back, "TESTPACS")
            (summary,) = summaries(node.journal)
            assert (summary.images, summary.state, summary.attempts) == (len(tiny_study), "delivered", 1)
        assert pacs.instances() == len(tiny_study) + back
        check_series(pacs, tiny_study)
    finally:
        pacs.stop()


@pytest.mark.peers
def test_what_is_sent_by_stow_is_stored_once(
    peer: Callable[[str], str], plugin: Path, network: Network, tmp_path: Path, tiny_study: list[Path],
    eventually: Callable[..., None],
) -> None:  # fmt: skip
    def store_twice() -> None:
        pacs = Orthanc(peer("Orthanc"), plugin, network, tmp_path, free_port())
        try:
            eventually(pacs.answers, "Orthanc answers", 60)
            items = [Item(MRImageStorage, str(pydicom.dcmread(path).SOPInstanceUID), path) for path in tiny_study]
            link = StowLink(Peer(url=f"http://127.0.0.1:{pacs.http_port}/dicom-web"))
            for _ in range(2):
                assert {answer.outcome for answer in link.send(items[:8])} == {"stored"}
            damaged = tmp_path / "damaged.dcm"
            ds = pydicom.dcmread(tiny_study[8])
            del ds.SOPInstanceUID, ds.StudyInstanceUID
            ds.save_as(damaged)
            (refused, stored) = link.send([Item(MRImageStorage, "1.2", damaged), items[9]])
            assert (refused.outcome != "stored", stored.outcome) == (True, "stored")
            link.close()
            assert pacs.instances() == 9
        finally:
            pacs.stop()

    network.run(store_twice)


@pytest.mark.peers
@pytest.mark.parametrize("lost", ["images of an echo", "the phase"])
def test_what_is_lost_on_the_way_is_fetched(
    peer: Callable[[str], str], plugin: Path, network: Network, tmp_path: Path, tiny_study: list[Path],
    eventually: Callable[..., None], lost: str,
) -> None:  # fmt: skip
    def lose_and_wait() -> None:
        node_port = free_port()
        pacs = Orthanc(peer("Orthanc"), plugin, network, tmp_path, node_port, LuaScripts=[])
        try:
            eventually(pacs.answers, "Orthanc answers", 60)
            loopback.send([*tiny_study, *own_series(tiny_study[:16], tmp_path)], pacs.dicom_port, "TESTPACS")
            known = Peer(ae_title="TESTPACS", host="127.0.0.1", port=pacs.dicom_port, fetch=True)
            settings = Settings(port=node_port, quiet_s=1.0, data_dir=tmp_path / "data", peers={"pacs": known})
            phase = [path for path in tiny_study if pydicom.dcmread(path).ImageType[2] == "P"]
            missing = phase if lost == "the phase" else phase[2:5]
            with Node(settings) as node:
                loopback.send([p for p in tiny_study if p not in missing], node_port, "QSMNODE", "TESTPACS")
                eventually(
                    lambda: [s.state for s in summaries(node.journal)] == ["delivered"], "results are delivered", 120
                )
                assert [s.images for s in summaries(node.journal)] == [len(tiny_study)]
                (asked,) = fetches(node.journal, 1)
                assert asked.sentence == f"{len(missing)} images in 1 series are missing here: {len(missing)} sent"
                assert asides(node.journal) == []
            assert pacs.instances() == len(tiny_study) + 3 * 16
        finally:
            pacs.stop()

    network.run(lose_and_wait)


def own_series(images: list[Path], folder: Path) -> list[Path]:
    """A series of the study that a node derived before."""
    paths = [folder / f"own{n}.dcm" for n in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        ds = pydicom.dcmread(image)
        ds.ManufacturerModelName, ds.SeriesInstanceUID = PRODUCT, "1.2.3"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID[:60]}.7"
        ds.save_as(path)
    return paths


@pytest.mark.peers
def test_over_tls_in_both_directions(
    peer: Callable[[str], str],
    plugin: Path,
    network: Network,
    tmp_path: Path,
    tiny_study: list[Path],
    eventually: Callable[..., None],
    new_authority: Callable[..., Any],
) -> None:
    authority = new_authority()
    own, theirs = authority.issue("node"), authority.issue("pacs")

    def check() -> None:
        node_port = free_port()
        pacs = Orthanc(
            peer("Orthanc"), plugin, network, tmp_path, node_port,
            DicomTlsEnabled=True,
            DicomTlsCertificate=str(theirs.certificate),
            DicomTlsPrivateKey=str(theirs.key),
            DicomTlsTrustedCertificates=str(authority.certificate),
            DicomModalities={"node": {"AET": "QSMNODE", "Host": "127.0.0.1", "Port": node_port, "UseDicomTls": True}},
        )  # fmt: skip
        try:
            eventually(pacs.answers, "Orthanc answers", 60)
            known = Peer(ae_title="TESTPACS", host="127.0.0.1", port=pacs.dicom_port, tls=True, certified_as="pacs")
            files = Tls(certificate=own.certificate, key=own.key, authorities=authority.certificate, port=node_port)
            settings = Settings(port=0, tls=files, data_dir=tmp_path / "data", peers={"pacs": known})
            item = Item(MRImageStorage, pydicom.dcmread(tiny_study[0]).SOPInstanceUID, tiny_study[0])
            with Node(settings) as node:
                link = StoreLink(known, "QSMNODE", [MRImageStorage], Credentials(files).client())
                assert link.send([item]) == [Sent("stored")]
                link.close()
                eventually(
                    lambda: [s.senders for s in summaries(node.journal)] == [("TESTPACS",)], "it is routed", 60
                )
        finally:
            pacs.stop()

    network.run(check)


def check_series(pacs: Orthanc, tiny_study: list[Path]) -> None:
    """What QIDO lists, and that the stored values and geometry are those of a reconstruction of the same files."""
    sources = [pydicom.dcmread(path) for path in tiny_study]
    study_uid = sources[0].StudyInstanceUID
    listed = pacs.json(f"/dicom-web/studies/{study_uid}/series?includefield=0008103E")
    series = {one["0008103E"]["Value"][0]: one for one in listed}
    assert len(listed) == 4
    derived = {name: one for name, one in series.items() if name.startswith(("QSM", "HPF"))}
    assert len(derived) == 2
    assert {one["00080060"]["Value"][0] for one in listed} == {"MR"}

    result = reconstruct(load(tiny_study).acquisition)
    for name, one in derived.items():
        datasets = pacs.datasets(one["0020000E"]["Value"][0])
        assert {ds.StudyInstanceUID for ds in datasets} == {study_uid}
        check_geometry(datasets, sources)
        check_values(datasets, result, name)


def check_geometry(datasets: list[pydicom.Dataset], sources: list[pydicom.Dataset]) -> None:
    by_place = {tuple(ds.ImagePositionPatient): ds for ds in sources}
    assert {tuple(ds.ImagePositionPatient) for ds in datasets} == set(by_place)
    for ds in datasets:
        source = by_place[tuple(ds.ImagePositionPatient)]
        for keyword in (
            "ImageOrientationPatient",
            "PixelSpacing",
            "SliceThickness",
            "FrameOfReferenceUID",
            "Rows",
            "Columns",
        ):
            assert ds[keyword].value == source[keyword].value, keyword


def check_values(datasets: list[pydicom.Dataset], result: Result, name: str) -> None:
    """Every pixel within half a ppb (half a mrad) of the reconstruction, axes as in `recon.types`."""
    expected = 1000 * (result.chi.chi_ppm if name.startswith("QSM") else -result.highpass_rad)
    stack = sorted(datasets, key=lambda ds: float(ds.ImagePositionPatient[2]))
    stored = np.stack([ds.pixel_array.T for ds in stack], axis=2)
    assert stored.shape == expected.shape
    assert np.ptp(stored) > 50
    assert np.abs(stored - expected).max() <= 0.5 + 1e-4  # float32 rounding of values up to 3142
