# docker build --target cpu -t lth .          then: docker run --rm lth doctor
# docker build --target cuda -t lth:cuda .    then: docker run --rm --gpus all lth:cuda doctor
# Runs and data are kept outside: docker run -v "$PWD/runs:/lab/runs" -v DATA:/data lth run digits
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim AS cpu
RUN useradd --create-home lth && mkdir -p /lab/runs /data && chown -R lth /lab /data
COPY --from=build /wheels /wheels
COPY constraints/py3.12.txt /wheels/constraints.txt
RUN pip install --no-cache-dir -c /wheels/constraints.txt /wheels/*.whl
ENV LTH_DATA=/data
USER lth
WORKDIR /lab
ENTRYPOINT ["lth"]
CMD ["--help"]

# The libraries of CUDA come with JAX's wheels: the host has the driver, and no more.
FROM cpu AS cuda
USER root
RUN pip install --no-cache-dir -c /wheels/constraints.txt "jax[cuda13]"
USER lth
