# Two images with MLflow at the bottom: `tracking` is the MLflow server, `router` (the default) serves the router.
#   docker build --file docker/serve.Dockerfile --tag adaptf-router .
ARG PYTHON_IMAGE=python:3.11-slim-trixie
FROM ${PYTHON_IMAGE} AS base

RUN useradd --create-home --uid 1000 adaptf
WORKDIR /home/adaptf

ENV PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

COPY constraints.txt ./
RUN pip install --constraint=constraints.txt mlflow

COPY docker/from-files.sh docker/healthy.py ./
ENTRYPOINT ["/home/adaptf/from-files.sh"]


FROM base AS tracking

RUN pip install --constraint=constraints.txt boto3 "mlflow[auth]" psycopg2-binary
COPY docker/basic_auth.ini docker/bucket.py docker/users.py docker/webhook.py ./

USER 1000
EXPOSE 5000


FROM base AS router

# The router computes on the CPU, but without options pip takes PyTorch's CUDA build (on x86-64), some gigabytes more.
# torchao: an INT8 model cannot be loaded without its operators. openvino runs it several times as fast, ONNX
# Runtime where that cannot run, as on ARM. httptools and uvloop: uvicorn takes them where they are installed.
ARG TORCH_PIP_OPTIONS=""
RUN pip install --constraint=constraints.txt ${TORCH_PIP_OPTIONS} torch \
    && pip install --constraint=constraints.txt \
        filelock httptools "jsonargparse[signatures]" onnx onnxruntime openvino orjson prometheus-client psutil pybase64 \
        soundfile soxr torchao uvloop

COPY README.md pyproject.toml ./
COPY adaptf adaptf
# /kept: what serves, for a start while the registry is away.
RUN pip install --no-deps . \
    && install --directory --owner=adaptf /kept
VOLUME /kept

USER 1000
EXPOSE 5001
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "healthy.py", "5001"]
CMD ["python", "-m", "adaptf.mlproject.serve", "--host", "0.0.0.0", "--keep", "/kept"]
