"""A peer that knows nothing of asyncipc: it echoes messages until the other end closes.

    echo.py connect PATH    connect to a Unix socket, or open a Windows named pipe
    echo.py listen PATH     listen on a Unix socket for one client

On the wire each message is its length, 4 bytes big-endian, and then its bytes.
"""

import socket
import struct
import sys


def read_exactly(stream, count):
    data = b""
    while len(data) < count:
        piece = stream.read(count - len(data))
        if not piece:
            break
        data += piece
    return data


def echo(stream):
    count = 0
    while header := read_exactly(stream, 4):
        (length,) = struct.unpack(">I", header)
        message = read_exactly(stream, length)
        if len(message) != length:
            sys.exit(f"the stream ended inside message {count}")
        stream.write(struct.pack(">I", length) + message)
        stream.flush()
        count += 1
    print(count)


def main():
    mode, path = sys.argv[1:]
    if sys.platform == "win32":
        with open(path, "r+b", buffering=0) as pipe:
            echo(pipe)
        return
    connection = socket.socket(socket.AF_UNIX)
    if mode == "connect":
        connection.connect(path)
    else:
        connection.bind(path)
        connection.listen()
        connection, _ = connection.accept()
    echo(connection.makefile("rwb"))


main()
