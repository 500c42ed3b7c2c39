/*
 * What every server of the benchmark does beside echoing, as package control has
 * it: `-addr HOST:PORT`, `ready ADDR` on stdout, one line of JSON
 * for each line on stdin, exit at the end of stdin.
 */
#ifndef CONTROL_H
#define CONTROL_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* options are the flags; buf_bytes keeps its value when -buf is not given. */
struct options {
	struct sockaddr_in addr;
	struct sockaddr_in content;	/* where content is served, if that was asked for */
	const char *file;		/* that it comes from */
	const char *how;		/* in which way */
	unsigned buf_bytes;
};

static void parse_address(const char *addr, struct sockaddr_in *to)
{
	char host[64];
	const char *colon = strrchr(addr, ':');

	if (!colon || (size_t)(colon - addr) >= sizeof(host)) {
		fprintf(stderr, "address %s: want HOST:PORT with an IPv4 host\n", addr);
		exit(2);
	}
	memcpy(host, addr, colon - addr);
	host[colon - addr] = 0;
	memset(to, 0, sizeof(*to));
	to->sin_family = AF_INET;
	to->sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, host, &to->sin_addr) != 1) {
		fprintf(stderr, "address %s: %s is no IPv4 address\n", addr, host);
		exit(2);
	}
}

static void parse_options(int argc, char **argv, struct options *o)
{
	parse_address("127.0.0.1:0", &o->addr);
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-addr") && i + 1 < argc) {
			parse_address(argv[++i], &o->addr);
		} else if (!strcmp(argv[i], "-buf") && i + 1 < argc) {
			o->buf_bytes = (unsigned)strtoul(argv[++i], NULL, 10);
		} else if (!strcmp(argv[i], "-content") && i + 1 < argc) {
			parse_address(argv[++i], &o->content);
		} else if (!strcmp(argv[i], "-file") && i + 1 < argc) {
			o->file = argv[++i];
		} else if (!strcmp(argv[i], "-how") && i + 1 < argc) {
			o->how = argv[++i];
		} else {
			fprintf(stderr, "unknown flag %s: use -addr HOST:PORT and -buf BYTES, and for content -content HOST:PORT, -file PATH and -how WAY\n", argv[i]);
			exit(2);
		}
	}
	if (o->buf_bytes < 64 || o->buf_bytes > 16u << 20) {
		fprintf(stderr, "-buf %u: want 64 to 16777216 bytes\n", o->buf_bytes);
		exit(2);
	}
}

/* listen_on opens the listener; accepted sockets inherit TCP_NODELAY from it. */
static int listen_on(const struct sockaddr_in *addr, int extra_type)
{
	int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | extra_type, 0);

	if (fd < 0)
		die("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		die("setsockopt");
	if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		die("bind");
	if (listen(fd, 4096) < 0)
		die("listen");
	return fd;
}

static void say_address(int fd)
{
	struct sockaddr_in a;
	socklen_t n = sizeof(a);
	char host[64];

	if (getsockname(fd, (struct sockaddr *)&a, &n) < 0)
		die("getsockname");
	inet_ntop(AF_INET, &a.sin_addr, host, sizeof(host));
	printf(" %s:%u", host, ntohs(a.sin_port));
}

/* say_ready tells the addresses of the listeners; content is -1 without a second. */
static void say_ready(int fd, int content)
{
	printf("ready");
	say_address(fd);
	if (content >= 0)
		say_address(content);
	printf("\n");
	fflush(stdout);
}

/*
 * answer_with reads what is on stdin and answers each line with the counters, one
 * line of JSON. Ends the process at the end of stdin. Memory is not collected here,
 * so `gc` needs no more than an answer.
 */
static void answer_with(const char *counters)
{
	char b[256];
	ssize_t n = read(STDIN_FILENO, b, sizeof(b));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0)
		exit(0);
	for (ssize_t i = 0; i < n; i++) {
		if (b[i] == '\n')
			printf("%s\n", counters);
	}
	fflush(stdout);
}

/* answer does so with the count of enters, or with nothing if it is negative. */
static inline void answer(long long enters)
{
	char b[64] = "{}";

	if (enters >= 0)
		snprintf(b, sizeof(b), "{\"enters\":%lld}", enters);
	answer_with(b);
}

#endif
