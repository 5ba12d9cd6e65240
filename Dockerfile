# psla for a CPU: `psla serve`, or any other command in its place.
#   docker build -t psla .      --build-arg PIP_EXTRA_INDEX_URL=...: of torch's wheels for CPUs, a tenth of those with CUDA
#   docker run -p 8000:8000 psla
#   docker run -v "$PWD:/work" psla train esc50 --clips esc50.parquet --out runs/esc50
FROM python:3.12-slim AS build
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE /source/
COPY src /source/src
ARG PIP_EXTRA_INDEX_URL
RUN python -m venv /opt/psla \
    && /opt/psla/bin/pip install --no-cache-dir -c /source/constraints.txt \
        "/source[serve,onnx,hub,remote,tensorboard]"

FROM python:3.12-slim
COPY --from=build /opt/psla /opt/psla
RUN useradd --create-home --uid 10001 psla && install -d -o psla /work
ENV PATH=/opt/psla/bin:$PATH PYTHONUNBUFFERED=1 PSLA_CACHE=/home/psla/.cache/psla
USER psla
WORKDIR /work
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["psla"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
