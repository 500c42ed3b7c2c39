/*
 * The floor: TCP echo on io_uring as liburing's own examples would have it done
 * by somebody who knows it. One ring of its own thread (SINGLE_ISSUER,
 * DEFER_TASKRUN), multishot accept into direct descriptors, multishot receive
 * from one buffer ring, sends straight out of the receive buffers.
 *
 * Received buffers queue up per connection in order; one send is in flight per
 * connection and covers all that was queued when it was made.
 */
#define _GNU_SOURCE
#include <liburing.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "control.h"

enum kind { ACCEPT = 1, RECV, SEND, CLOSE, CONTROL };

#define USER_DATA(kind, slot) ((uint64_t)(kind) << 32 | (uint32_t)(slot))
#define GROUP 0
#define NONE 0xffffffffu
#define MAX_VECTOR 64		/* pieces in one vectored send */
#define EAGER_BYTES (32 << 10)	/* submit in mid-batch once so much is queued */

/* piece is a received buffer on its way back; its index is the buffer's id. */
struct piece {
	uint32_t next;
	uint32_t off, len;
};

struct vector {
	struct msghdr msg;
	struct iovec iov[MAX_VECTOR];
};

struct conn {
	uint32_t head, tail;	/* pieces to send, NONE when empty */
	uint32_t in_flight;	/* pieces that the send in flight covers */
	uint8_t armed;		/* a receive is armed */
	uint8_t starved;	/* on the list of those that wait for buffers */
	uint8_t ended;		/* nothing more is received */
	uint8_t broken;		/* nothing more can be sent */
	uint32_t next_starved;
	struct vector *vector;	/* made when first needed */
};

static struct io_uring ring;
static long long enters;
static int listener;

static struct conn *conns;
static unsigned conn_count;	/* places in the table of direct descriptors */
static unsigned live;

static struct io_uring_buf_ring *bufs;
static unsigned buf_count, buf_bytes;
static char *buf_mem;
static struct piece *pieces;
static uint32_t *free_bufs;	/* a stack: what was used last is in the cache */
static unsigned free_count, published;
static unsigned want = 64;	/* buffers to have with the kernel, a power of two */
static unsigned taken;		/* buffers that the kernel filled since the last publish */
static uint32_t starved = NONE;
static unsigned queued_bytes;	/* in prepared sends that are not submitted */

static void submit(void)
{
	enters++;
	int r = io_uring_submit(&ring);
	if (r < 0 && r != -EBUSY && r != -EAGAIN && r != -EINTR) {
		errno = -r;
		die("io_uring_submit");
	}
	queued_bytes = 0;
}

static struct io_uring_sqe *entry(enum kind kind, uint32_t slot)
{
	struct io_uring_sqe *sqe;

	while (!(sqe = io_uring_get_sqe(&ring)))
		submit();
	sqe->user_data = USER_DATA(kind, slot);
	return sqe;
}

/* set keeps the user data, which liburing 2.3's prepare functions clear. */
static void set(struct io_uring_sqe *sqe, uint64_t user_data, unsigned flags)
{
	sqe->user_data = user_data;
	sqe->flags |= flags;
}

static void arm_accept(void)
{
	struct io_uring_sqe *sqe = entry(ACCEPT, 0);

	io_uring_prep_multishot_accept_direct(sqe, listener, NULL, NULL, 0);
	set(sqe, USER_DATA(ACCEPT, 0), 0);
}

static void arm_recv(uint32_t slot)
{
	struct io_uring_sqe *sqe = entry(RECV, slot);

	io_uring_prep_recv_multishot(sqe, (int)slot, NULL, 0, 0);
	set(sqe, USER_DATA(RECV, slot), IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT);
	sqe->buf_group = GROUP;
	conns[slot].armed = 1;
}

static void arm_control(void)
{
	struct io_uring_sqe *sqe = entry(CONTROL, 0);

	io_uring_prep_poll_add(sqe, STDIN_FILENO, POLLIN);
	set(sqe, USER_DATA(CONTROL, 0), 0);
}

static void recycle(uint32_t bid)
{
	free_bufs[free_count++] = bid;
}

/*
 * publish hands buffers to the kernel: as many as one enter has been seen to
 * fill, with room to spare, and no more, since the kernel takes the oldest first
 * and would walk through all memory otherwise.
 */
static void publish(void)
{
	unsigned n = 0;

	while (want < buf_count && taken > want / 2)
		want *= 2;
	taken = 0;
	for (; published < want && free_count; published++, n++) {
		uint32_t bid = free_bufs[--free_count];
		io_uring_buf_ring_add(bufs, buf_mem + (size_t)bid * buf_bytes, buf_bytes,
				      (unsigned short)bid, (int)buf_count - 1, (int)n);
	}
	if (n)
		io_uring_buf_ring_advance(bufs, (int)n);
	while (starved != NONE && published) {
		uint32_t slot = starved;
		struct conn *c = &conns[slot];

		starved = c->next_starved;
		c->starved = 0;
		if (!c->ended && !c->armed)
			arm_recv(slot);
	}
}

/* send_next puts one send in flight for all that is queued. */
static void send_next(uint32_t slot)
{
	struct conn *c = &conns[slot];
	struct piece *p = &pieces[c->head];
	struct io_uring_sqe *sqe = entry(SEND, slot);

	if (p->next == NONE) {
		io_uring_prep_send(sqe, (int)slot, buf_mem + (size_t)c->head * buf_bytes + p->off, p->len,
				   MSG_WAITALL | MSG_NOSIGNAL);
		c->in_flight = 1;
		queued_bytes += p->len;
	} else {
		struct vector *v = c->vector;
		unsigned n = 0;

		if (!v) {
			v = c->vector = calloc(1, sizeof(*v));
			if (!v)
				die("calloc");
		}
		for (uint32_t bid = c->head; bid != NONE && n < MAX_VECTOR; bid = pieces[bid].next, n++) {
			v->iov[n].iov_base = buf_mem + (size_t)bid * buf_bytes + pieces[bid].off;
			v->iov[n].iov_len = pieces[bid].len;
			queued_bytes += pieces[bid].len;
		}
		v->msg.msg_iov = v->iov;
		v->msg.msg_iovlen = n;
		io_uring_prep_sendmsg(sqe, (int)slot, &v->msg, MSG_WAITALL | MSG_NOSIGNAL);
		c->in_flight = n;
	}
	set(sqe, USER_DATA(SEND, slot), IOSQE_FIXED_FILE);
	if (queued_bytes >= EAGER_BYTES)
		submit();
}

static void drop_queue(struct conn *c)
{
	while (c->head != NONE) {
		uint32_t bid = c->head;
		c->head = pieces[bid].next;
		recycle(bid);
	}
	c->tail = NONE;
}

/* settle ends a connection once nothing of it is in flight. */
static void settle(uint32_t slot)
{
	struct conn *c = &conns[slot];

	if (!c->ended || c->armed || c->in_flight || c->head != NONE)
		return;
	struct io_uring_sqe *sqe = entry(CLOSE, slot);
	io_uring_prep_close_direct(sqe, slot);
	set(sqe, USER_DATA(CLOSE, slot), 0);
	live--;
}

static void on_accept(struct io_uring_cqe *cqe)
{
	if (cqe->res >= 0) {
		struct conn *c = &conns[cqe->res];
		struct vector *v = c->vector;

		memset(c, 0, sizeof(*c));
		c->head = c->tail = NONE;
		c->vector = v;
		live++;
		arm_recv((uint32_t)cqe->res);
	} else if (cqe->res != -ECONNABORTED && cqe->res != -ENFILE) {
		errno = -cqe->res;
		die("accept");
	}
	if (!(cqe->flags & IORING_CQE_F_MORE))
		arm_accept();
}

static void on_recv(uint32_t slot, struct io_uring_cqe *cqe)
{
	struct conn *c = &conns[slot];

	if (cqe->flags & IORING_CQE_F_BUFFER) {
		uint32_t bid = cqe->flags >> IORING_CQE_BUFFER_SHIFT;

		published--;
		taken++;
		if (cqe->res <= 0 || c->broken) {
			recycle(bid);
		} else {
			pieces[bid] = (struct piece){ .next = NONE, .off = 0, .len = (uint32_t)cqe->res };
			if (c->head == NONE)
				c->head = bid;
			else
				pieces[c->tail].next = bid;
			c->tail = bid;
			if (!c->in_flight)
				send_next(slot);
		}
	}
	if (cqe->flags & IORING_CQE_F_MORE)
		return;
	c->armed = 0;
	if (cqe->res == -ENOBUFS) {
		if (!c->starved) {
			c->starved = 1;
			c->next_starved = starved;
			starved = slot;
		}
	} else if (cqe->res <= 0) {
		c->ended = 1;
		settle(slot);
	} else {
		arm_recv(slot);
	}
}

static void on_send(uint32_t slot, int res)
{
	struct conn *c = &conns[slot];

	c->in_flight = 0;
	if (res < 0) {
		/* The receive ends by itself: the connection is gone. */
		c->broken = 1;
		drop_queue(c);
	}
	while (res > 0) {
		uint32_t bid = c->head;
		struct piece *p = &pieces[bid];

		if ((uint32_t)res < p->len) {
			p->off += (uint32_t)res;
			p->len -= (uint32_t)res;
			break;
		}
		res -= (int)p->len;
		c->head = p->next;
		recycle(bid);
	}
	if (c->head == NONE) {
		c->tail = NONE;
		settle(slot);
	} else {
		send_next(slot);
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

	if (r < 0) {
		errno = -r;
		die("io_uring_queue_init_params (Linux 6.1 or later, and io_uring allowed?)");
	}
	io_uring_register_ring_fd(&ring);

	struct rlimit lim;
	getrlimit(RLIMIT_NOFILE, &lim);
	lim.rlim_cur = lim.rlim_max;
	setrlimit(RLIMIT_NOFILE, &lim);
	conn_count = lim.rlim_cur > 32768 ? 32768 : (unsigned)lim.rlim_cur;
	r = io_uring_register_files_sparse(&ring, conn_count);
	if (r < 0) {
		errno = -r;
		die("io_uring_register_files_sparse");
	}
	conns = calloc(conn_count, sizeof(*conns));

	/* 64 MiB of buffers at most, reserved but not touched. */
	buf_count = 16384;
	while ((size_t)buf_count * buf_bytes > 64u << 20 && buf_count > 16)
		buf_count /= 2;
	buf_mem = mmap(NULL, (size_t)buf_count * buf_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	bufs = mmap(NULL, buf_count * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pieces = calloc(buf_count, sizeof(*pieces));
	free_bufs = calloc(buf_count, sizeof(*free_bufs));
	if (buf_mem == MAP_FAILED || bufs == MAP_FAILED || !conns || !pieces || !free_bufs)
		die("memory");
	struct io_uring_buf_reg reg = { .ring_addr = (uint64_t)(uintptr_t)bufs, .ring_entries = buf_count,
					.bgid = GROUP };
	r = io_uring_register_buf_ring(&ring, &reg, 0);
	if (r < 0) {
		errno = -r;
		die("io_uring_register_buf_ring");
	}
	io_uring_buf_ring_init(bufs);
	for (unsigned i = buf_count; i > 0; i--)
		recycle(i - 1);
}

int main(int argc, char **argv)
{
	struct options o = { .buf_bytes = 4096 };

	parse_options(argc, argv, &o);
	buf_bytes = o.buf_bytes;
	listener = listen_on(&o.addr, 0);
	set_up();
	publish();
	arm_accept();
	arm_control();
	say_ready(listener, -1);

	for (;;) {
		enters++;
		int r = io_uring_submit_and_wait(&ring, 1);
		if (r < 0 && r != -EINTR && r != -EBUSY && r != -EAGAIN) {
			errno = -r;
			die("io_uring_submit_and_wait");
		}
		queued_bytes = 0;

		struct io_uring_cqe *cqe;
		unsigned head, n = 0;
		io_uring_for_each_cqe(&ring, head, cqe) {
			uint32_t slot = (uint32_t)cqe->user_data;

			switch (cqe->user_data >> 32) {
			case ACCEPT:
				on_accept(cqe);
				break;
			case RECV:
				on_recv(slot, cqe);
				break;
			case SEND:
				on_send(slot, cqe->res);
				break;
			case CONTROL:
				answer(enters);
				arm_control();
				break;
			}
			n++;
		}
		io_uring_cq_advance(&ring, n);
		publish();
	}
}
