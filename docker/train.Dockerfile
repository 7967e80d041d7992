# Runs every entry point of MLproject. Build it from the top folder:
#   docker build --file docker/train.Dockerfile --tag adaptf-train .
FROM python:3.11-slim-trixie

# g++: torch.compile writes C++. tini: `docker stop` reaches the stage, not only `mlflow run`.
# Debian keeps one version of a package per release, so an exact one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ tini \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 adaptf \
    && install --directory --owner=adaptf /cache /home/adaptf/project
WORKDIR /home/adaptf/project

ENV GIT_PYTHON_REFRESH=quiet \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1 \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor

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

USER 1000
ENTRYPOINT ["tini", "-g", "--"]
CMD ["mlflow", "run", ".", "--env-manager", "local"]
