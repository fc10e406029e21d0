# All programs of the shop in one image; compose.yaml starts each by its name. Works with the classic builder too.
ARG GO_IMAGE=golang:1.26-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/static-debian12:nonroot

FROM ${GO_IMAGE} AS build
WORKDIR /src
ENV CGO_ENABLED=0
# For a network of your own; empty is Go's default.
ARG GOPROXY
ARG GOFLAGS
# The dependencies change seldom: they are a layer of their own. Those of ops are those of all.
COPY go.work go.work.sum ./
COPY pkg/go.* pkg/
COPY order/go.* order/
COPY menu/go.* menu/
COPY pay/go.* pay/
COPY make/go.* make/
COPY delivery/go.* delivery/
COPY migrations/go.* migrations/
COPY ops/go.* ops/
RUN cd ops && GOWORK=off go mod download
COPY . .
RUN mkdir -p /out/bin /out/ledger && go build -buildvcs=false -trimpath -o /out/bin/ \
    ./order/cmd/order ./menu/cmd/menu ./pay/cmd/pay ./make/cmd/make ./delivery/cmd/delivery ./ops/cmd/hotchoc

FROM ${RUNTIME_IMAGE}
COPY --from=build /out/bin/ /bin/
# A volume takes its owner from the folder that it covers.
COPY --from=build --chown=65532:65532 /out/ledger /ledger
USER 65532:65532
