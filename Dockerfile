# The demo in a container: a small drawn world in which RefAlign and other methods make videos, all seven
# components score them, and a page shows them.
#
#   docker build -t refbench .
#   docker run --rm -v "$PWD/demo-output:/output" --user "$(id -u):$(id -g)" refbench
#   docker run --rm -v "$PWD:/output" --user "$(id -u):$(id -g)" refbench doctor
#
# The second line writes demo-output/, which must be there and yours. This file was linted, but not built where
# it was written: that needs a network.

FROM python:3.11-slim-bookworm

# What OpenCV's wheel looks for in the system.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# `--build-arg EXTRAS=` is the core alone, without torch: enough for `demo --quick`.
ARG EXTRAS=[metrics,baselines]

WORKDIR /source
COPY . .
RUN pip install --no-cache-dir ".${EXTRAS}" --constraint constraints.txt

RUN useradd --uid 1000 --create-home refbench && mkdir /output && chown refbench /output
USER 1000
# A user of another id has no home of its own here: caches go where anybody may write.
ENV HOME=/tmp
WORKDIR /output

ENTRYPOINT ["refbench"]
CMD ["demo", "--out", "/output/demo"]
