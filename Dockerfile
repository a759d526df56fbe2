# qsm-node in a container: one volume (/data), one port (11112), no root, read-only root file system if wanted.
# BASE: any Debian-based image with Python >= 3.11, or a bare Debian 12.
ARG BASE=python:3.11-slim

# Python and libgomp (numba's thread-safe threading layer). gdcm links libstdc++ and zlib: every Debian has them, for apt.
FROM ${BASE} AS base
RUN apt-get update \
    && python=$(command -v python3 >/dev/null || echo python3) \
    && apt-get install --yes --no-install-recommends libgomp1 $python \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
# A certificate bundle other than pip's own, for networks that need one.
ARG PIP_CERT
RUN python3 -c 'import ensurepip' 2>/dev/null \
    || (apt-get update && apt-get install --yes --no-install-recommends python3-venv)
WORKDIR /src
COPY requirements/run.txt requirements/build.txt requirements/
RUN python3 -m venv /opt/qsm-node && python3 -m venv /opt/build \
    && /opt/qsm-node/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY node node
COPY recon recon
COPY phantoms phantoms
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/qsm-node/bin/pip install --no-cache-dir --no-deps --no-index dist/*.whl
# The image ships compiled kernels. Numba refuses a cache that it cannot write, so the first start copies them to the
# volume. They fit the processor that built the image; on another one the first job compiles them once, half a
# minute, and the volume keeps them. (NUMBA_CPU_NAME=generic would fit everywhere, at the price of slow vector code.)
RUN NUMBA_CACHE_DIR=/opt/qsm-node/share/qsm-node/kernels /opt/qsm-node/bin/qsm-node warmup

FROM base
COPY --from=build /opt/qsm-node /opt/qsm-node
RUN groupadd --gid 10001 qsm-node \
    && useradd --uid 10001 --gid qsm-node --no-create-home --home-dir /data --shell /usr/sbin/nologin qsm-node \
    && install --directory --owner=qsm-node --group=qsm-node /data
# Everything that is written lies in the volume: spool, journal, results, compiled kernels, temporary files.
ENV PATH=/opt/qsm-node/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    QSM_NODE_HOST=0.0.0.0 \
    QSM_NODE_DATA_DIR=/data \
    NUMBA_CACHE_DIR=/data/cache/numba \
    MPLCONFIGDIR=/data/cache/matplotlib
USER qsm-node
WORKDIR /data
VOLUME /data
EXPOSE 11112
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["qsm-node", "health"]
ENTRYPOINT ["qsm-node"]
CMD ["serve"]
