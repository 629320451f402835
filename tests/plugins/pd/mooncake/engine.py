"""Mooncake's transfer engine, as far as SGLang calls it: writes into the memory of another process, over TCP.

Who sends which bytes where, and when, is SGLang's own. A message is the number of blocks, address and length
of each, then their bytes; the answer is one byte. Addresses are trusted: both ends are the test's servers.
"""

import ctypes
import socket
import struct
import threading

_BLOCK = struct.Struct("<QQ")


def _receive(peer, size):
    data = bytearray(size)
    view = memoryview(data)
    while view:
        got = peer.recv_into(view)
        if not got:
            raise ConnectionError("the sender left")
        view = view[got:]
    return data


def _serve(listener):
    while True:
        peer, _ = listener.accept()
        with peer:
            (count,) = struct.unpack("<Q", _receive(peer, 8))
            blocks = list(_BLOCK.iter_unpack(_receive(peer, count * _BLOCK.size)))
            for address, length in blocks:
                ctypes.memmove(address, bytes(_receive(peer, length)), length)
            peer.sendall(b"\1")


class TransferEngine:
    def initialize(self, hostname, metadata, protocol, device):
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=_serve, args=(self._listener,), daemon=True).start()
        return 0

    def get_rpc_port(self):
        return self._listener.getsockname()[1]

    def batch_register_memory(self, addresses, lengths):
        return 0

    def batch_unregister_memory(self, addresses):
        return 0

    def send_probe(self, session):
        return 0

    def transfer_sync_write(self, session, source, target, length):
        return self.batch_transfer_sync_write(session, [source], [target], [length])

    def batch_transfer_sync_write(self, session, sources, targets, lengths):
        host, port = session.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as peer:
            head = b"".join(_BLOCK.pack(*block) for block in zip(targets, lengths))
            peer.sendall(struct.pack("<Q", len(lengths)) + head)
            for source, length in zip(sources, lengths):
                peer.sendall(ctypes.string_at(source, length))
            return 0 if peer.recv(1) == b"\1" else -1
