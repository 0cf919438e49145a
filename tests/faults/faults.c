/* System calls that fail on request: a library for LD_PRELOAD.
 *
 * Theory of operation
 * -------------------
 * Each function of the C library that is named here counts its calls and passes them on, except for those that a plan
 * names: they fail with the plan's errno, or, where that is 0, are asked for a single byte (a short count). Only the
 * thread that made a plan counts and fails, so that a peer in another thread of the same process is left alone; and
 * what libuv asks of its own epoll instance is passed on, because it ends the process when that fails. Of epoll_ctl(2)
 * those calls count that ask for events: a selector that asks for fewer never fails for lack of resources.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

enum { RECV, SEND, ACCEPT, EPOLL_CTL, EPOLL_WAIT, EPOLL_CREATE, KINDS };

typedef struct {
    long first, last; /* calls that fail, counted from 1 */
    int number;       /* errno */
    long calls, failed;
} Plan;

static Plan plans[KINDS];
static __thread int planned; /* whether this thread made one */

static int is_libuv(void *caller)
{
    Dl_info info;
    return dladdr(caller, &info) != 0 && info.dli_fname != NULL && strstr(info.dli_fname, "uvloop") != NULL;
}

/* 1: this call fails, and errno is set; 2: it is to be short; 0: it is passed on. */
static int fails(int kind)
{
    Plan *plan = &plans[kind];
    if (!planned)
        return 0;
    plan->calls++;
    if (plan->calls < plan->first || plan->calls > plan->last)
        return 0;
    plan->failed++;
    errno = plan->number;
    return plan->number == 0 ? 2 : 1;
}

/* -- for the test ------------------------------------------------------------------------------------------------- */

/* Have `count` calls of a kind fail with `number`, from the `first` one that this thread makes from now on. */
void faults_plan(int kind, long first, long count, int number)
{
    planned = 1;
    plans[kind] = (Plan){first, first + count - 1, number, 0, 0};
}

/* How many calls there were since the plan was made. */
long faults_calls(int kind)
{
    return plans[kind].calls;
}

/* How many of them failed. */
long faults_failed(int kind)
{
    return plans[kind].failed;
}

/* -- the C library's functions ------------------------------------------------------------------------------------ */

#define NEXT(name)                                                                                                     \
    static __typeof__(&name) next;                                                                                     \
    if (next == NULL)                                                                                                  \
        *(void **)&next = dlsym(RTLD_NEXT, #name)

ssize_t recv(int fd, void *buffer, size_t bytes, int flags)
{
    NEXT(recv);
    int failed = fails(RECV);
    return failed == 1 ? -1 : next(fd, buffer, failed && bytes > 1 ? 1 : bytes, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    NEXT(recvmsg);
    if (flags & MSG_ERRQUEUE)
        return next(fd, message, flags);
    return fails(RECV) == 1 ? -1 : next(fd, message, flags);
}

ssize_t send(int fd, const void *buffer, size_t bytes, int flags)
{
    NEXT(send);
    int failed = fails(SEND);
    return failed == 1 ? -1 : next(fd, buffer, failed && bytes > 1 ? 1 : bytes, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    NEXT(sendmsg);
    int failed = fails(SEND);
    if (failed == 1)
        return -1;
    if (failed == 2 && message->msg_iovlen > 0 && message->msg_iov[0].iov_len > 1) {
        struct iovec part = {message->msg_iov[0].iov_base, 1};
        struct msghdr shorter = *message;
        shorter.msg_iov = &part;
        shorter.msg_iovlen = 1;
        return next(fd, &shorter, flags);
    }
    return next(fd, message, flags);
}

int accept4(int fd, struct sockaddr *name, socklen_t *length, int flags)
{
    NEXT(accept4);
    return fails(ACCEPT) == 1 ? -1 : next(fd, name, length, flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    NEXT(epoll_ctl);
    int asks = operation == EPOLL_CTL_ADD || (operation == EPOLL_CTL_MOD && (event->events & EPOLLET));
    return asks && planned && !is_libuv(__builtin_return_address(0)) && fails(EPOLL_CTL) == 1 ? -1 : next(epoll, operation, fd, event);
}

int epoll_create1(int flags)
{
    NEXT(epoll_create1);
    return fails(EPOLL_CREATE) == 1 ? -1 : next(flags);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    NEXT(epoll_wait);
    return fails(EPOLL_WAIT) == 1 ? -1 : next(epoll, events, most, timeout);
}

int epoll_pwait(int epoll, struct epoll_event *events, int most, int timeout, const sigset_t *mask)
{
    NEXT(epoll_pwait);
    return fails(EPOLL_WAIT) == 1 ? -1 : next(epoll, events, most, timeout, mask);
}
