# The demo in a container, run by a plain user:
#   docker build --tag hsc-companion .
#   docker run --name hsc-demo hsc-companion
#   docker cp hsc-demo:/home/companion/hsc/results/demo/book .    (then open book/index.html)
# The book is copied out rather than written into a mounted folder, which belongs to another user.
FROM python:3.12-slim-bookworm AS base
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home companion
USER companion
# a folder of its own user: not every builder gives WORKDIR to USER
RUN mkdir /home/companion/hsc

FROM base
# lock: the build with CUDA, for a machine with a GPU (docker run --gpus all)
ARG TORCH=cpu
WORKDIR /home/companion/hsc
COPY --chown=companion . .
RUN make environment TORCH="$TORCH" && rm -rf /home/companion/.cache
CMD ["make", "demo"]
