# One image for every role: caching server (the default), inference server, Ray node, the command `mead`.
# deploy/check_dockerfile.py runs these lines without Docker.
FROM debian:trixie-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv wget \
    && rm -rf /var/lib/apt/lists/*

# The locked packages first: a change of the code does not install them again.
RUN --mount=type=bind,source=requirements.lock,target=/tmp/requirements.lock \
    python3 -m venv /opt/mead \
    && /opt/mead/bin/pip install --no-cache-dir --require-hashes -r /tmp/requirements.lock

# Extras of pyproject.toml: object stores and Ray.
ARG EXTRAS=s3,ray
RUN --mount=type=bind,source=.,target=/src \
    cp -r /src /tmp/source \
    && /opt/mead/bin/pip install --no-cache-dir "/tmp/source[$EXTRAS]" \
    && rm -r /tmp/source \
    && ln -s /opt/mead/bin/mead /opt/mead/bin/ray /usr/local/bin/

RUN groupadd --gid 10001 mead \
    && useradd --uid 10001 --gid mead --home-dir /data --shell /bin/bash mead \
    && install -d -o mead -g mead /data /weights

ENV PATH=/opt/mead/bin:$PATH PYTHONUNBUFFERED=1 HOST=0.0.0.0 DATA_DIR=/data WEIGHTS_DIR=/weights \
    NUMBA_CACHE_DIR=/tmp/numba
USER mead
WORKDIR /data
VOLUME ["/data", "/weights"]
EXPOSE 5000

# Of the caching server; compose.yaml has the inference server's.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD wget -q -O /dev/null "http://127.0.0.1:${PORT:-5000}/healthz" || exit 1

CMD ["python", "-m", "caching_server"]
