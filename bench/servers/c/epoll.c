/*
 * TCP echo on epoll, level-triggered: read into one buffer that stays in the
 * cache, write it back at once, and only what the peer does not take is copied.
 * While something waits, nothing more is read from that connection.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>
#include <sys/resource.h>

#include "control.h"

#define MAX_EVENTS 1024
#define MAX_READS 16	/* full buffers in a row from one connection */

struct conn {
	char *rest;	/* what could not be written yet */
	size_t off, len, cap;
};

static int ep, listener;
static struct conn *conns;
static size_t conn_count;
static char *hot;
static unsigned hot_bytes;

static void watch(int op, int fd, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.fd = fd };

	if (epoll_ctl(ep, op, fd, &e) < 0)
		die("epoll_ctl");
}

static void end(int fd)
{
	free(conns[fd].rest);
	memset(&conns[fd], 0, sizeof(conns[fd]));
	close(fd);
}

static void on_accept(void)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
				return;
			die("accept");
		}
		if ((size_t)fd >= conn_count) {
			close(fd);
			continue;
		}
		watch(EPOLL_CTL_ADD, fd, EPOLLIN);
	}
}

/* keep copies what the peer did not take and waits for room instead of data. */
static void keep(int fd, const char *b, size_t n)
{
	struct conn *c = &conns[fd];

	if (c->cap < n) {
		free(c->rest);
		c->rest = malloc(c->cap = n);
		if (!c->rest)
			die("malloc");
	}
	memcpy(c->rest, b, n);
	c->off = 0;
	c->len = n;
	watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
}

static void on_readable(int fd)
{
	for (int i = 0; i < MAX_READS; i++) {
		ssize_t n = recv(fd, hot, hot_bytes, 0);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			end(fd);
			return;
		}
		ssize_t w = send(fd, hot, (size_t)n, MSG_NOSIGNAL);
		if (w < 0 && errno != EAGAIN && errno != EINTR) {
			end(fd);
			return;
		}
		if (w < 0)
			w = 0;
		if (w < n) {
			keep(fd, hot + w, (size_t)(n - w));
			return;
		}
		if ((size_t)n < hot_bytes)
			return; /* the socket is empty: save the call that would say so */
	}
}

static void on_writable(int fd)
{
	struct conn *c = &conns[fd];
	ssize_t w = send(fd, c->rest + c->off, c->len, MSG_NOSIGNAL);

	if (w < 0) {
		if (errno != EAGAIN && errno != EINTR)
			end(fd);
		return;
	}
	c->off += (size_t)w;
	c->len -= (size_t)w;
	if (c->len == 0)
		watch(EPOLL_CTL_MOD, fd, EPOLLIN);
}

int main(int argc, char **argv)
{
	struct options o = { .buf_bytes = 64 << 10 };
	struct rlimit lim;

	parse_options(argc, argv, &o);
	hot_bytes = o.buf_bytes;
	getrlimit(RLIMIT_NOFILE, &lim);
	lim.rlim_cur = lim.rlim_max;
	setrlimit(RLIMIT_NOFILE, &lim);
	conn_count = lim.rlim_cur > 1 << 20 ? 1 << 20 : lim.rlim_cur;
	conns = calloc(conn_count, sizeof(*conns));
	hot = malloc(hot_bytes);
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (!conns || !hot || ep < 0)
		die("set up");
	listener = listen_on(&o.addr, SOCK_NONBLOCK);
	watch(EPOLL_CTL_ADD, listener, EPOLLIN);
	watch(EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN);
	say_ready(listener, -1);

	static struct epoll_event events[MAX_EVENTS];
	for (;;) {
		int n = epoll_wait(ep, events, MAX_EVENTS, -1);

		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;

			if (fd == listener)
				on_accept();
			else if (fd == STDIN_FILENO)
				answer(-1);
			else if (conns[fd].len)
				on_writable(fd);
			else
				on_readable(fd);
		}
	}
}
