# syntax=docker/dockerfile:1
# doorward in a small image: no root, no compiler, nothing written outside /var/lib/doorward.
#
#   docker build -t doorward .
#   docker run --rm doorward --help

FROM rust:1-bookworm AS build
WORKDIR /build
# Dependencies first: they change less often than we do.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY tests/support/Cargo.toml tests/support/
RUN mkdir src tests/support/src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs tests/support/src/lib.rs \
    && cargo build --release --locked \
    && rm -r src
COPY . .
# The stand-ins above are newer than the sources: cargo would believe that nothing changed.
RUN find src -name '*.rs' -exec touch {} + && cargo build --release --locked

FROM debian:bookworm-slim
# For https upstreams. Everything else is in the binary.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/doorward doorward \
    && install -d -o doorward -g doorward -m 0700 /var/lib/doorward
COPY --from=build /build/target/release/doorward /usr/local/bin/doorward
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/doorward/

USER 10001:10001
# The state. A configuration in /etc/doorward names it with server.state_dir.
WORKDIR /var/lib/doorward
VOLUME /var/lib/doorward
ENV DOORWARD_CONFIG=/etc/doorward/doorward.toml
EXPOSE 8443 8080

# Ready means that the session store answers. The image has no curl, and needs none.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/9180 && printf 'GET /ready HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && grep -q ' 200 ' <&3"]

STOPSIGNAL SIGTERM
ENTRYPOINT ["doorward"]
CMD ["run"]
