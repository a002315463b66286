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
 * How a call ended, and why a connection has ended. asyncipc_last_error() has the same as a text, with
 * the name, size or time in it.
 */
typedef enum {
  /**
   * Success. As the reason of a disconnection: the other end left, between two messages.
   */
  ASYNCIPC_RESULT_OK = 0,
  /**
   * A null pointer, or a number that is not allowed there.
   */
  ASYNCIPC_RESULT_INVALID_ARGUMENT,
  /**
   * The handle belongs to no pipe: the pipe was destroyed, or never created.
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
   * This system does not support it.
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
   * The server was not there, or not free, before the time had passed.
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
   * There is nobody to send to: no such client is connected, or not yet, or not any more.
   */
  ASYNCIPC_RESULT_NOT_CONNECTED,
  /**
   * The queue has no room for another message.
   */
  ASYNCIPC_RESULT_QUEUE_FULL,
  /**
   * As the reason of a disconnection: asyncipc_disconnect() was called.
   */
  ASYNCIPC_RESULT_DISCONNECTED,
  /**
   * The system reported an error.
   */
  ASYNCIPC_RESULT_IO,
  /**
   * An error in this library.
   */
  ASYNCIPC_RESULT_INTERNAL,
} asyncipc_result;

/**
 * How bytes are moved: the names are those that programs for completion routines or overlapped I/O use.
 * What goes over the pipe is the same, and the two ends may have different kinds.
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
 * What asyncipc_set_option() sets. Options that are on or off are 1 or 0. Times are in milliseconds;
 * UINT64_MAX is forever.
 */
typedef enum {
  /**
   * Whether the system keeps messages apart, for programs that use raw message pipes. Default 0.
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
   * After asyncipc_exit() or asyncipc_disconnect(): how long it may take until what waits in the queues
   * is sent and the other end has read it. Default 10000 for servers, 5000 for clients.
   */
  ASYNCIPC_OPTION_DRAIN_TIMEOUT,
  /**
   * Server: how many clients may be connected at a time, at least 1; others wait. Default: as many
   * as the system allows.
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
 * One end of a pipe: a server with all its clients, or a client. It is opaque. Any thread can use it; after
 * asyncipc_destroy() every use returns ASYNCIPC_RESULT_INVALID_HANDLE.
 */
typedef struct asyncipc_pipe asyncipc_pipe;

/**
 * The functions that a pipe calls. Each may be null. `user` is what asyncipc_create() was given.
 *
 * One thread of the library calls all callbacks of a pipe, one at a time, in the order of the events.
 * While one runs, this pipe receives nothing and sends nothing; other pipes go on. Callbacks can call
 * every function of this library, and none waits there: see asyncipc_send(), asyncipc_exit() and
 * asyncipc_destroy().
 *
 * Callbacks must return. They must not throw, call longjmp(), or end their thread or the program, as
 * pthread_exit(), pthread_cancel(), exit() and Python's sys.exit() do. Where there are signals, their
 * thread blocks all signals but those of faults, such as SIGSEGV. A program that is started from a callback
 * inherits that.
 *
 * `client` is a number that is not used again in this process. In a client, it is the number of the server
 * at the other end.
 */
typedef struct {
  /**
   * The first callback, once for each asyncipc_create() whose arguments were valid. `result` is what
   * asyncipc_create() returns. It may be called before asyncipc_create() has returned.
   */
  void (*on_create)(asyncipc_pipe *pipe, void *user, asyncipc_result result);
  /**
   * A client has connected or, in a client, the server is there: from now on it can be sent to. In a
   * client that cannot connect, `result` says why, asyncipc_last_error() has the text, `client` is 0,
   * and no other callback follows.
   */
  void (*on_connected)(asyncipc_pipe *pipe, void *user, uint64_t client, asyncipc_result result);
  /**
   * The system has taken `messages` messages with `size` bytes in all: nearly always one message, and
   * several after slow callbacks. The other end may not have read them yet.
   */
  void (*on_send)(asyncipc_pipe *pipe, void *user, uint64_t client, size_t messages, size_t size);
  /**
   * A message has arrived. `data` is never null, has no NUL at its end, and is valid until this returns.
   */
  void (*on_recv)(asyncipc_pipe *pipe, void *user, uint64_t client, const void *data, size_t size);
  /**
   * The last callback about this client, called once for each client. The client has left, unless
   * `reason` and asyncipc_last_error() say otherwise. A message that had no on_send() was not sent, or
   * only in part.
   *
   * If a server can accept nobody any more, because of a permanent error of the system, `client` is 0 and
   * `reason` is ASYNCIPC_RESULT_IO: the server has ended, and no other callback follows. Before that, this
   * was called for each of its clients, with ASYNCIPC_RESULT_SHUT_DOWN.
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
 * Begins to log what all pipes of this process do. The lines go to standard error and begin with
 * `process_name`, which is UTF-8. The environment variable ASYNCIPC_LOG says how much is logged: off,
 * error, warn, info (the default), debug or trace. Without this call, nothing is logged. A line that
 * cannot be written is lost, and nothing else happens.
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
 * Starts the pipe. When this has returned, a server listens, and clients can connect to it. A client
 * connects in the background, and on_connected() says how that went.
 *
 * Until it has ended, a pipe has a thread with a stack of 8 MiB, of which only the used part takes memory.
 * On Unix it also has four descriptors in addition to those of its connections.
 *
 * `name` is UTF-8: a plain name such as "echo", which both ends find, or a full path, on Windows such
 * as \\.\pipe\echo and elsewhere such as /run/echo.sock. `role` is one of asyncipc_role. `callbacks` is
 * copied; null means none. `user` is passed to the callbacks. It must stay valid until the last callback
 * has returned, and another thread must be allowed to use it.
 *
 * It can be called again when asyncipc_exit() has returned outside of callbacks. Without asyncipc_exit(), a
 * client can call it in or after its on_disconnected() or a failed on_connected(), and a server in or after
 * an on_disconnected() for client 0. The callbacks may then come from another thread, but still one at a
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
 * When a queue is full, this waits for room, up to ASYNCIPC_OPTION_SEND_TIMEOUT. In a callback it does
 * not wait. So if you answer in on_recv(), expect QUEUE_FULL: the other end may send faster than it reads,
 * and then this message is not sent. Set a longer queue, send from a thread of your own, or disconnect the
 * client. Do not hold a lock that a callback takes while you call this. Messages that one thread sends
 * arrive in their order.
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
 * Ends the connection of one client. The messages that wait for it are sent first, for up to
 * ASYNCIPC_OPTION_DRAIN_TIMEOUT. Does not wait: on_disconnected() says when it is done.
 *
 * Errors: INVALID_HANDLE, WRONG_STATE before asyncipc_create(), NOT_CONNECTED when this client is not
 * there, SHUT_DOWN.
 */
asyncipc_result asyncipc_disconnect(asyncipc_pipe *pipe,
                                    uint64_t client);

/**
 * Ends the pipe in order: nobody is accepted and nothing is received any more. What waits in the queues is
 * sent, and the pipe waits until the other ends have read it, up to ASYNCIPC_OPTION_DRAIN_TIMEOUT. Then
 * on_disconnected() is called for each client. A client that is not connected yet gets its on_connected(),
 * with ASYNCIPC_RESULT_SHUT_DOWN.
 *
 * Returns when the last callback has returned. So do not hold a lock that a callback takes while you call
 * this. In a callback of any pipe, it returns at once. It does nothing to a pipe that has ended. It also
 * does nothing in the last callback of a pipe that has ended by itself; that callback may call
 * asyncipc_create() again.
 *
 * Errors: INVALID_ARGUMENT, INVALID_HANDLE, WRONG_STATE before asyncipc_create().
 */
asyncipc_result asyncipc_exit(asyncipc_pipe *pipe);

/**
 * Does what asyncipc_exit() does, and frees the pipe: its handle is invalid from the beginning of this
 * call. No callback is called after this has returned.
 *
 * In a callback of any pipe, it returns at once, and what waits in the queues is still sent. In a callback
 * of this pipe, it is the last one: no other callback of this pipe is called. In a callback of another
 * pipe, the thread of this pipe may be in a callback, or just about to call one, and nothing says when that
 * one has returned: so `user` must stay valid until the program ends. If it cannot, destroy the pipe
 * outside of callbacks.
 *
 * Errors: INVALID_ARGUMENT for a null pointer; INVALID_HANDLE when it was destroyed before, also when
 * that is still going on.
 */
asyncipc_result asyncipc_destroy(asyncipc_pipe *pipe);

/**
 * The text of this thread's last error, in English and UTF-8, with the name, size or time in it; "" if
 * there was none. In a callback that was given something other than ASYNCIPC_RESULT_OK, it is the text of
 * that. The text is valid until the next error of this thread, and must not be freed.
 */
const char *asyncipc_last_error(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* ASYNCIPC_H */
