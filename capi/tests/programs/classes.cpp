// The classes: names in wide characters, what is refused, and a pipe that its delegate deletes.

#include <pthread.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

#include "asyncipc.hpp"

#define CHECK(condition) \
    ((condition) ? (void)0 \
                 : (std::fprintf(stderr, "line %d: not so: %s; last error: %s\n", __LINE__, #condition, \
                                 asyncipc_last_error()), \
                    std::exit(1)))

// Counts, and waits for what others count.
class Counter {
public:
    Counter() : count_(0) {
        pthread_mutex_init(&mutex_, nullptr);
        pthread_cond_init(&changed_, nullptr);
    }
    void Up() {
        pthread_mutex_lock(&mutex_);
        ++count_;
        pthread_cond_broadcast(&changed_);
        pthread_mutex_unlock(&mutex_);
    }
    // For longer than anything takes, however busy the machine is.
    void WaitFor(int count) {
        timespec deadline;
        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_sec += 60;
        pthread_mutex_lock(&mutex_);
        while (count_ < count) CHECK(pthread_cond_timedwait(&changed_, &mutex_, &deadline) == 0);
        pthread_mutex_unlock(&mutex_);
    }

private:
    pthread_mutex_t mutex_;
    pthread_cond_t changed_;
    int count_;
};

// Counts what happens, and keeps what came.
class Delegate : public IPipeDelegate {
public:
    void OnCreate(bool ok) override {
        last_ok = ok;
        created.Up();
    }
    void OnConnected(bool ok) override {
        last_ok = ok;
        connected.Up();
    }
    void OnSend(int size) override {
        bytes_sent += size;
        sent.Up();
    }
    void OnRecv(void* data, int size) override {
        char* bytes = static_cast<char*>(data);
        CHECK(bytes[size] == 0);
        message.assign(bytes, size);
        // They are ours.
        for (int i = 0; i < size; i++) bytes[i] = '!';
        received.Up();
    }
    void OnDisconnected() override { disconnected.Up(); }

    Counter created, connected, sent, received, disconnected;
    bool last_ok = false;
    int bytes_sent = 0;
    std::string message;
};

static bool Says(const INamedPipe* pipe, const std::string& part) {
    return std::string(pipe->LastError()).find(part) != std::string::npos;
}

// Sends back what came, to whom it came from.
class Echo : public Delegate {
public:
    explicit Echo(INamedPipe* pipe) : pipe_(pipe) {}
    void OnRecv(void* data, int size) override {
        CHECK(pipe_->Client() != 0);
        // Who has left meanwhile wants no answer.
        CHECK(pipe_->SendTo(pipe_->Client(), data, size) || Says(pipe_, "no client"));
        Delegate::OnRecv(data, size);
    }

private:
    INamedPipe* const pipe_;
};

// Deletes the pipe, and itself as the last thing.
class Suicide : public IPipeDelegate {
public:
    Suicide(INamedPipe* pipe, Counter* deleted) : pipe_(pipe), deleted_(deleted) {}
    void OnCreate(bool) override {}
    void OnConnected(bool) override {}
    void OnSend(int) override {}
    void OnRecv(void*, int) override {
        CHECK(pipe_->Send("last"));
        delete pipe_;
        Counter* deleted = deleted_;
        delete this;
        deleted->Up();
    }
    void OnDisconnected() override { CHECK(!"called after the pipe was deleted"); }

private:
    INamedPipe* const pipe_;
    Counter* const deleted_;
};

static INamedPipe* Make(PipeImplType name) {
    INamedPipe* pipe = nullptr;
    CHECK(CreateInstance(name, &pipe) == 0 && pipe != nullptr);
    CHECK(pipe->SetOption(ASYNCIPC_OPTION_DRAIN_TIMEOUT, 60000));
    return pipe;
}

int main(int argc, char** argv) {
    CHECK(argc == 2);

    // What is refused.
    CHECK(CreateInstance(PIPE_ASYNC, nullptr) == ASYNCIPC_RESULT_INVALID_ARGUMENT);
    INamedPipe* pipe = reinterpret_cast<INamedPipe*>(argv);
    CHECK(CreateInstance(static_cast<PipeImplType>(3), &pipe) != 0 && pipe == nullptr);
    pipe = Make(PIPE_ASYNC);
    CHECK(!pipe->Create(static_cast<const wchar_t*>(nullptr), PIPE_SERVER, nullptr));
    CHECK(Says(pipe, "null pointer"));
    CHECK(!pipe->Create(static_cast<const char*>(nullptr), PIPE_SERVER, nullptr));
    CHECK(!pipe->Create(L"", PIPE_SERVER, nullptr));
    // Without its highest bits, it would be a character.
    const wchar_t none[] = {L'a', static_cast<wchar_t>(0x40010000), 0};
    CHECK(sizeof(wchar_t) == 2 || !pipe->Create(none, PIPE_SERVER, nullptr));
    const wchar_t half[] = {L'a', static_cast<wchar_t>(0xD800), 0};
    CHECK(!pipe->Create(half, PIPE_SERVER, nullptr));
    CHECK(Says(pipe, "not UTF-8"));
    CHECK(!pipe->Send("x") && !pipe->Exit() && !pipe->Disconnect(1) && !pipe->SendTo(1, "x", 1));
    CHECK(!pipe->SetOption(ASYNCIPC_OPTION_MAX_MESSAGE_SIZE, static_cast<std::uint64_t>(INT_MAX) + 1));
    CHECK(pipe->SetOption(ASYNCIPC_OPTION_MAX_MESSAGE_SIZE, INT_MAX));

    // One name, in UTF-8 and in wide characters of one, two, three and four bytes.
    const std::string name = std::string(argv[1]) + "-\xC3\xBC\xE4\xB8\x96\xF0\x9F\x9A\x80";
    const std::string base = argv[1];
    const std::wstring wide = std::wstring(base.begin(), base.end()) + L"-\u00FC\u4E16\U0001F680";
    Echo at_server(pipe);
    CHECK(pipe->Create(name.c_str(), PIPE_SERVER, &at_server));
    at_server.created.WaitFor(1);
    INamedPipe* client = Make(PIPE_OVERLAPPED);
    Delegate at_client;
    CHECK(client->Create(wide.c_str(), PIPE_CLIENT, &at_client));
    at_client.connected.WaitFor(1);
    CHECK(at_client.last_ok);

    // Texts, and bytes with NULs among them.
    CHECK(!client->Send(nullptr) && Says(client, "null pointer"));
    CHECK(client->Send("hello"));
    at_client.received.WaitFor(1);
    CHECK(at_client.message == "hello" && at_client.bytes_sent == 5);
    const std::string binary("\0a\0b\0", 5);
    CHECK(client->Send(binary.data(), binary.size()));
    at_client.received.WaitFor(2);
    CHECK(at_client.message == binary);

    // Exit waits for what is told last.
    CHECK(client->Exit());
    CHECK(!client->Send("x") && Says(client, "asyncipc_exit"));
    at_client.disconnected.WaitFor(1);
    at_server.disconnected.WaitFor(1);
    delete client;

    // A client that cannot connect, and a delegate that deletes.
    client = Make(PIPE_ASYNC);
    Delegate in_vain;
    CHECK(client->Create((name + "-none").c_str(), PIPE_CLIENT, &in_vain));
    in_vain.connected.WaitFor(1);
    CHECK(!in_vain.last_ok);
    delete client;

    Counter deleted;
    client = Make(PIPE_ASYNC);
    CHECK(client->Create(name.c_str(), PIPE_CLIENT, new Suicide(client, &deleted)));
    at_server.connected.WaitFor(2);
    CHECK(pipe->Send("go"));
    deleted.WaitFor(1);
    at_server.received.WaitFor(3);
    CHECK(at_server.message == "last");
    delete pipe;

    std::puts("ok");
    return 0;
}
