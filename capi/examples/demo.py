"""As demo.c, in Python. In three terminals:

    python3 capi/examples/demo.py LIBRARY server echo
    python3 capi/examples/demo.py LIBRARY client echo
    python3 capi/examples/demo.py LIBRARY client echo

LIBRARY is where the library was built, target/release/libasyncipc_capi.so or what is like it. demo.c
says what can be typed.
"""

import atexit
import ctypes
import sys
import zlib
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p

OK = 0
KIND_ASYNC, KIND_OVERLAPPED = 0, 1
ROLES = {"server": 0, "client": 1}
OPTION_MESSAGE_MODE, OPTION_SEND_TIMEOUT, OPTION_DRAIN_TIMEOUT, OPTION_WAIT_FOR_SERVER = 0, 3, 4, 7


class Callbacks(ctypes.Structure):
    _fields_ = [
        ("on_create", CFUNCTYPE(None, c_void_p, c_void_p, c_int)),
        ("on_connected", CFUNCTYPE(None, c_void_p, c_void_p, c_uint64, c_int)),
        ("on_send", CFUNCTYPE(None, c_void_p, c_void_p, c_uint64, c_size_t, c_size_t)),
        ("on_recv", CFUNCTYPE(None, c_void_p, c_void_p, c_uint64, c_void_p, c_size_t)),
        ("on_disconnected", CFUNCTYPE(None, c_void_p, c_void_p, c_uint64, c_int)),
    ]


def load(path):
    library = ctypes.CDLL(path)
    for name, arguments in {
        "create_instance": [c_int, POINTER(c_void_p)],
        "init_logging": [c_char_p],
        "set_option": [c_void_p, c_int, c_uint64],
        "create": [c_void_p, c_char_p, c_int, POINTER(Callbacks), c_void_p],
        "send": [c_void_p, c_char_p, c_size_t],
        "send_to": [c_void_p, c_uint64, c_char_p, c_size_t],
        "disconnect": [c_void_p, c_uint64],
        "exit": [c_void_p],
        "destroy": [c_void_p],
    }.items():
        getattr(library, "asyncipc_" + name).argtypes = arguments
    library.asyncipc_last_error.restype = c_char_p
    return library


def say(line):
    # Lines come from two threads: each in one call, and at once.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Demo:
    def __init__(self, library, role):
        self.library = library
        self.role = role
        # Only the callbacks touch them, until asyncipc_exit() has returned.
        self.sent = [0, 0]
        self.received = [0, 0]
        # Here, because the library calls them as long as the pipe lives.
        kinds = dict(Callbacks._fields_)
        self.callbacks = Callbacks(**{name: kinds[name](getattr(self, name)) for name in kinds})
        self.pipe = c_void_p()

    def error(self):
        return self.library.asyncipc_last_error().decode()

    def on_create(self, pipe, user, result):
        if result != OK:
            return say("cannot listen: " + self.error())
        say("listening" if self.role == "server" else "connecting")

    def on_connected(self, pipe, user, client, result):
        say(f"[{client}] connected" if result == OK else "cannot connect: " + self.error())

    def on_send(self, pipe, user, client, messages, size):
        self.sent[0] += messages
        self.sent[1] += size

    def on_recv(self, pipe, user, client, data, size):
        message = ctypes.string_at(data, size)
        self.received[0] += 1
        self.received[1] += size
        if size < 4096 and 0 not in message:
            say(f"[{client}] {message.decode(errors='replace')}")
        else:
            say(f"[{client}] {size} bytes, checksum {zlib.adler32(message):08x}")

    def on_disconnected(self, pipe, user, client, reason):
        say(f"[{client}] disconnected: " + ("it left" if reason == OK else self.error()))

    def must(self, what, result):
        if result != OK:
            sys.exit(f"error: cannot {what}: {self.error()}")

    def begin(self, name, kind, messages):
        library = self.library
        library.asyncipc_init_logging(self.role.encode())
        self.must("make a pipe", library.asyncipc_create_instance(kind, byref(self.pipe)))
        if messages:
            result = library.asyncipc_set_option(self.pipe, OPTION_MESSAGE_MODE, 1)
            self.must("keep messages apart", result)
        library.asyncipc_set_option(self.pipe, OPTION_WAIT_FOR_SERVER, 1)
        library.asyncipc_set_option(self.pipe, OPTION_DRAIN_TIMEOUT, 60000)
        library.asyncipc_set_option(self.pipe, OPTION_SEND_TIMEOUT, 60000)
        begun = library.asyncipc_create(
            self.pipe, name.encode(), ROLES[self.role], byref(self.callbacks), None
        )
        self.must("begin", begun)

    def send_binary(self, size, count):
        for n in range(count):
            period = bytes((i * 31 + n) % 251 for i in range(251))
            data = (period * (size // 251 + 1))[:size]
            result = self.library.asyncipc_send(self.pipe, data, size)
            if result != OK:
                return result
        return OK

    def command(self, line):
        """Does what a line says."""
        library, words = self.library, line.split(" ", 2)
        if words[0] == "/binary" and len(words) == 3:
            return self.send_binary(int(words[1]), int(words[2]))
        if words[0] == "/to" and len(words) == 3:
            text = words[2].encode()
            return library.asyncipc_send_to(self.pipe, int(words[1]), text, len(text))
        if words[0] == "/disconnect" and len(words) == 2:
            return library.asyncipc_disconnect(self.pipe, int(words[1]))
        text = line.encode()
        return library.asyncipc_send(self.pipe, text, len(text))

    def end(self):
        self.library.asyncipc_exit(self.pipe)
        say(
            "sent {} messages, {} bytes; received {} messages, {} bytes".format(
                *self.sent, *self.received
            )
        )

    def destroy(self):
        self.library.asyncipc_destroy(self.pipe)


def main():
    options = [it for it in sys.argv[1:] if it.startswith("--")]
    arguments = [it for it in sys.argv[1:] if not it.startswith("--")]
    if len(arguments) != 3 or arguments[1] not in ROLES:
        print("usage: demo.py [--messages] [--overlapped] LIBRARY server|client NAME", file=sys.stderr)
        sys.exit(2)
    library, role, name = arguments
    demo = Demo(load(library), role)
    kind = KIND_OVERLAPPED if "--overlapped" in options else KIND_ASYNC
    # However it ends: no callback may come when there is no interpreter any more.
    atexit.register(demo.destroy)
    demo.begin(name, kind, "--messages" in options)
    try:
        for line in sys.stdin:
            line = line.rstrip("\r\n")
            if line == "/exit":
                break
            if demo.command(line) != OK:
                say("not done: " + demo.error())
    finally:
        demo.end()


main()
