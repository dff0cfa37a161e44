"""gRPC with grpcio (C core) as client and server."""

import contextlib
import queue
import unittest

import grpc
from servers_running import behind_gateway

HOST = "rpc.localhost"
TIMEOUT_SECONDS = 20


class Grpc(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        gateway = cls.enterClassContext(behind_gateway("rpc"))
        ca = (gateway.home / "certs/ca.pem").read_bytes()
        options = [("grpc.ssl_target_name_override", HOST), ("grpc.default_authority", HOST)]
        target, credentials = f"127.0.0.1:{gateway.port}", grpc.ssl_channel_credentials(ca)
        channel = grpc.secure_channel(target, credentials, options)
        cls.channel = cls.enterClassContext(contextlib.closing(channel))

    def test_a_unary_call_returns_message_and_metadata(self):
        method = self.channel.unary_unary("/compat.App/Unary")
        response, call = method.with_call(b"hello", metadata=[("x-sent", "1")], timeout=TIMEOUT_SECONDS)
        self.assertEqual((response, call.code()), (b"HELLO", grpc.StatusCode.OK))
        self.assertEqual(dict(call.initial_metadata())["x-seen"], "1")
        self.assertEqual(dict(call.trailing_metadata())["x-end"], "1")

    def test_a_large_message_arrives_whole(self):
        method = self.channel.unary_unary("/compat.App/Unary")
        self.assertEqual(method(b"a" * 1_000_000, timeout=TIMEOUT_SECONDS), b"A" * 1_000_000)

    def test_a_failed_call_returns_status_details_and_metadata(self):
        method = self.channel.unary_unary("/compat.App/Unary")
        with self.assertRaises(grpc.RpcError) as failed:
            method(b"fail", timeout=TIMEOUT_SECONDS)
        self.assertEqual(failed.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertEqual(failed.exception.details(), "not now, ümlaut")
        self.assertEqual(dict(failed.exception.trailing_metadata())["reason-bin"], b"\x00\xff")

    def test_an_unknown_method_is_unimplemented(self):
        with self.assertRaises(grpc.RpcError) as failed:
            self.channel.unary_unary("/compat.App/None")(b"", timeout=TIMEOUT_SECONDS)
        self.assertEqual(failed.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_a_server_stream_arrives_in_order(self):
        method = self.channel.unary_stream("/compat.App/Download")
        received = list(method(b"500", timeout=TIMEOUT_SECONDS))
        self.assertEqual(received, [b"%d" % index for index in range(500)])

    def test_a_client_stream_arrives_whole(self):
        method = self.channel.stream_unary("/compat.App/Upload")
        parts = (b"x" * 10_000 for _ in range(100))
        self.assertEqual(method(parts, timeout=TIMEOUT_SECONDS), b"1000000")

    def test_both_directions_of_a_call_are_interleaved(self):
        requests = queue.SimpleQueue()
        method = self.channel.stream_stream("/compat.App/Chat")
        responses = method(iter(requests.get, None), timeout=TIMEOUT_SECONDS)
        for request in (b"a", b"b", b"c"):
            requests.put(request)
            self.assertEqual(next(responses), request.upper())
        requests.put(None)
        self.assertEqual(list(responses), [])


if __name__ == "__main__":
    unittest.main()
