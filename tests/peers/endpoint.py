"""A program that knows nothing of asyncipc, and takes part by name all the same.

    endpoint.py PATH    says hello, asks for a sum, prints the replies, and leaves

On the wire each message is its length, 4 bytes big-endian, and then a JSON object. For Unix sockets.
"""

import json
import socket
import struct
import sys


def write(stream, **envelope):
    message = json.dumps(envelope).encode()
    stream.write(struct.pack(">I", len(message)) + message)
    stream.flush()


def read(stream):
    (length,) = struct.unpack(">I", stream.read(4))
    return json.loads(stream.read(length))


def main():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    stream = connection.makefile("rwb")
    write(stream, action="hello", **{"from": "python"}, data={"text": "grüße 🦀"})
    for number, (action, data) in enumerate([("sum", [1, 2, 3]), ("unknown", None)], 1):
        write(stream, action=action, **{"from": "python"}, data=data, id=number)
        reply = read(stream)
        print(f"{reply['reply']}: {reply.get('error') or json.dumps(reply['data'])}")


main()
