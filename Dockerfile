# pgweir in a small image that runs as nobody in particular.
#
#   docker build -t pgweir .
#   docker run -p 6432:6432 -v ./pooler.yaml:/etc/pgweir/pooler.yaml:ro pgweir

FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
# Debug sections are most of the file and of no use without the sources; names of functions stay,
# for backtraces.
RUN cargo build --release --locked --bin pgweir \
    && objcopy --strip-debug target/release/pgweir /pgweir

FROM debian:bookworm-slim
RUN groupadd --system --gid 6432 pgweir \
    && useradd --system --uid 6432 --gid pgweir --no-create-home --shell /usr/sbin/nologin pgweir \
    && mkdir /etc/pgweir
COPY --from=build /pgweir /usr/local/bin/pgweir
COPY deploy/healthcheck /usr/local/bin/pgweir-healthcheck
USER pgweir
EXPOSE 6432 9432
# SIGTERM drains: give it the time of timeouts.shutdown (docker stop --time).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["pgweir-healthcheck"]
ENTRYPOINT ["pgweir"]
CMD ["run", "--config", "/etc/pgweir/pooler.yaml"]
