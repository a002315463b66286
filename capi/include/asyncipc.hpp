/* asyncipc.h as classes, in C++11: INamedPipe is one end of a pipe, IPipeDelegate is told what happens
 * to it. There is nothing to link besides the library.
 *
 * What is said in asyncipc.h about threads, waiting and errors holds here. */

#ifndef ASYNCIPC_HPP
#define ASYNCIPC_HPP

#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "asyncipc.h"

/** How bytes are moved; what goes over the pipe is the same. */
enum PipeImplType {
    PIPE_ASYNC = ASYNCIPC_KIND_ASYNC,
    PIPE_OVERLAPPED = ASYNCIPC_KIND_OVERLAPPED
};

/** Which end of the pipe it is. */
enum PipeType {
    PIPE_SERVER = ASYNCIPC_ROLE_SERVER,
    PIPE_CLIENT = ASYNCIPC_ROLE_CLIENT
};

/** Is told what happens, on one thread of the library, one thing at a time. An exception that leaves
 * one of these ends the program. */
class IPipeDelegate {
public:
    virtual ~IPipeDelegate() {}
    /** Comes once for each Create, with what that returns; not when its arguments are bad, or the pipe
     * was created already: then Create alone says so. */
    virtual void OnCreate(bool ok) = 0;
    /** A client is there, or for a client the server; false if it cannot connect. */
    virtual void OnConnected(bool ok) = 0;
    /** The system has taken a message of so many bytes; after callbacks that took long, several in one,
     * with at most INT_MAX. */
    virtual void OnSend(int size) = 0;
    /** A message came. The bytes are a copy, with a NUL behind them, until this returns. */
    virtual void OnRecv(void* data, int size) = 0;
    /** A client is gone, or for a client the server. When Client() is 0, a server has ended: it can accept
     * nobody any more. */
    virtual void OnDisconnected() = 0;
};

/** One end of a pipe. To be deleted, which does what Exit does before; in a callback, as
 * asyncipc_destroy() has it. What returns a bool says in LastError why it is false. */
class INamedPipe {
public:
    virtual ~INamedPipe() {}
    /** Begins. The delegate may be null, and is needed until the pipe has ended. */
    virtual bool Create(const wchar_t* pipe_name, PipeType type, IPipeDelegate* delegate) = 0;
    /** The same, with a name in UTF-8. */
    virtual bool Create(const char* pipe_name, PipeType type, IPipeDelegate* delegate) = 0;
    /** Sends what waits, disconnects everybody, and waits for the last callback. */
    virtual bool Exit() = 0;
    /** Sends a text, without the NUL at its end: a server to all of its clients. */
    virtual bool Send(const char* msg) = 0;
    /** Sends any bytes. */
    virtual bool Send(const void* data, std::size_t size) = 0;

    /** Sets one of asyncipc_option, before Create. Messages are at most INT_MAX bytes here. */
    virtual bool SetOption(asyncipc_option option, std::uint64_t value) = 0;
    /** In a callback: the number of the client that it is about. */
    virtual std::uint64_t Client() const = 0;
    /** As Send, to one client. */
    virtual bool SendTo(std::uint64_t client, const void* data, std::size_t size) = 0;
    /** Ends the connection of one client, after what waits for it. */
    virtual bool Disconnect(std::uint64_t client) = 0;
    /** What was wrong in this thread's last call that was false, and in a callback that says so. */
    virtual const char* LastError() const = 0;
};

namespace asyncipc_detail {

/** UTF-8 from UTF-16 or UTF-32, whichever wide characters are here. Halves of pairs, and what is no
 * character, become what is not UTF-8, and the library refuses. */
inline std::string Utf8(const wchar_t* wide) {
    std::string text;
    while (*wide != 0) {
        std::uint32_t c = static_cast<std::uint32_t>(*wide++);
        if (sizeof(wchar_t) == 2) {
            c &= 0xFFFF;
            const std::uint32_t next = static_cast<std::uint32_t>(*wide) & 0xFFFF;
            if (c >= 0xD800 && c < 0xDC00 && next >= 0xDC00 && next < 0xE000) {
                c = 0x10000 + ((c - 0xD800) << 10) + (next - 0xDC00);
                ++wide;
            }
        }
        if (c > 0x10FFFF) {
            text += '\xFF';
            continue;
        }
        const int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
        static const unsigned char kFirst[] = {0x00, 0xC0, 0xE0, 0xF0};
        text += static_cast<char>(kFirst[more] | ((c >> (6 * more)) & 0xFF));
        for (int i = more - 1; i >= 0; --i) {
            text += static_cast<char>(0x80 | ((c >> (6 * i)) & 0x3F));
        }
    }
    return text;
}

/** Whom the callback of this thread is about. */
inline std::uint64_t& CurrentClient() {
    static thread_local std::uint64_t client = 0;
    return client;
}

inline bool Ok(asyncipc_result result) { return result == ASYNCIPC_RESULT_OK; }

/** What is behind the user pointer. The pipe is not: a delegate may delete it. */
inline IPipeDelegate* About(void* user, std::uint64_t client) {
    CurrentClient() = client;
    return static_cast<IPipeDelegate*>(user);
}

inline void OnCreate(asyncipc_pipe*, void* user, asyncipc_result result) noexcept {
    About(user, 0)->OnCreate(Ok(result));
}

inline void OnConnected(asyncipc_pipe*, void* user, std::uint64_t client,
                        asyncipc_result result) noexcept {
    About(user, client)->OnConnected(Ok(result));
}

inline void OnSend(asyncipc_pipe*, void* user, std::uint64_t client, std::size_t,
                   std::size_t size) noexcept {
    About(user, client)->OnSend(size > INT_MAX ? INT_MAX : static_cast<int>(size));
}

inline void OnRecv(asyncipc_pipe*, void* user, std::uint64_t client, const void* data,
                   std::size_t size) noexcept {
    std::string copy(static_cast<const char*>(data), size);
    About(user, client)->OnRecv(&copy[0], static_cast<int>(size));
}

inline void OnDisconnected(asyncipc_pipe*, void* user, std::uint64_t client,
                           asyncipc_result) noexcept {
    About(user, client)->OnDisconnected();
}

class NamedPipe : public INamedPipe {
public:
    explicit NamedPipe(asyncipc_pipe* pipe) : pipe_(pipe) {}
    ~NamedPipe() override { asyncipc_destroy(pipe_); }
    NamedPipe(const NamedPipe&) = delete;
    NamedPipe& operator=(const NamedPipe&) = delete;

    bool Create(const wchar_t* name, PipeType type, IPipeDelegate* delegate) override {
        if (name == nullptr) return Create(static_cast<const char*>(nullptr), type, delegate);
        return Create(Utf8(name).c_str(), type, delegate);
    }

    bool Create(const char* name, PipeType type, IPipeDelegate* delegate) override {
        static const asyncipc_callbacks kCallbacks = {OnCreate, OnConnected, OnSend, OnRecv,
                                                      OnDisconnected};
        const asyncipc_callbacks* callbacks = delegate != nullptr ? &kCallbacks : nullptr;
        return Ok(asyncipc_create(pipe_, name, type, callbacks, delegate));
    }

    bool Exit() override { return Ok(asyncipc_exit(pipe_)); }

    bool Send(const char* msg) override { return Send(msg, msg != nullptr ? std::strlen(msg) : 1); }

    bool Send(const void* data, std::size_t size) override {
        return Ok(asyncipc_send(pipe_, data, size));
    }

    bool SetOption(asyncipc_option option, std::uint64_t value) override {
        // What is too large for the library is refused there.
        const bool too_large = option == ASYNCIPC_OPTION_MAX_MESSAGE_SIZE && value > INT_MAX;
        return Ok(asyncipc_set_option(pipe_, option, too_large ? UINT64_MAX : value));
    }

    std::uint64_t Client() const override { return CurrentClient(); }

    bool SendTo(std::uint64_t client, const void* data, std::size_t size) override {
        return Ok(asyncipc_send_to(pipe_, client, data, size));
    }

    bool Disconnect(std::uint64_t client) override {
        return Ok(asyncipc_disconnect(pipe_, client));
    }

    const char* LastError() const override { return asyncipc_last_error(); }

private:
    asyncipc_pipe* const pipe_;
};

}  // namespace asyncipc_detail

/** Makes an instance, to be deleted by the caller. Returns an asyncipc_result: 0 is success; otherwise
 * *pipe is null, and asyncipc_last_error() says why. */
inline int CreateInstance(PipeImplType name, INamedPipe** pipe) {
    asyncipc_pipe* handle = nullptr;
    if (pipe != nullptr) *pipe = nullptr;
    const asyncipc_result result = asyncipc_create_instance(name, pipe ? &handle : nullptr);
    if (result == ASYNCIPC_RESULT_OK) *pipe = new asyncipc_detail::NamedPipe(handle);
    return result;
}

/** Logs what all pipes do to standard error, as asyncipc_init_logging() has it. */
inline bool InitEasyLog(const char* process_name) {
    return asyncipc_init_logging(process_name) == ASYNCIPC_RESULT_OK;
}

#endif  // ASYNCIPC_HPP
