"""A network that answers everything, and records all packets for other machines.

For a network namespace in which every address is local, so that each packet passes its loopback
device, whatever its address and port.
"""

import ctypes
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

RESOLVER = "192.0.2.53"
# Names get addresses of this network, which is for documentation.
_NAMES = "203.0.113."
_MAX_NAMES = 254
_EVERY_PROTOCOL, _SENT, _IPV6 = 3, 4, 6
_TCP, _UDP, _DNS, _TLS = 6, 17, 53, 443
# A packet to this address ends the watching.
_END, _DISCARD = "192.0.2.54", 9
# Bytes of a packet to read: enough for the longest name in a question.
_HEAD_BYTES = 600
_SOL_PACKET, _STATISTICS = 263, 6
_SO_ATTACH_FILTER = 26
# Classic BPF: code, jumps if true and if false, operand. It drops packets for 127.0.0.0/8 or ::1:
# training on several processes sends its gradients there, faster than Python can read.
_LOAD, _LOAD_BYTE, _SHIFT, _EQUAL, _RETURN = 0x20, 0x30, 0x74, 0x15, 0x06
_NO_LOOPBACK = (
    (_LOAD_BYTE, 0, 0, 0),
    (_SHIFT, 0, 0, 4),
    (_EQUAL, 2, 0, _IPV6),
    (_LOAD_BYTE, 0, 0, 16),  # IPv4's target
    (_EQUAL, 9, 8, 127),
    (_LOAD, 0, 0, 24),  # IPv6's target, in four words
    (_EQUAL, 0, 6, 0),
    (_LOAD, 0, 0, 28),
    (_EQUAL, 0, 4, 0),
    (_LOAD, 0, 0, 32),
    (_EQUAL, 0, 2, 0),
    (_LOAD, 0, 0, 36),
    (_EQUAL, 1, 0, 1),
    (_RETURN, 0, 0, 0xFFFF),
    (_RETURN, 0, 0, 0),
)


# By address; written by the resolver's thread only.
_Names = dict[str, str]


@dataclass
class Seen:
    """Queried names, and destinations of packets, each in order and without repetition."""

    queries: dict[str, None] = field(default_factory=dict)
    connections: dict[str, None] = field(default_factory=dict)
    missed: int = 0  # packets for elsewhere that came too fast to read


@contextmanager
def watched() -> Iterator[Seen]:
    """What leaves during the block; complete at its end. Raises errors of the watcher."""
    seen, over = Seen(), threading.Event()
    names: _Names = {}
    with (
        # It receives nothing before it is bound.
        closing(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)) as packets,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as resolver,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end,
        closing(socket.create_server(("0.0.0.0", _TLS))) as listener,
    ):
        drop_loopback(packets)
        packets.bind(("lo", _EVERY_PROTOCOL))
        resolver.bind((RESOLVER, _DNS))
        for one in (resolver, listener):
            one.settimeout(0.2)
        with ThreadPoolExecutor(3) as pool:
            looking = pool.submit(_look, packets, seen, names)
            answering = (
                pool.submit(_resolve, resolver, names, over),
                pool.submit(_accept, listener, over),
            )
            try:
                yield seen
            finally:
                over.set()
                while not looking.done():  # more than once, in case the buffer is full
                    end.sendto(b"", (_END, _DISCARD))
                    wait([looking], 0.2)
        for work in (looking, *answering):
            work.result()
        _, seen.missed = struct.unpack("II", packets.getsockopt(_SOL_PACKET, _STATISTICS, 8))


def drop_loopback(packets: socket.socket) -> None:
    """Let `packets`, whose data begin with an IP header, receive only packets for elsewhere."""
    program = b"".join(struct.pack("HBBI", *step) for step in _NO_LOOPBACK)
    held = ctypes.create_string_buffer(program)
    program = struct.pack("HL", len(_NO_LOOPBACK), ctypes.addressof(held))
    packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _look(packets: socket.socket, seen: Seen, names: _Names) -> None:
    last = socket.inet_aton(_END)
    while True:
        packet, (_, _, kind, *_) = packets.recvfrom(_HEAD_BYTES)
        if kind != _SENT:
            continue  # received: the same packet once more, maybe after its sender has ended
        if packet[16:20] == last:
            return
        _note(packet, seen, names)


def _note(packet: bytes, seen: Seen, names: _Names) -> None:
    target: IPv4Address | IPv6Address
    if packet[0] >> 4 == _IPV6:
        target, protocol, rest = ip_address(packet[24:40]), packet[6], packet[40:]
    else:
        length = 4 * (packet[0] & 0xF)
        target, protocol, rest = ip_address(packet[16:20]), packet[9], packet[length:]
    if protocol not in (_TCP, _UDP):
        return
    source_port, port = struct.unpack("!HH", rest[:4])
    if protocol == _UDP and source_port == _DNS:
        return  # our own answer
    if protocol == _UDP and port == _DNS:
        seen.queries.setdefault(_question(rest[8:])[0])
        return
    if protocol == _TCP and rest[13] & 0x12 != 0x02:
        return  # not the first of a connection
    word = "udp " if protocol == _UDP else ""
    seen.connections.setdefault(f"{word}{names.get(str(target), target)}:{port}")


def _resolve(resolver: socket.socket, names: _Names, over: threading.Event) -> None:
    while not over.is_set():
        try:
            asked, sender = resolver.recvfrom(4096)
        except TimeoutError:
            continue
        name, end = _question(asked)
        (kind,) = struct.unpack("!H", asked[end : end + 2])
        found = kind == 1  # only IPv4 addresses exist; other kinds get an empty answer
        head = asked[:2] + struct.pack("!HHHHH", 0x8180, 1, int(found), 0, 0)
        answer = head + asked[12 : end + 4]
        if found:
            answer += struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4)
            # Another one for each name, while there are.
            free = f"{_NAMES}{min(len(names) + 1, _MAX_NAMES)}"
            address = next((given for given, known in names.items() if known == name), free)
            names.setdefault(address, name)
            answer += socket.inet_aton(address)
        resolver.sendto(answer, sender)


def _question(message: bytes) -> tuple[str, int]:
    """The first name that `message` asks for, and where it ends."""
    labels, place = [], 12
    while place < len(message) and (length := message[place]):
        labels.append(message[place + 1 : place + 1 + length].decode("latin-1"))
        place += 1 + length
    return ".".join(labels), place + 1


def _accept(listener: socket.socket, over: threading.Event) -> None:
    """Accept TLS connections and close them: a refused client might not try again."""
    while not over.is_set():
        try:
            taken, _ = listener.accept()
        except TimeoutError:
            continue
        taken.close()
