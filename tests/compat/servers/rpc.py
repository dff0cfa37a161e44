"""A gRPC server on the C core with one method of each kind. Messages are bytes."""

import sys
from concurrent import futures

import grpc


def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    if request == b"fail":
        context.set_trailing_metadata([("reason-bin", b"\x00\xff")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now, ümlaut")
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata([("x-seen", metadata.get("x-sent", ""))])
    context.set_trailing_metadata([("x-end", "1")])
    return request.upper()


def download(request: bytes, context: grpc.ServicerContext):
    for index in range(int(request)):
        yield b"%d" % index


def upload(requests, context: grpc.ServicerContext) -> bytes:
    return b"%d" % sum(len(request) for request in requests)


def chat(requests, context: grpc.ServicerContext):
    for request in requests:
        yield request.upper()


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Download": grpc.unary_stream_rpc_method_handler(download),
    "Upload": grpc.stream_unary_rpc_method_handler(upload),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
}

if __name__ == "__main__":
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("compat.App", HANDLERS)])
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()
