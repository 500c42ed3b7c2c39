/*
 * Content on io_uring: answers requests (package control) out of -file, in pieces of
 * -buf bytes, in one of several ways (-how):
 *
 *	read-send	READ_FIXED into a registered buffer, SEND from there
 *	mmap-send	SEND from the mapped file
 *	zc-read		READ into a buffer, SEND_ZC from there
 *	zc-fixed	READ_FIXED into a registered buffer, SEND_ZC from there
 *	zc-mmap		SEND_ZC from the mapped file
 *	zc-memory	SEND_ZC from a copy of the file in registered memory
 *	splice		SPLICE from the file to a pipe and from there to the socket,
 *			the two linked
 *
 * One ring of its own thread, direct descriptors, and one send in flight on each
 * connection, since two could change places. The next piece is read while one is
 * sent. A buffer that was sent by SEND_ZC is free when the kernel notifies; the next
 * piece does not wait for that, but takes another buffer. It does wait with -wait
 * behind the name of a way of SEND_ZC (zc-read-wait): then each piece is read, sent
 * and notified before the next is begun.
 *
 * Asked for its counters it tells how many notifications there were, and how many
 * of them reported that the kernel had copied after all.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "control.h"

/* Since Linux 6.2, and not in the header of every liburing that has SEND_ZC. */
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE (1U << 3)
#define IORING_NOTIF_USAGE_ZC_COPIED (1U << 31)
#endif

enum kind { ACCEPT = 1, RECV, READ, SEND, PIPE_IN, PIPE_OUT, CLOSE, CONTROL };

#define USER_DATA(kind, n) ((uint64_t)(kind) << 32 | (uint32_t)(n))
#define NONE 0xffffffffu
#define REQUEST_BYTES 16
#define MAX_CONNS 4096
#define MIN_CHUNKS 2
#define POOL_BYTES (64u << 20)		/* of buffers, as long as there are 256 to 4096 */
#define WINDOW_BYTES (1u << 20)		/* one connection may hold so much, or 4 buffers */

static const struct way {
	const char *name;
	enum { BUFFER, MAPPED, MEMORY, PIPE } from;
	int registered;		/* the memory that is sent from */
	int zc;			/* by SEND_ZC */
} ways[] = {
	{ "read-send", BUFFER, 1, 0 },
	{ "mmap-send", MAPPED, 0, 0 },
	{ "zc-read", BUFFER, 0, 1 },
	{ "zc-fixed", BUFFER, 1, 1 },
	{ "zc-mmap", MAPPED, 0, 1 },
	{ "zc-memory", MEMORY, 1, 1 },
	{ "splice", PIPE, 0, 0 },
	{ NULL },
};

/*
 * chunk is a piece on its way, and where its bytes come from there is no memory
 * already, the buffer that it has for as long.
 *
 *	free ──► reading ──► ready ──► being sent ──► notified ──► free
 */
struct chunk {
	uint32_t slot;		/* the connection that holds it */
	uint32_t next;		/* in the list of free ones */
	char *from;		/* what is still to be sent */
	uint32_t left;
	uint32_t notices;	/* notifications to come */
	uint8_t ready;		/* to be sent */
	uint8_t failed;		/* its notification says nothing of copies */
};

struct conn {
	char request[REQUEST_BYTES];
	unsigned have;			/* of the request */
	uint64_t offset, left;		/* what is still to be begun */
	uint32_t ahead, sending;	/* chunks: the next one, and the one being sent */
	uint32_t held;			/* all chunks that are not free again */
	uint32_t next_waiting;		/* in the list of those that wait for a chunk */
	uint8_t waiting;
	uint8_t receiving;
	uint8_t live;
	uint8_t ended;			/* by the peer, or by an error */
	uint8_t splices;		/* in flight */
	uint32_t in_pipe;		/* bytes */
	int pipe[2];
};

static struct io_uring ring;
static long long enters;
static int listener, file;
static uint64_t file_bytes;

static const struct way *way;
static int one_by_one;			/* -wait */
static int report = IORING_SEND_ZC_REPORT_USAGE;
static unsigned long long notified, copied;

static struct conn *conns;
static uint32_t waiting = NONE, last_waiting = NONE;

static unsigned piece_bytes, window;
static struct chunk *chunks;
static unsigned chunk_count;
static uint32_t free_chunks = NONE;	/* a stack: what was used last is in the cache */
static char *mem;			/* the buffers of the chunks, or the file */

static void submit(void)
{
	enters++;
	int r = io_uring_submit(&ring);
	if (r < 0 && r != -EBUSY && r != -EAGAIN && r != -EINTR) {
		errno = -r;
		die("io_uring_submit");
	}
}

static struct io_uring_sqe *entry(void)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&ring)))
		submit();
	return sqe;
}

/* set comes last: liburing 2.3's prepare functions clear the user data. */
static void set(struct io_uring_sqe *sqe, uint64_t user_data, unsigned flags)
{
	sqe->user_data = user_data;
	sqe->flags |= flags;
}

static void arm_accept(void)
{
	struct io_uring_sqe *sqe = entry();

	io_uring_prep_multishot_accept_direct(sqe, listener, NULL, NULL, 0);
	set(sqe, USER_DATA(ACCEPT, 0), 0);
}

static void arm_control(void)
{
	struct io_uring_sqe *sqe = entry();

	io_uring_prep_poll_add(sqe, STDIN_FILENO, POLLIN);
	set(sqe, USER_DATA(CONTROL, 0), 0);
}

static void arm_recv(uint32_t slot)
{
	struct conn *c = &conns[slot];
	struct io_uring_sqe *sqe = entry();

	io_uring_prep_recv(sqe, (int)slot, c->request + c->have, REQUEST_BYTES - c->have, 0);
	set(sqe, USER_DATA(RECV, slot), IOSQE_FIXED_FILE);
	c->receiving = 1;
}

static void send_chunk(uint32_t i)
{
	struct chunk *k = &chunks[i];
	struct io_uring_sqe *sqe = entry();
	int flags = MSG_WAITALL | MSG_NOSIGNAL;

	if (!way->zc)
		io_uring_prep_send(sqe, (int)k->slot, k->from, k->left, flags);
	else if (way->registered)
		io_uring_prep_send_zc_fixed(sqe, (int)k->slot, k->from, k->left, flags, (unsigned)report, 0);
	else
		io_uring_prep_send_zc(sqe, (int)k->slot, k->from, k->left, flags, (unsigned)report);
	set(sqe, USER_DATA(SEND, i), IOSQE_FIXED_FILE);
}

static void advance(uint32_t slot);

/* settle ends a connection once nothing of it is in flight. */
static void settle(uint32_t slot)
{
	struct conn *c = &conns[slot];

	if (!c->live || !c->ended || c->receiving || c->held || c->splices || c->waiting)
		return;
	if (way->from == PIPE) {
		close(c->pipe[0]);
		close(c->pipe[1]);
	}
	struct io_uring_sqe *sqe = entry();
	io_uring_prep_close_direct(sqe, slot);
	set(sqe, USER_DATA(CLOSE, slot), 0);
	c->live = 0;
}

static void put_free(uint32_t i)
{
	chunks[i].next = free_chunks;
	free_chunks = i;
}

/*
 * release frees a chunk, and gives those that wait for one their turn. After it
 * nobody waits while there is a free one.
 */
static void release(uint32_t i)
{
	uint32_t slot = chunks[i].slot;

	put_free(i);
	conns[slot].held--;
	while (waiting != NONE && free_chunks != NONE) {
		uint32_t first = waiting;

		waiting = conns[first].next_waiting;
		conns[first].waiting = 0;
		advance(first);
	}
	advance(slot);
}

/* give_up ends a connection. What was read ahead for it is not sent. */
static void give_up(uint32_t slot)
{
	struct conn *c = &conns[slot];

	c->ended = 1;
	if (c->ahead != NONE && chunks[c->ahead].ready) {
		uint32_t i = c->ahead;

		c->ahead = NONE;
		release(i);
	}
	settle(slot);
}

/* take begins the next piece. */
static void take(uint32_t slot)
{
	struct conn *c = &conns[slot];
	uint32_t i = free_chunks;
	struct chunk *k = &chunks[i];
	uint32_t n = c->left < piece_bytes ? (uint32_t)c->left : piece_bytes;

	free_chunks = k->next;
	*k = (struct chunk){ .slot = slot, .left = n, .ready = 1 };
	if (way->from == BUFFER) {
		struct io_uring_sqe *sqe = entry();

		k->from = mem + (size_t)i * piece_bytes;
		k->ready = 0;
		if (way->registered)
			io_uring_prep_read_fixed(sqe, file, k->from, n, c->offset, 0);
		else
			io_uring_prep_read(sqe, file, k->from, n, c->offset);
		set(sqe, USER_DATA(READ, i), 0);
	} else {
		k->from = mem + c->offset;
	}
	c->ahead = i;
	c->held++;
	c->offset += n;
	c->left -= n;
}

/*
 * may_take says whether a connection can begin a piece now; it waits its turn if
 * others have all chunks.
 */
static int may_take(uint32_t slot)
{
	struct conn *c = &conns[slot];

	if (c->ended || !c->left || c->ahead != NONE || c->waiting)
		return 0;
	if (c->held >= (one_by_one ? 1 : window))
		return 0;
	if (free_chunks != NONE)
		return 1;
	c->waiting = 1;
	c->next_waiting = NONE;
	if (waiting == NONE)
		waiting = slot;
	else
		conns[last_waiting].next_waiting = slot;
	last_waiting = slot;
	return 0;
}

static void splice_on(uint32_t slot)
{
	struct conn *c = &conns[slot];
	uint32_t n = c->left < piece_bytes ? (uint32_t)c->left : piece_bytes;
	struct io_uring_sqe *sqe;

	if (c->splices || c->ended || !(c->left || c->in_pipe))
		return;
	/* A link must not be cut by a submission. */
	if (io_uring_sq_space_left(&ring) < 2)
		submit();
	if (c->in_pipe) {
		n = c->in_pipe;
	} else {
		sqe = entry();
		io_uring_prep_splice(sqe, file, (int64_t)c->offset, c->pipe[1], -1, n, SPLICE_F_MOVE);
		set(sqe, USER_DATA(PIPE_IN, slot), IOSQE_IO_LINK);
		c->splices++;
	}
	sqe = entry();
	io_uring_prep_splice(sqe, c->pipe[0], -1, (int)slot, -1, n, SPLICE_F_MOVE);
	set(sqe, USER_DATA(PIPE_OUT, slot), IOSQE_FIXED_FILE);
	c->splices++;
}

/* advance does for a connection what can be done now. */
static void advance(uint32_t slot)
{
	struct conn *c = &conns[slot];

	if (way->from == PIPE)
		splice_on(slot);
	while (way->from != PIPE && !c->ended) {
		if (c->sending == NONE && c->ahead != NONE && chunks[c->ahead].ready) {
			c->sending = c->ahead;
			c->ahead = NONE;
			send_chunk(c->sending);
		}
		if (!may_take(slot))
			break;
		take(slot);
	}
	if (!c->ended && !c->left && !c->in_pipe && c->ahead == NONE && c->sending == NONE && !c->receiving)
		arm_recv(slot);
	settle(slot);
}

static void on_accept(struct io_uring_cqe *cqe)
{
	if (cqe->res >= 0) {
		struct conn *c = &conns[cqe->res];

		*c = (struct conn){ .live = 1, .ahead = NONE, .sending = NONE };
		if (way->from == PIPE) {
			if (pipe2(c->pipe, O_CLOEXEC) < 0)
				die("pipe2");
			/* Without it a piece takes several turns: a pipe holds 64 KiB. */
			fcntl(c->pipe[1], F_SETPIPE_SZ, piece_bytes);
		}
		arm_recv((uint32_t)cqe->res);
	} else if (cqe->res != -ECONNABORTED && cqe->res != -ENFILE) {
		errno = -cqe->res;
		die("accept");
	}
	if (!(cqe->flags & IORING_CQE_F_MORE))
		arm_accept();
}

static uint64_t number(const char *b)
{
	uint64_t n = 0;

	for (int i = 7; i >= 0; i--)
		n = n << 8 | (unsigned char)b[i];
	return n;
}

static void on_recv(uint32_t slot, int res)
{
	struct conn *c = &conns[slot];

	c->receiving = 0;
	if (res <= 0) {
		give_up(slot);
		return;
	}
	c->have += (unsigned)res;
	if (c->have == REQUEST_BYTES) {
		uint64_t offset = number(c->request), left = number(c->request + 8);

		c->have = 0;
		if (offset > file_bytes || left > file_bytes - offset) {
			give_up(slot); /* more was asked for than there is */
			return;
		}
		c->offset = offset;
		c->left = left;
	}
	advance(slot);
}

static void on_read(uint32_t i, int res)
{
	struct chunk *k = &chunks[i];
	struct conn *c = &conns[k->slot];

	/* A file that stays as it is, and is in memory, is read in full. */
	if (res >= 0 && (uint32_t)res != k->left)
		res = -EIO;
	if (res < 0) {
		errno = -res;
		die("read");
	}
	k->ready = 1;
	if (c->ended) {
		c->ahead = NONE;
		release(i);
	} else {
		advance(k->slot);
	}
}

static void on_send(uint32_t i, struct io_uring_cqe *cqe)
{
	struct chunk *k = &chunks[i];
	struct conn *c = &conns[k->slot];

	if (cqe->flags & IORING_CQE_F_NOTIF) {
		k->notices--;
		if (report && !k->failed) {
			notified++;
			copied += !!((uint32_t)cqe->res & IORING_NOTIF_USAGE_ZC_COPIED);
		}
	} else {
		if (cqe->flags & IORING_CQE_F_MORE)
			k->notices++;
		if (cqe->res == -EINVAL && report && way->zc) {
			report = 0; /* an older kernel; it has taken nothing */
			send_chunk(i);
			return;
		}
		if (cqe->res == -ENOMEM || cqe->res == -EINVAL || cqe->res == -EOPNOTSUPP || cqe->res == -EFAULT) {
			errno = -cqe->res;
			die(cqe->res == -ENOMEM ? "send_zc (locked memory: raise 'ulimit -l')" : "send");
		}
		if (cqe->res < 0) {
			k->failed = 1;
			k->left = 0;
		} else {
			k->from += cqe->res;
			k->left -= (uint32_t)cqe->res;
		}
		if (k->left) {
			send_chunk(i);
			return;
		}
		c->sending = NONE;
		if (k->failed)
			give_up(k->slot);
	}
	if (!k->left && !k->notices)
		release(i);
	else
		advance(k->slot);
}

static void on_splice(uint32_t slot, enum kind kind, int res)
{
	struct conn *c = &conns[slot];

	c->splices--;
	if (res == -ECANCELED && kind == PIPE_OUT) {
		/* less went in than the link wanted; what did comes out next */
	} else if (res <= 0) {
		c->ended = 1;
	} else if (kind == PIPE_IN) {
		c->offset += (uint32_t)res;
		c->left -= (uint32_t)res;
		c->in_pipe += (uint32_t)res;
	} else {
		c->in_pipe -= (uint32_t)res;
	}
	advance(slot);
}

/* choose reads -how. */
static void choose(const char *how)
{
	char name[32];
	size_t n = how ? strlen(how) : 0;

	one_by_one = n > 5 && !strcmp(how + n - 5, "-wait");
	if (one_by_one)
		n -= 5;
	snprintf(name, sizeof(name), "%.*s", (int)n, how ? how : "");
	for (way = ways; way->name; way++)
		if (!strcmp(way->name, name) && (way->zc || !one_by_one))
			return;
	fprintf(stderr, "-how %s: use", how ? how : "WAY");
	for (way = ways; way->name; way++)
		fprintf(stderr, way->zc ? " %s %s-wait" : " %s", way->name, way->name);
	fprintf(stderr, "\n");
	exit(2);
}

/* may_lock says whether this process may lock as much memory as it likes. */
static int may_lock(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2] = { 0 };

	return syscall(SYS_capget, &h, d) == 0 && d[0].effective & 1u << CAP_IPC_LOCK;
}

static char *map(size_t n, int fd)
{
	char *p = fd < 0 ? mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
			 : mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

/*
 * set_up_memory makes the chunks, their buffers if they have any, and what is sent
 * from if they have not.
 */
static void set_up_memory(void)
{
	struct rlimit lock;
	size_t bytes;

	chunk_count = POOL_BYTES / piece_bytes;
	if (chunk_count > 4096)
		chunk_count = 4096;
	if (chunk_count < 256)
		chunk_count = 256;
	/*
	 * The kernel counts both registered memory and what SEND_ZC has pinned, for all
	 * processes of a user. Half of it, since the server before us may not have given
	 * back all of its own: rings are torn down later than processes end.
	 */
	getrlimit(RLIMIT_MEMLOCK, &lock);
	if ((way->registered || way->zc) && !may_lock())
		while (chunk_count > 1 && (uint64_t)chunk_count * (piece_bytes + 4096) > lock.rlim_cur / 2)
			chunk_count /= 2;
	if (chunk_count < MIN_CHUNKS) {
		fprintf(stderr, "too little memory may be locked for pieces of %u bytes: raise 'ulimit -l'\n", piece_bytes);
		exit(1);
	}
	window = WINDOW_BYTES / piece_bytes;
	if (window < 4)
		window = 4;
	chunks = calloc(chunk_count, sizeof(*chunks));
	if (!chunks)
		die("calloc");
	for (uint32_t i = chunk_count; i > 0; i--)
		put_free(i - 1);

	bytes = way->from == BUFFER ? (size_t)chunk_count * piece_bytes : file_bytes;
	mem = map(bytes, way->from == MAPPED ? file : -1);
	for (uint64_t n = 0; way->from == MEMORY && n < bytes;) {
		ssize_t r = pread(file, mem + n, bytes - n, (off_t)n);
		if (r <= 0)
			die("read");
		n += (uint64_t)r;
	}
	if (way->registered) {
		struct iovec v = { .iov_base = mem, .iov_len = bytes };
		int r = io_uring_register_buffers(&ring, &v, 1);
		if (r < 0) {
			errno = -r;
			die("io_uring_register_buffers (locked memory: raise 'ulimit -l')");
		}
	}
}

static void set_up(void)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL |
			 IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
		.cq_entries = 32768,
	};
	int r = io_uring_queue_init_params(4096, &ring, &p);
	struct rlimit lim;
	cpu_set_t cores;

	if (r < 0) {
		errno = -r;
		die("io_uring_queue_init_params (Linux 6.1 or later, and io_uring allowed?)");
	}
	io_uring_register_ring_fd(&ring);
	/* The kernel's worker threads, which do the splices, stay on our core as well. */
	if (sched_getaffinity(0, sizeof(cores), &cores) < 0)
		die("sched_getaffinity");
	r = io_uring_register_iowq_aff(&ring, sizeof(cores), &cores);
	if (r >= 0) {
		getrlimit(RLIMIT_NOFILE, &lim);
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
		r = io_uring_register_files_sparse(&ring, lim.rlim_cur < MAX_CONNS ? (unsigned)lim.rlim_cur : MAX_CONNS);
	}
	if (r < 0) {
		errno = -r;
		die("set up the ring");
	}
	conns = calloc(MAX_CONNS, sizeof(*conns));
	if (!conns)
		die("calloc");
	if (way->from != PIPE)
		set_up_memory();
}

static void tell(void)
{
	char b[160];
	int n = snprintf(b, sizeof(b), "{\"enters\":%lld", enters);

	if (way->zc && report)
		n += snprintf(b + n, sizeof(b) - (size_t)n, ",\"zerocopy\":{\"notified\":%llu,\"copied\":%llu}", notified, copied);
	snprintf(b + n, sizeof(b) - (size_t)n, "}");
	answer_with(b);
}

int main(int argc, char **argv)
{
	struct options o = { .buf_bytes = 256 << 10 };
	struct stat st;

	parse_options(argc, argv, &o);
	if (!o.content.sin_family || !o.file) {
		fprintf(stderr, "this server has nothing but content: use -content HOST:PORT and -file PATH\n");
		exit(2);
	}
	choose(o.how);
	piece_bytes = o.buf_bytes;
	signal(SIGPIPE, SIG_IGN);
	file = open(o.file, O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &st) < 0)
		die(o.file);
	file_bytes = (uint64_t)st.st_size;
	set_up();
	listener = listen_on(&o.content, 0);
	arm_accept();
	arm_control();
	say_ready(listener, listener);

	for (;;) {
		enters++;
		int r = io_uring_submit_and_wait(&ring, 1);
		if (r < 0 && r != -EINTR && r != -EBUSY && r != -EAGAIN) {
			errno = -r;
			die("io_uring_submit_and_wait");
		}

		struct io_uring_cqe *cqe;
		unsigned head, n = 0;
		io_uring_for_each_cqe(&ring, head, cqe) {
			uint32_t id = (uint32_t)cqe->user_data;
			enum kind kind = (enum kind)(cqe->user_data >> 32);

			switch (kind) {
			case ACCEPT:
				on_accept(cqe);
				break;
			case RECV:
				on_recv(id, cqe->res);
				break;
			case READ:
				on_read(id, cqe->res);
				break;
			case SEND:
				on_send(id, cqe);
				break;
			case PIPE_IN:
			case PIPE_OUT:
				on_splice(id, kind, cqe->res);
				break;
			case CONTROL:
				tell();
				arm_control();
				break;
			case CLOSE:
				break;
			}
			n++;
		}
		io_uring_cq_advance(&ring, n);
	}
}
