// As demo.c, with the classes of asyncipc.hpp. In three terminals:
//
//   demo-cpp server echo
//   demo-cpp client echo
//   demo-cpp client echo
//
// demo.c says what can be typed, and the README how to build it.

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>

#include "asyncipc.hpp"

// Lines come from two threads: each in one call, and at once.
static void Say(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

static unsigned long Adler32(const std::string& data) {
    unsigned long a = 1, b = 0;
    for (unsigned char byte : data) {
        a = (a + byte) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

class PipeCallback : public IPipeDelegate {
public:
    PipeCallback(INamedPipe* pipe, PipeType type) : pipe_(pipe), type_(type) {}

    void OnCreate(bool ok) override {
        if (!ok) return Say(std::string("cannot listen: ") + pipe_->LastError());
        Say(type_ == PIPE_SERVER ? "listening" : "connecting");
    }

    void OnConnected(bool ok) override {
        if (!ok) return Say(std::string("cannot connect: ") + pipe_->LastError());
        Say(Who() + "connected");
    }

    void OnSend(int size) override {
        messages_sent += 1;
        bytes_sent += size;
    }

    void OnRecv(void* data, int size) override {
        messages_received += 1;
        bytes_received += size;
        const std::string message(static_cast<char*>(data), size);
        if (size < 4096 && message.find('\0') == std::string::npos) return Say(Who() + message);
        char checksum[9];
        std::snprintf(checksum, sizeof checksum, "%08lx", Adler32(message));
        Say(Who() + std::to_string(size) + " bytes, checksum " + checksum);
    }

    void OnDisconnected() override { Say(Who() + "disconnected"); }

    // Only the callbacks touch them, until Exit has returned.
    std::uint64_t messages_sent = 0, bytes_sent = 0, messages_received = 0, bytes_received = 0;

private:
    std::string Who() const { return "[" + std::to_string(pipe_->Client()) + "] "; }

    INamedPipe* const pipe_;
    const PipeType type_;
};

static bool SendBinary(INamedPipe* pipe, std::size_t size, unsigned count) {
    std::string data(size, '\0');
    for (unsigned n = 0; n < count; n++) {
        for (std::size_t i = 0; i < size; i++) data[i] = static_cast<char>((i % 251 * 31 + n) % 251);
        if (!pipe->Send(data.data(), data.size())) return false;
    }
    return true;
}

// Does what a line says.
static bool Command(INamedPipe* pipe, const std::string& line) {
    std::istringstream words(line);
    std::string word;
    std::uint64_t client;
    words >> word;
    if (word == "/binary") {
        std::size_t size;
        unsigned count;
        if (words >> size >> count) return SendBinary(pipe, size, count);
    } else if (word == "/to" && words >> client) {
        std::string text;
        std::getline(words >> std::ws, text);
        return pipe->SendTo(client, text.data(), text.size());
    } else if (word == "/disconnect" && words >> client) {
        return pipe->Disconnect(client);
    }
    return pipe->Send(line.c_str());
}

static int Fail(const char* what) {
    std::fprintf(stderr, "error: cannot %s: %s\n", what, asyncipc_last_error());
    return 1;
}

int main(int argc, char** argv) {
    PipeImplType name = PIPE_ASYNC;
    bool messages = false;
    int i = 1;
    for (; i < argc && std::string(argv[i]).compare(0, 2, "--") == 0; i++) {
        messages |= std::string(argv[i]) == "--messages";
        if (std::string(argv[i]) == "--overlapped") name = PIPE_OVERLAPPED;
    }
    const std::string role = argc - i == 2 ? argv[i] : "";
    if (role != "server" && role != "client") {
        std::fprintf(stderr, "usage: demo-cpp [--messages] [--overlapped] server|client NAME\n");
        return 2;
    }
    const PipeType type = role == "server" ? PIPE_SERVER : PIPE_CLIENT;

    InitEasyLog(role.c_str());
    INamedPipe* pipe = nullptr;
    if (CreateInstance(name, &pipe) != 0) return Fail("make a pipe");
    PipeCallback callback(pipe, type);
    if (messages && !pipe->SetOption(ASYNCIPC_OPTION_MESSAGE_MODE, 1)) {
        return Fail("keep messages apart");
    }
    pipe->SetOption(ASYNCIPC_OPTION_WAIT_FOR_SERVER, 1);
    pipe->SetOption(ASYNCIPC_OPTION_DRAIN_TIMEOUT, 60000);
    pipe->SetOption(ASYNCIPC_OPTION_SEND_TIMEOUT, 60000);
    if (!pipe->Create(argv[i + 1], type, &callback)) return Fail("begin");

    std::string line;
    while (std::getline(std::cin, line)) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (line == "/exit") break;
        if (!Command(pipe, line)) Say(std::string("not done: ") + pipe->LastError());
    }

    pipe->Exit();
    std::ostringstream total;
    total << "sent " << callback.messages_sent << " messages, " << callback.bytes_sent
          << " bytes; received " << callback.messages_received << " messages, "
          << callback.bytes_received << " bytes";
    Say(total.str());
    delete pipe;
    return 0;
}
