/* The C interface of asyncipc: messages between the programs of one machine, over Windows named pipes
 * and Unix sockets.
 *
 * Every function can be called from any thread, also from callbacks. Those that can fail return an
 * asyncipc_result, of which ASYNCIPC_RESULT_OK is 0; asyncipc_last_error() has it as a text. Null
 * pointers, wrong numbers and handles of destroyed pipes are errors. All texts are UTF-8.
 *
 * Destroy every pipe before main() returns, or the interpreter ends, or this library is unloaded: its
 * thread calls back until then. On Windows, do so neither in DllMain nor in destructors of static objects
 * of a DLL, where no other thread can come to its end.
 *
 * Create pipes after fork() and daemon(): a child has no threads. There, all that is done with a pipe which
 * its parent has created is ASYNCIPC_RESULT_WRONG_STATE, and asyncipc_destroy() only forgets it. The
 * child keeps its connections open until it ends, or execs.
 *
 * Made by cbindgen from the sources in Rust: do not edit. */


#ifndef ASYNCIPC_H
#define ASYNCIPC_H

#include <stddef.h>
#include <stdint.h>

/**
 * How a call ended, and why something is over. asyncipc_last_error() has the same as a text, with
 * the name, size or time in it.
 */
typedef enum {
  /**
   * It was done. As the reason of a disconnection: the other end left, between two messages.
   */
  ASYNCIPC_RESULT_OK = 0,
  /**
   * A null pointer, or a number that is none of those that are allowed there.
   */
  ASYNCIPC_RESULT_INVALID_ARGUMENT,
  /**
   * The handle is of no pipe: it was destroyed, or never created.
   */
  ASYNCIPC_RESULT_INVALID_HANDLE,
  /**
   * Not now: the pipe was created already, or not yet, or has ended.
   */
  ASYNCIPC_RESULT_WRONG_STATE,
  /**
   * The name breaks a rule of the system, or is not UTF-8.
   */
  ASYNCIPC_RESULT_INVALID_NAME,
  /**
   * This system does not have it.
   */
  ASYNCIPC_RESULT_UNSUPPORTED,
  /**
   * Nobody listens on the name.
   */
  ASYNCIPC_RESULT_NOT_FOUND,
  /**
   * The server takes no further client at the moment.
   */
  ASYNCIPC_RESULT_BUSY,
  /**
   * The time was over before the server was there, or free.
   */
  ASYNCIPC_RESULT_TIMED_OUT,
  /**
   * Somebody else listens on the name.
   */
  ASYNCIPC_RESULT_ADDRESS_IN_USE,
  /**
   * The system, or the rules of this library, refuse access.
   */
  ASYNCIPC_RESULT_ACCESS_DENIED,
  /**
   * The client is in message mode, and the server is not.
   */
  ASYNCIPC_RESULT_MODE_MISMATCH,
  /**
   * The message is above the limit.
   */
  ASYNCIPC_RESULT_MESSAGE_TOO_LARGE,
  /**
   * There is no memory for a copy of the message.
   */
  ASYNCIPC_RESULT_NO_MEMORY,
  /**
   * The other end left inside a message.
   */
  ASYNCIPC_RESULT_TRUNCATED,
  /**
   * The other end has left.
   */
  ASYNCIPC_RESULT_CLOSED,
  /**
   * asyncipc_exit() was called.
   */
  ASYNCIPC_RESULT_SHUT_DOWN,
  /**
   * There is nobody to send to: no such client, or not yet, or not any more.
   */
  ASYNCIPC_RESULT_NOT_CONNECTED,
  /**
   * As many messages wait to be sent as may.
   */
  ASYNCIPC_RESULT_QUEUE_FULL,
  /**
   * As the reason of a disconnection: asyncipc_disconnect() was called.
   */
  ASYNCIPC_RESULT_DISCONNECTED,
  /**
   * The system has an error.
   */
  ASYNCIPC_RESULT_IO,
  /**
   * An error in this library.
   */
  ASYNCIPC_RESULT_INTERNAL,
} asyncipc_result;

/**
 * How bytes are moved, as programs know it that were written for completion routines or for
 * overlapped I/O. What goes over the pipe is the same, and either end may have either.
 */
typedef enum {
  /**
   * The default: on Windows by a completion port, elsewhere by a socket.
   */
  ASYNCIPC_KIND_ASYNC = 0,
  /**
   * On Windows by overlapped I/O of this library, which is faster for messages of 1 KiB and more;
   * elsewhere the same as ASYNCIPC_KIND_ASYNC.
   */
  ASYNCIPC_KIND_OVERLAPPED = 1,
} asyncipc_kind;

/**
 * Which end of the pipe it is.
 */
typedef enum {
  /**
   * The one that listens, for any number of clients.
   */
  ASYNCIPC_ROLE_SERVER = 0,
  /**
   * One that connects.
   */
  ASYNCIPC_ROLE_CLIENT = 1,
} asyncipc_role;

/**
 * What asyncipc_set_option() sets. Those that say yes or no are 1 or 0, times are in milliseconds;
 * UINT64_MAX is for ever.
 */
typedef enum {
  /**
   * Whether the system keeps messages apart, for peers that speak raw message pipes. Default 0.
   * Both ends must have the same. Only on Windows: elsewhere 1 is ASYNCIPC_RESULT_UNSUPPORTED.
   */
  ASYNCIPC_OPTION_MESSAGE_MODE = 0,
  /**
   * The longest message that is sent or received, in bytes. Default 16 MiB, at most UINT32_MAX.
   */
  ASYNCIPC_OPTION_MAX_MESSAGE_SIZE,
  /**
   * How many messages may wait for a client, or for the server. Default 64, at least 1.
   */
  ASYNCIPC_OPTION_QUEUE,
  /**
   * How long asyncipc_send() and asyncipc_send_to() wait for room in the queue, outside of
   * callbacks. Default 5000.
   */
  ASYNCIPC_OPTION_SEND_TIMEOUT,
  /**
   * How long what waits in the queues may take to be sent, and read by the other end, after
   * asyncipc_exit() or asyncipc_disconnect(). Default 10000 for servers, 5000 for clients.
   */
  ASYNCIPC_OPTION_DRAIN_TIMEOUT,
  /**
   * Server: how many clients may be connected at a time, at least 1; others wait. Default: as many
   * as the system lets.
   */
  ASYNCIPC_OPTION_MAX_CONNECTIONS,
  /**
   * Client: how long to wait for a server that is busy, or missing. Default 5000; 0 tries once.
   */
  ASYNCIPC_OPTION_CONNECT_TIMEOUT,
  /**
   * Client: whether to wait for a server that does not listen yet. Default 0.
   */
  ASYNCIPC_OPTION_WAIT_FOR_SERVER,
  /**
   * Client: whether to refuse a server that does not run as the same user. Default 0.
   */
  ASYNCIPC_OPTION_VERIFY_SERVER,
} asyncipc_option;

/**
 * One end of a pipe: a server with all its clients, or a client. Only the functions here know what
 * it is. Any thread can use it; after asyncipc_destroy() every use is ASYNCIPC_RESULT_INVALID_HANDLE.
 */
typedef struct asyncipc_pipe asyncipc_pipe;

/**
 * What a pipe calls. Each may be null. `user` is what asyncipc_create() was given.
 *
 * All of one pipe are called from one thread of the library, one at a time, in the order in which
 * things happen. While one runs, nothing is received and nothing is sent by this pipe; others go on.
 * Every function can be called from them, and none waits there: see asyncipc_send(),
 * asyncipc_exit() and asyncipc_destroy().
 *
 * They must return: not by throwing or longjmp(), nor end their thread, as pthread_exit() and
 * pthread_cancel() do, or the program, as exit() and Python's sys.exit() do. Where there are signals,
 * their thread blocks all but those of faults, such as SIGSEGV; a program that is started there begins
 * with the same.
 *
 * `client` is a number that is not used again in this process. A client has one as well, for
 * the server at the other end.
 */
typedef struct {
  /**
   * The first one, once for each asyncipc_create() whose arguments were good: `result` is what
   * that returns. It may come before it has returned.
   */
  void (*on_create)(asyncipc_pipe *pipe, void *user, asyncipc_result result);
  /**
   * A client is there, or for a client the server: from now on it can be sent to. For a client
   * that cannot connect, `result` says why, asyncipc_last_error() has the text, `client` is 0,
   * and nothing else comes.
   */
  void (*on_connected)(asyncipc_pipe *pipe, void *user, uint64_t client, asyncipc_result result);
  /**
   * The system has taken `messages` messages with `size` bytes in all. One message, nearly always;
   * several after callbacks that took long. The other end may not have read them yet.
   */
  void (*on_send)(asyncipc_pipe *pipe, void *user, uint64_t client, size_t messages, size_t size);
  /**
   * A message came. `data` is never null, has no NUL at its end, and is there until this returns.
   */
  void (*on_recv)(asyncipc_pipe *pipe, void *user, uint64_t client, const void *data, size_t size);
  /**
   * The last one about this client, each of which gets it once: it left, or `reason` and
   * asyncipc_last_error() say otherwise. What had no on_send() was not sent, or not entirely.
   *
   * For a server that can accept nobody any more, by an error of the system that does not pass,
   * `client` is 0 and `reason` is ASYNCIPC_RESULT_IO: it has ended, and nothing else comes. Its clients
   * have had theirs before, with ASYNCIPC_RESULT_SHUT_DOWN.
   */
  void (*on_disconnected)(asyncipc_pipe *pipe, void *user, uint64_t client, asyncipc_result reason);
} asyncipc_callbacks;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Makes an instance, which does nothing before asyncipc_create(). `kind` is one of asyncipc_kind.
 * The caller has to asyncipc_destroy() it.
 *
 * Errors: INVALID_ARGUMENT; then `*pipe` is null.
 */
asyncipc_result asyncipc_create_instance(int kind, asyncipc_pipe **pipe);

/**
 * Logs what all pipes of this process do to standard error, in lines that begin with `process_name`,
 * which is UTF-8. The environment variable ASYNCIPC_LOG says how much: off, error, warn, info (the
 * default), debug or trace. Nothing is logged otherwise. Lines that cannot be written are lost, and
 * nothing else is.
 *
 * Errors: INVALID_ARGUMENT, also for the variable; WRONG_STATE when called again, which changes
 * nothing.
 */
asyncipc_result asyncipc_init_logging(const char *process_name);

/**
 * Sets an option for the next asyncipc_create(). `option` is one of asyncipc_option.
 *
 * Errors: INVALID_ARGUMENT, INVALID_HANDLE, UNSUPPORTED; WRONG_STATE between asyncipc_create() and
 * the end of the pipe.
 */
asyncipc_result asyncipc_set_option(asyncipc_pipe *pipe, int option, uint64_t value);

/**
 * Begins. A server listens when this has returned, and clients can connect. A client connects in
 * the background, and on_connected() tells how that went.
 *
 * Until it has ended, a pipe has a thread, with a stack of 8 MiB, of which only what is used takes memory,
 * and on Unix four descriptors besides those of its connections.
 *
 * `name` is UTF-8: a plain name such as "echo", which both ends find, or a full path, on Windows such
 * as \\.\pipe\echo and elsewhere such as /run/echo.sock. `role` is one of asyncipc_role. `callbacks` is copied, and null
 * for none. `user` is for the callbacks alone, and must be there until the last one has returned,
 * in a way that another thread may use it.
 *
 * After asyncipc_exit() has returned outside of callbacks it can be called again. Without that, a client
 * can call it in or after its on_disconnected() or an on_connected() that failed, and a server in or after
 * an on_disconnected() for client 0. The callbacks may come from another thread then, but still one at a
 * time.
 *
 * Errors: INVALID_ARGUMENT, INVALID_HANDLE, INVALID_NAME, WRONG_STATE; IO when no thread can be
 * started. For servers, and these get on_create() too: ADDRESS_IN_USE, ACCESS_DENIED, IO.
 */
asyncipc_result asyncipc_create(asyncipc_pipe *pipe,
                                const char *name,
                                int role,
                                const asyncipc_callbacks *callbacks,
                                void *user);

/**
 * Sends a message of `size` bytes, any bytes: a client to the server, and a server to all that are
 * connected. The bytes are copied into a queue for each; on_send() tells when the system has them.
 * `data` may be null if `size` is 0: empty messages are messages.
 *
 * When a queue is full this waits for room, up to ASYNCIPC_OPTION_SEND_TIMEOUT, and in a callback not
 * at all: whoever answers in on_recv() has to expect QUEUE_FULL there, for the other end may send
 * faster than it reads, and then this message is not sent. Set a longer queue, send from a thread of
 * your own, or disconnect the client. While it waits, hold no lock that a callback takes. Messages that one thread sends arrive
 * in their order.
 *
 * Errors: INVALID_ARGUMENT, INVALID_HANDLE, WRONG_STATE before asyncipc_create(), NOT_CONNECTED when
 * nobody is there yet or any more, MESSAGE_TOO_LARGE, NO_MEMORY, SHUT_DOWN after asyncipc_exit(): then
 * nobody gets it. QUEUE_FULL: those clients that the text names do not get it, all others do.
 */
asyncipc_result asyncipc_send(asyncipc_pipe *pipe,
                              const void *data,
                              size_t size);

/**
 * As asyncipc_send(), to one client.
 *
 * Errors: the same; NOT_CONNECTED when this client is not there, QUEUE_FULL when it does not get it.
 */
asyncipc_result asyncipc_send_to(asyncipc_pipe *pipe,
                                 uint64_t client,
                                 const void *data,
                                 size_t size);

/**
 * Ends the connection of one client: what waits for it is sent before, up to
 * ASYNCIPC_OPTION_DRAIN_TIMEOUT. Does not wait: on_disconnected() says when it is done.
 *
 * Errors: INVALID_HANDLE, WRONG_STATE before asyncipc_create(), NOT_CONNECTED when this client is not
 * there, SHUT_DOWN.
 */
asyncipc_result asyncipc_disconnect(asyncipc_pipe *pipe,
                                    uint64_t client);

/**
 * Ends it orderly: nobody is accepted and nothing is received any more. What waits in the queues is
 * sent, and waited for until the other end has read it, up to ASYNCIPC_OPTION_DRAIN_TIMEOUT; then
 * each client gets its on_disconnected(). A client that is not connected yet gets its on_connected(),
 * with ASYNCIPC_RESULT_SHUT_DOWN.
 *
 * Returns when the last callback has, and so must not be called with a lock held that a callback
 * takes. In a callback, of whichever pipe, it returns at once. It does nothing to a pipe that has
 * ended, nor in the last callback of one that has ended by itself, which may asyncipc_create() it again.
 *
 * Errors: INVALID_ARGUMENT, INVALID_HANDLE, WRONG_STATE before asyncipc_create().
 */
asyncipc_result asyncipc_exit(asyncipc_pipe *pipe);

/**
 * Does what asyncipc_exit() does, and frees the pipe: from the beginning of this call, its handle is
 * that of no pipe. No callback is called after this has returned.
 *
 * In a callback, of whichever pipe, it returns at once, and what waits in the queues is still sent. In
 * one of this pipe, no other one of it is called any more. In one of another pipe, that of this pipe
 * which its thread is about to call, or in the middle of, goes on: nothing tells when it has returned, so
 * `user` must be there until the program ends. Where that cannot be, destroy it outside of callbacks.
 *
 * Errors: INVALID_ARGUMENT for a null pointer; INVALID_HANDLE when it was destroyed before, also when
 * that is still going on.
 */
asyncipc_result asyncipc_destroy(asyncipc_pipe *pipe);

/**
 * What the last error of this thread says, in English and UTF-8, with the name, size or time in it;
 * "" if there was none. In a callback that was given something other than ASYNCIPC_RESULT_OK, it is
 * about that. The text is there until the next error of this thread, and must not be freed.
 */
const char *asyncipc_last_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ASYNCIPC_H */
