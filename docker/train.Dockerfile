# Runs every entry point of MLproject. Build it from the top folder:
#   docker build --file docker/train.Dockerfile --tag adaptf-train .
ARG PYTHON_IMAGE=python:3.11-slim-trixie
FROM ${PYTHON_IMAGE}

# g++: torch.compile writes C++, and adaptf has some. tini: `docker stop` reaches the stage, and whoever it has started.
# Debian keeps one version of a package per release, so an exact one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ tini \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 adaptf \
    && install --directory --owner=adaptf /home/adaptf/project /home/adaptf/project/cache
WORKDIR /home/adaptf/project

# All that is written lies in `cache`, so that a volume there keeps it: the next container goes on.
ENV ADAPTF_WORK=/home/adaptf/project/cache/work \
    TORCHINDUCTOR_CACHE_DIR=/home/adaptf/project/cache/torchinductor \
    MPLCONFIGDIR=/home/adaptf/project/cache/libraries/matplotlib \
    XDG_CACHE_HOME=/home/adaptf/project/cache/libraries \
    HABANA_LOGS=/home/adaptf/project/cache/libraries/neural_compressor

ENV GIT_PYTHON_REFRESH=quiet \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

# From the slowest layer to the one that changes most. Without options pip takes PyTorch's CUDA build (on x86-64).
ARG TORCH_PIP_OPTIONS=""
COPY constraints.txt ./
RUN pip install --constraint=constraints.txt ${TORCH_PIP_OPTIONS} torch torchaudio

COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /tmp/requirements.txt \
    && pip install --constraint=constraints.txt --requirement=/tmp/requirements.txt

COPY MLproject README.md conda.yaml ./
COPY adaptf adaptf
RUN pip install --no-deps --editable .

COPY docker/from-files.sh /usr/local/bin/
USER 1000
ENTRYPOINT ["tini", "-g", "--", "from-files.sh"]
# Not `mlflow run`, which dies of SIGTERM at once, and the container with it, while the stage still has its runs to end.
CMD ["adaptf", "main"]
