# The server. With CUDA unless TORCH_INDEX is that of PyTorch's CPU packages:
#   docker build --tag bilstm-server:cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
# For the torch of another index: `make lock TORCH_INDEX=URL` first.

ARG BASE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

# -- what pip installs -------------------------------------------------------------------------
# A layer of its own, which changes with requirements/ and not with the source. Each file is one whose
# hash is in requirements/, and none is built here.

FROM ${BASE} AS dependencies
WORKDIR /src
ARG TORCH_INDEX=""
# Which of requirements/torch-*.txt is installed: unless it is named, that of the index.
ARG TORCH_BUILD=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements requirements
# Nothing is kept that the server never uses: installers, headers, static libraries, tests, what
# Triton profiles with.
RUN index=${TORCH_INDEX%/} && build=${TORCH_BUILD:-${index##*/}} \
 && torch=requirements/torch-${build:-cuda}.txt \
 && if ! test -f "$torch"; then \
      echo "$torch is missing: make lock TORCH_INDEX=$TORCH_INDEX" >&2; exit 1; \
    fi \
 && python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --require-hashes --only-binary :all: \
      ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
      --requirement requirements/server.txt --requirement "$torch" \
 && /opt/venv/bin/pip uninstall --yes setuptools \
 && /opt/venv/bin/pip uninstall --yes pip \
 && find /opt/venv/lib -type d \
      '(' -name tests -o -path '*/torch/include' -o -path '*/torch/share' -o -path '*/torch/test' \
          -o -path '*/triton/backends/nvidia/lib/cupti' ')' \
      -prune -exec rm -rf {} + \
 && find /opt/venv/lib -type f \
      '(' -name '*.a' -o -path '*/torch/bin/*' ! -name torch_shm_manager ')' -delete

# -- the project, with its CPU kernel for every instruction set ---------------------------------

FROM ${BASE} AS project
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY --from=dependencies /opt/venv /opt/venv
COPY requirements/build.txt requirements/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: \
      --requirement requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY client client
COPY server server
ENV PYTHONPATH=/opt/bilstm
RUN /opt/build/bin/pip install --no-cache-dir --no-deps --no-build-isolation --target /opt/bilstm . \
 && sed --in-place '1s|^#!.*|#!/opt/venv/bin/python3|' /opt/bilstm/bin/* \
 && /opt/bilstm/bin/bilstm-server compile --all

# -- what runs ---------------------------------------------------------------------------------

FROM ${BASE}
LABEL org.opencontainers.image.title="bilstm-server" \
      org.opencontainers.image.description="Encodes sequences with a bidirectional LSTM, over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin bilstm \
 && install --directory --owner 10001 /var/cache/triton
COPY --from=dependencies /opt/venv /opt/venv
# Triton, which comes with CUDA, compiles a C module at run time.
RUN if ls --directory /opt/venv/lib/*/site-packages/triton 2> /dev/null; then \
      apt-get update \
      && apt-get install --yes --no-install-recommends gcc libc6-dev \
      && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=project /opt/bilstm /opt/bilstm
# Every interface of the container's own network; what of it is published is the host's to say. So it
# is to be said, too, how others are kept from it: without BILSTM_TLS_CERT and BILSTM_TLS_KEY the
# server starts only with BILSTM_INSECURE=true, where nobody else is or a proxy has TLS.
ENV PATH=/opt/bilstm/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/bilstm \
    PYTHONDONTWRITEBYTECODE=1 \
    BILSTM_HOST=0.0.0.0 \
    BILSTM_LOG_FORMAT=json \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_DIR=/var/cache/triton
USER 10001
EXPOSE 50051 9464
# By the port of metrics and probes, which asks for no token.
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 \
  CMD ["python3", "-I", "-S", "/opt/bilstm/bilstm_server/probes/healthcheck.py"]
ENTRYPOINT ["bilstm-server"]
CMD ["serve"]
