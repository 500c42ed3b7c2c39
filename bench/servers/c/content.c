/*
 * Content on epoll, level-triggered: answers requests (package control) out of
 * -file, in one of several ways (-how):
 *
 *	sendfile	sendfile(2)
 *	mapped		send(2) from the mapped file
 *	read		pread(2) into a buffer that stays in the cache, send(2)
 *	splice		splice(2) from the file to a pipe, and from there to the socket
 *	memory		send(2) from a copy of the file's beginning, as a file that
 *			holds the stream of package payload repeats itself
 *
 * What a peer does not take waits for room; meanwhile nothing is read from it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "control.h"

#define MAX_EVENTS 1024
#define REQUEST_BYTES 16
#define TURN_BYTES (1 << 20)	/* after so much others have their turn */
#define PERIOD 16381		/* of the stream of package payload */

struct conn {
	char request[REQUEST_BYTES];
	unsigned have;		/* of the request */
	uint64_t offset, left;	/* what is still to be sent */
	int waits;		/* for room */
	int pipe[2];		/* SPLICE: made when first needed */
	size_t in_pipe;		/* and bytes that are there; they stand in left still */
};

static int ep, listener, file = -1;
static struct conn *conns;
static size_t conn_count;
static enum { SENDFILE, MAPPED, READ, MEMORY, SPLICE } how;
static char *mem;	/* the mapping, the buffer or the stream */
static uint64_t file_bytes;
static unsigned piece_bytes;

static void watch(int op, int fd, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.fd = fd };

	if (epoll_ctl(ep, op, fd, &e) < 0)
		die("epoll_ctl");
}

static void end(int fd)
{
	if (conns[fd].pipe[1]) {
		close(conns[fd].pipe[0]);
		close(conns[fd].pipe[1]);
	}
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

static uint64_t number(const char *b)
{
	uint64_t n = 0;

	for (int i = 7; i >= 0; i--)
		n = n << 8 | (unsigned char)b[i];
	return n;
}

/*
 * splice_some moves a piece into the pipe, and as much of it to the socket as that
 * takes. The rest stays in the pipe.
 */
static ssize_t splice_some(int fd, struct conn *c, size_t n)
{
	off64_t at = (off64_t)c->offset;
	ssize_t w;

	if (!c->pipe[1]) {
		if (pipe2(c->pipe, O_CLOEXEC | O_NONBLOCK) < 0)
			die("pipe2");
		/* Without it more calls are needed: a pipe holds 64 KiB. */
		fcntl(c->pipe[1], F_SETPIPE_SZ, piece_bytes);
	}
	if (!c->in_pipe) {
		w = splice(file, &at, c->pipe[1], NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		if (w <= 0)
			return w;
		c->in_pipe = (size_t)w;
	}
	w = splice(c->pipe[0], NULL, fd, NULL, c->in_pipe, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	if (w > 0)
		c->in_pipe -= (size_t)w;
	return w;
}

/* send_some sends one piece; -1 when the peer takes nothing now, or for ever. */
static ssize_t send_some(int fd, struct conn *c)
{
	size_t n = c->left < piece_bytes ? c->left : piece_bytes;
	off_t at = (off_t)c->offset;
	ssize_t w = -1;

	if (how != MEMORY && c->offset + n > file_bytes) {
		errno = EINVAL; /* more was asked for than there is */
		return -1;
	}
	switch (how) {
	case SENDFILE:
		w = sendfile(fd, file, &at, n);
		break;
	case MAPPED:
		w = send(fd, mem + c->offset, n, MSG_NOSIGNAL);
		break;
	case READ:
		w = pread(file, mem, n, at);
		if (w > 0)
			w = send(fd, mem, (size_t)w, MSG_NOSIGNAL);
		break;
	case MEMORY:
		w = send(fd, mem + c->offset % PERIOD, n, MSG_NOSIGNAL);
		break;
	case SPLICE:
		w = splice_some(fd, c, n);
		break;
	}
	if (w == 0) {
		errno = EIO; /* the file has become shorter */
		return -1;
	}
	if (w > 0) {
		c->offset += (uint64_t)w;
		c->left -= (uint64_t)w;
	}
	return w;
}

/*
 * serve sends what was asked for and takes further requests, as far as it goes. A
 * peer that takes everything at once would keep all others waiting for ever.
 */
static void serve(int fd)
{
	struct conn *c = &conns[fd];
	size_t turn = 0;

	for (;;) {
		while (c->left && turn < TURN_BYTES) {
			ssize_t w = send_some(fd, c);

			if (w > 0) {
				turn += (size_t)w;
			} else if (errno == EAGAIN) {
				break;
			} else if (errno != EINTR) {
				end(fd);
				return;
			}
		}
		if (c->left) {
			if (!c->waits) {
				c->waits = 1;
				watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
			}
			return;
		}
		if (c->waits) {
			c->waits = 0;
			watch(EPOLL_CTL_MOD, fd, EPOLLIN);
		}
		ssize_t n = recv(fd, c->request + c->have, REQUEST_BYTES - c->have, 0);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			end(fd);
			return;
		}
		c->have += (unsigned)n;
		if (c->have < REQUEST_BYTES)
			return;
		c->have = 0;
		c->offset = number(c->request);
		c->left = number(c->request + 8);
	}
}

static void open_file(const struct options *o)
{
	struct stat st;

	file = open(o->file, O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &st) < 0)
		die(o->file);
	file_bytes = (uint64_t)st.st_size;
	if (!o->how || !strcmp(o->how, "sendfile")) {
		how = SENDFILE;
	} else if (!strcmp(o->how, "splice")) {
		how = SPLICE;
	} else if (!strcmp(o->how, "mapped")) {
		how = MAPPED;
		mem = mmap(NULL, file_bytes, PROT_READ, MAP_SHARED, file, 0);
		if (mem == MAP_FAILED)
			die("mmap");
	} else if (!strcmp(o->how, "read") || !strcmp(o->how, "memory")) {
		how = !strcmp(o->how, "read") ? READ : MEMORY;
		mem = malloc(PERIOD + piece_bytes);
		if (!mem)
			die("malloc");
		if (how == MEMORY && pread(file, mem, PERIOD, 0) != PERIOD) {
			fprintf(stderr, "the file is shorter than a period of the stream\n");
			exit(1);
		}
		for (size_t n = PERIOD; how == MEMORY && n < PERIOD + piece_bytes; n++)
			mem[n] = mem[n - PERIOD];
	} else {
		fprintf(stderr, "-how %s: use sendfile, mapped, read, splice or memory\n", o->how);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct options o = { .buf_bytes = 256 << 10 };
	struct rlimit lim;

	parse_options(argc, argv, &o);
	piece_bytes = o.buf_bytes;
	if (!o.content.sin_family || !o.file) {
		fprintf(stderr, "this server has nothing but content: use -content HOST:PORT and -file PATH\n");
		exit(2);
	}
	/* Neither sendfile(2) nor splice(2) can be told MSG_NOSIGNAL. */
	signal(SIGPIPE, SIG_IGN);
	getrlimit(RLIMIT_NOFILE, &lim);
	lim.rlim_cur = lim.rlim_max;
	setrlimit(RLIMIT_NOFILE, &lim);
	conn_count = lim.rlim_cur > 1 << 20 ? 1 << 20 : lim.rlim_cur;
	conns = calloc(conn_count, sizeof(*conns));
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (!conns || ep < 0)
		die("set up");
	open_file(&o);
	listener = listen_on(&o.content, SOCK_NONBLOCK);
	watch(EPOLL_CTL_ADD, listener, EPOLLIN);
	watch(EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN);
	say_ready(listener, listener);

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
			else
				serve(fd);
		}
	}
}
