# syntax=docker/dockerfile:1
# A small image without root and compiler. doorward writes to /var/lib/doorward only.
#
#   docker build -t doorward .
#   docker run --rm doorward --help

FROM rust:1-bookworm AS build
WORKDIR /build
# Dependencies are built first, because they change less often than the sources.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY tests/support/Cargo.toml tests/support/
RUN mkdir src tests/support/src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs tests/support/src/lib.rs \
    && cargo build --release --locked \
    && rm -r src
COPY . .
# The placeholder files above are newer than the sources, so cargo would not rebuild them.
RUN find src -name '*.rs' -exec touch {} + && cargo build --release --locked

FROM debian:bookworm-slim
# For upstreams with https. The binary has no other dependencies.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/doorward doorward \
    && install -d -o doorward -g doorward -m 0700 /var/lib/doorward
COPY --from=build /build/target/release/doorward /usr/local/bin/doorward
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/doorward/

USER 10001:10001
# The state directory. Set server.state_dir to it in the configuration.
WORKDIR /var/lib/doorward
VOLUME /var/lib/doorward
ENV DOORWARD_CONFIG=/etc/doorward/doorward.toml
EXPOSE 8443 8080

# /ready reports whether the session store responds. The image has no curl.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/9180 && printf 'GET /ready HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && grep -q ' 200 ' <&3"]

STOPSIGNAL SIGTERM
ENTRYPOINT ["doorward"]
CMD ["run"]
