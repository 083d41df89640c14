/* A cheap load generator for `heartbeat.py` where wrk is not installed: CONNECTIONS keep-alive connections, one thread,
 * epoll, one request in flight on each. Prints the same RESULT line as the Lua script.
 *
 *   load CONNECTIONS DEVICES TOKEN_CODE BODY SECONDS PORT FIRST_DEVICE
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER_BYTES = 4096, MOST_TIMES = 8000000 };

struct connection {
    int socket;
    size_t have;
    long long sent_us;
    char buffer[BUFFER_BYTES];
};

static long devices, next_device, bad, broken;
static const char *code, *body;
static unsigned *times_us;
static size_t count;

static long long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void send_next(struct connection *it) {
    char request[BUFFER_BYTES];
    int length = snprintf(request, sizeof request,
        "POST /api/devices/bench-%ld/online HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Token-Code: %s\r\n"
        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
        next_device++ % devices, code, strlen(body), body);
    it->have = 0;
    it->sent_us = now_us();
    if (length >= (int)sizeof request || write(it->socket, request, length) != length)
        fail("write");
}

/* Return whether the buffer holds a whole response. */
static int is_whole(struct connection *it) {
    it->buffer[it->have] = 0;
    char *end = strstr(it->buffer, "\r\n\r\n"), *field = strcasestr(it->buffer, "content-length:");
    if (!end || !field || field > end)
        return 0;
    return it->have >= (size_t)(end + 4 - it->buffer) + strtoul(field + 15, NULL, 10);
}

static void receive(struct connection *it) {
    ssize_t got = read(it->socket, it->buffer + it->have, BUFFER_BYTES - 1 - it->have);
    if (got <= 0) {
        broken++;
        fprintf(stderr, "connection lost\n");
        exit(1);
    }
    it->have += got;
    if (!is_whole(it))
        return;
    if (strncmp(it->buffer, "HTTP/1.1 200", 12))
        bad++;
    if (count < MOST_TIMES)
        times_us[count++] = (unsigned)(now_us() - it->sent_us);
    send_next(it);
}

static int by_size(const void *left, const void *right) {
    unsigned a = *(const unsigned *)left, b = *(const unsigned *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "load CONNECTIONS DEVICES TOKEN_CODE BODY SECONDS PORT FIRST_DEVICE\n");
        return 2;
    }
    int connections = atoi(argv[1]), epoll = epoll_create1(0), on = 1;
    devices = atol(argv[2]), code = argv[3], body = argv[4], next_device = atol(argv[7]);
    struct connection *all = calloc(connections, sizeof *all);
    struct epoll_event events[256];
    times_us = malloc(MOST_TIMES * sizeof *times_us);
    if (epoll < 0 || !all || !times_us)
        fail("start");
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[6]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < connections; i++) {
        struct epoll_event want = {.events = EPOLLIN, .data.ptr = &all[i]};
        all[i].socket = socket(AF_INET, SOCK_STREAM, 0);
        if (all[i].socket < 0 || connect(all[i].socket, (struct sockaddr *)&to, sizeof to))
            fail("connect");
        setsockopt(all[i].socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].socket, &want);
    }
    long long began_us = now_us(), end_us = began_us + atoi(argv[5]) * 1000000LL;
    for (int i = 0; i < connections; i++)
        send_next(&all[i]);
    while (now_us() < end_us) {
        int ready = epoll_wait(epoll, events, 256, 100);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < ready; i++)
            receive(events[i].data.ptr);
    }
    long long took_us = now_us() - began_us;
    qsort(times_us, count, sizeof *times_us, by_size);
    printf("RESULT %zu %lld %u %u %ld %ld\n", count, took_us, count ? times_us[count / 2] : 0,
        count ? times_us[count * 99 / 100] : 0, bad, broken);
    return 0;
}
