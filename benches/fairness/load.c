// What fairness.py needs a fast language for: the upstream, and the hostile client's plain UDP and TCP.
// usage: load upstream PORT DELAY_MS             names with a label "slow" are answered after the delay, others at once
//        load udp PORT SECONDS RATE NAMES        queries for slow names: all "distinct", or "identical" for two seconds
//        load tcp PORT SECONDS RATE CONNECTIONS  queries for distinct slow names, pipelined
//        load hold PORT SECONDS CONNECTIONS HEX  keeps CONNECTIONS open; sends the bytes on each
//        load loop PORT SECONDS CONNECTIONS      opens connections as fast as possible; the newest ones stay open
// All but the first send from 127.0.0.2, and print what they did as a line of JSON at the end or at SIGTERM.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, SIZE = 600, SOCKETS = 64, DELAYED = 1 << 17, DESCRIPTORS = 1 << 16, INPUT = 8192 };

static struct sockaddr_in server;
static double begin, end;
static volatile sig_atomic_t stopped;
static unsigned long sent, opened, answers, failures;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void stop(int signal) {
    (void)signal;
    stopped = 1;
}

static bool at_end(double at) {
    return stopped || at >= end;
}

static void sleep_until(double at) {
    struct timespec when = {(time_t)at, (long)((at - (time_t)at) * 1e9)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL);
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void report(unsigned long open) {
    printf("{\"seconds\": %.2f, \"sent\": %lu, \"answers\": %lu, ", now() - begin, sent, answers);
    printf("\"failures\": %lu, \"opened\": %lu, \"open\": %lu}\n", failures, opened, open);
}

// ---- the upstream

struct delayed {
    double due;
    int socket;
    unsigned generation;
    struct sockaddr_in peer;
    unsigned len;
    unsigned char bytes[SIZE];
};

static struct {
    unsigned generation, len;
    unsigned char *input;
} streams[DESCRIPTORS];
static struct delayed *queue;
static unsigned long head, tail;

// Turns a query into its answer in place. Returns the answer's length, or 0 for what is no query.
static unsigned answer(unsigned char *bytes, unsigned len, bool *slow) {
    unsigned at = 12;
    *slow = false;
    if (len < 17 || bytes[2] & 0x80) return 0;
    while (at < len && bytes[at]) {
        if (bytes[at] == 4 && at + 5 < len && !memcmp(bytes + at + 1, "slow", 4)) *slow = true;
        at += bytes[at] + 1;
    }
    at += 5;
    if (at > len || at + 16 > SIZE) return 0;
    bool address = bytes[at - 3] == 1 && bytes[at - 4] == 0;
    bytes[2] = 0x80 | (bytes[2] & 1);
    bytes[3] = 0x80;
    memcpy(bytes + 4, (unsigned char[]){0, 1, 0, address, 0, 0, 0, 0}, 8);
    if (!address) return at;
    memcpy(bytes + at, (unsigned char[]){0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1}, 16);
    return at + 16;
}

static void delay(double due, int socket, const struct sockaddr_in *peer, const unsigned char *bytes, unsigned len) {
    if (head - tail == DELAYED) return;
    struct delayed *entry = &queue[head++ % DELAYED];
    entry->due = due, entry->socket = socket, entry->generation = streams[socket].generation, entry->len = len;
    if (peer) entry->peer = *peer;
    memcpy(entry->bytes, bytes, len);
}

// Sends a message with its length before it. What the peer does not take is lost.
static void send_framed(int socket, const unsigned char *bytes, unsigned len) {
    unsigned char framed[SIZE + 2] = {len >> 8, len & 255};
    memcpy(framed + 2, bytes, len);
    if (send(socket, framed, len + 2, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)len + 2) shutdown(socket, SHUT_RDWR);
}

// A message for a batch.
static struct msghdr message(struct sockaddr_in *peer, struct iovec *part) {
    return (struct msghdr){.msg_name = peer, .msg_namelen = peer ? sizeof *peer : 0, .msg_iov = part, .msg_iovlen = 1};
}

static void read_datagrams(int udp, double delay_by) {
    static unsigned char bytes[BATCH][SIZE];
    static struct sockaddr_in peers[BATCH];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){bytes[i], SIZE};
        messages[i].msg_hdr = message(&peers[i], &parts[i]);
    }
    int received = recvmmsg(udp, messages, BATCH, MSG_DONTWAIT, NULL), ready = 0;
    for (int i = 0; i < received; i++) {
        bool slow;
        unsigned len = answer(bytes[i], messages[i].msg_len, &slow);
        if (len && slow) delay(now() + delay_by, udp, &peers[i], bytes[i], len);
        if (!len || slow) continue;
        parts[i].iov_len = len;
        messages[ready++].msg_hdr = message(&peers[i], &parts[i]);
    }
    if (ready > 0) sendmmsg(udp, messages, ready, 0);
}

static void read_stream(int socket, double delay_by) {
    unsigned char *input = streams[socket].input;
    ssize_t got = recv(socket, input + streams[socket].len, INPUT - streams[socket].len, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        streams[socket].generation++;
        close(socket);
        return;
    }
    unsigned len = streams[socket].len += got, at = 0;
    while (at + 2 <= len) {
        unsigned size = input[at] << 8 | input[at + 1];
        if (at + 2 + size > len) break;
        unsigned char bytes[SIZE];
        bool slow;
        if (size <= SIZE) {
            memcpy(bytes, input + at + 2, size);
            unsigned done = answer(bytes, size, &slow);
            if (done && slow) delay(now() + delay_by, socket, NULL, bytes, done);
            if (done && !slow) send_framed(socket, bytes, done);
        }
        at += 2 + size;
    }
    memmove(input, input + at, streams[socket].len = len - at);
    if (streams[socket].len == INPUT) shutdown(socket, SHUT_RDWR);
}

static void upstream(double delay_by) {
    int on = 1, large = 4 << 20, events = epoll_create1(0);
    int udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);
    const struct sockaddr *own = (struct sockaddr *)&server;
    queue = malloc(sizeof *queue * DELAYED);
    setsockopt(udp, SOL_SOCKET, SO_RCVBUF, &large, sizeof large);
    setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(udp, own, sizeof server) || bind(tcp, own, sizeof server) || listen(tcp, 4096)) fail("bind");
    epoll_ctl(events, EPOLL_CTL_ADD, udp, &(struct epoll_event){.events = EPOLLIN, .data.fd = udp});
    epoll_ctl(events, EPOLL_CTL_ADD, tcp, &(struct epoll_event){.events = EPOLLIN, .data.fd = tcp});
    for (;;) {
        struct epoll_event found[BATCH];
        double rest = head == tail ? 1 : queue[tail % DELAYED].due - now();
        int count = epoll_wait(events, found, BATCH, rest <= 0 ? 0 : (int)(rest * 1e3) + 1);
        for (int i = 0; i < count; i++) {
            int socket = found[i].data.fd;
            if (socket == udp) {
                read_datagrams(udp, delay_by);
            } else if (socket == tcp) {
                int stream = accept4(tcp, NULL, NULL, SOCK_NONBLOCK);
                if (stream < 0) continue;
                if (stream >= DESCRIPTORS) {
                    close(stream);
                    continue;
                }
                setsockopt(stream, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                if (!streams[stream].input) streams[stream].input = malloc(INPUT);
                streams[stream].len = 0;
                epoll_ctl(events, EPOLL_CTL_ADD, stream, &(struct epoll_event){.events = EPOLLIN, .data.fd = stream});
            } else {
                read_stream(socket, delay_by);
            }
        }
        for (double at = now(); head != tail && queue[tail % DELAYED].due <= at; tail++) {
            struct delayed *entry = &queue[tail % DELAYED];
            if (entry->socket == udp) {
                const struct sockaddr *peer = (struct sockaddr *)&entry->peer;
                sendto(udp, entry->bytes, entry->len, MSG_DONTWAIT, peer, sizeof entry->peer);
            } else if (streams[entry->socket].generation == entry->generation) {
                send_framed(entry->socket, entry->bytes, entry->len);
            }
        }
    }
}

// ---- the hostile client

// A socket from 127.0.0.2 to the server; of TCP, the connection may still be on its way.
static int connect_from(int kind) {
    int on = 1, one = socket(AF_INET, kind | SOCK_NONBLOCK, 0);
    struct sockaddr_in own = {.sin_family = AF_INET};
    inet_aton("127.0.0.2", &own.sin_addr);
    if (one < 0) return -1;
    if (kind == SOCK_STREAM) {
        setsockopt(one, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        setsockopt(one, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        // Closed with a reset, so that no port waits in TIME_WAIT.
        setsockopt(one, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    }
    if (bind(one, (struct sockaddr *)&own, sizeof own)) fail("bind");
    if (connect(one, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) {
        close(one);
        return -1;
    }
    return one;
}

// Writes a query for A of LABEL.slow.example.
static unsigned query(unsigned char *bytes, unsigned id, const char *label) {
    unsigned len = strlen(label);
    memcpy(bytes, (unsigned char[]){id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, len}, 13);
    memcpy(bytes + 13, label, len);
    memcpy(bytes + 13 + len, "\4slow\7example\0\0\1\0\1", 18);
    return 13 + len + 18;
}

static void flood_udp(double rate, bool identical) {
    static unsigned char bytes[BATCH][SIZE];
    int sockets[SOCKETS], turn = 0;
    for (int i = 0; i < SOCKETS; i++) sockets[i] = connect_from(SOCK_DGRAM);
    srandom(getpid());
    long run = random();
    for (double start = now(), at = start; !at_end(at); at = now()) {
        // At most 100 ms are caught up with, so that a busy machine makes no burst.
        long due = (long)((at - start) * rate);
        if (due - (long)sent > rate / 10) start += (due - (long)sent - rate / 10) / rate, due = sent + rate / 10;
        while ((long)sent < due) {
            int count = due - sent < BATCH / 4 ? (int)(due - sent) : BATCH / 4;
            struct iovec parts[BATCH];
            struct mmsghdr messages[BATCH];
            for (int i = 0; i < count; i++) {
                char label[40];
                snprintf(label, sizeof label, "x%lx-%lx", run, identical ? (unsigned long)(at / 2) : sent + i);
                parts[i] = (struct iovec){bytes[i], query(bytes[i], random(), label)};
                messages[i].msg_hdr = message(NULL, &parts[i]);
            }
            sendmmsg(sockets[turn++ % SOCKETS], messages, count, 0);
            sent += count;
        }
        for (int i = 0; i < SOCKETS; i++) {
            unsigned char got[SIZE];
            while (recv(sockets[i], got, sizeof got, MSG_DONTWAIT) >= 12) answers++, failures += (got[3] & 15) != 0;
        }
        sleep_until(at + 0.001);
    }
    report(SOCKETS);
}

static void flood_tcp(double rate, int connections) {
    int *sockets = malloc(sizeof *sockets * connections);
    unsigned long turn = 0, skipped = 0;
    for (int i = 0; i < connections; i++) sockets[i] = connect_from(SOCK_STREAM), opened++;
    srandom(getpid());
    long run = random();
    for (double start = now(), at = start; !at_end(at); at = now()) {
        long due = (long)((at - start) * rate);
        for (; (long)(sent + skipped) < due; turn++) {
            unsigned char bytes[SIZE], drain[65536];
            char label[40];
            snprintf(label, sizeof label, "t%lx-%lx", run, turn);
            unsigned len = query(bytes + 2, random(), label);
            bytes[0] = len >> 8, bytes[1] = len & 255;
            int *one = &sockets[turn % connections];
            ssize_t got;
            while ((got = *one < 0 ? 0 : recv(*one, drain, sizeof drain, MSG_DONTWAIT)) > 0) answers++;
            if (got == 0 || (errno != EAGAIN && errno != ENOTCONN)) {
                if (*one >= 0) close(*one);
                *one = connect_from(SOCK_STREAM), opened++;
            }
            // What the server does not read is not sent; a message that is cut short ends the connection.
            ssize_t put = *one < 0 ? -1 : send(*one, bytes, len + 2, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (put == (ssize_t)len + 2) sent++;
            else skipped++;
            if (put > 0 && put < (ssize_t)len + 2) close(*one), *one = -1;
        }
        sleep_until(at + 0.001);
    }
    failures = skipped;
    report(connections);
}

static void hold(int connections, const unsigned char *bytes, unsigned len) {
    struct pollfd *held = malloc(sizeof *held * connections);
    bool *greeted = calloc(connections, sizeof *greeted);
    unsigned long open = 0;
    for (int i = 0; i < connections; i++) held[i].fd = -1;
    for (double at = now(); !at_end(at); at = now()) {
        // Two thousand a second at most are opened, or opened again.
        int allowed = 20;
        for (int i = 0; i < connections && allowed > 0; i++) {
            if (held[i].fd >= 0) continue;
            held[i] = (struct pollfd){connect_from(SOCK_STREAM), POLLIN | POLLOUT | POLLRDHUP, 0};
            greeted[i] = false;
            if (held[i].fd >= 0) opened++;
            allowed--;
        }
        poll(held, connections, 0);
        for (int i = open = 0; i < connections; i++) {
            if (held[i].fd < 0) continue;
            if (held[i].revents & (POLLHUP | POLLERR | POLLRDHUP)) {
                close(held[i].fd);
                held[i].fd = -1;
                failures++;
            } else if (!greeted[i] && held[i].revents & POLLOUT) {
                greeted[i] = true;
                if (len) sent += send(held[i].fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
            }
            open += greeted[i];
        }
        sleep_until(at + 0.01);
    }
    report(open);
}

static void loop(int connections) {
    int *sockets = malloc(sizeof *sockets * connections);
    for (int i = 0; i < connections; i++) sockets[i] = -1;
    for (unsigned long turn = 0; turn % 64 || !at_end(now()); turn++) {
        int *one = &sockets[turn % connections];
        if (*one >= 0) close(*one);
        *one = connect_from(SOCK_STREAM);
        if (*one >= 0) opened++;
        else failures++;
    }
    report(connections);
}

int main(int count, char **words) {
    struct rlimit descriptors;
    getrlimit(RLIMIT_NOFILE, &descriptors);
    descriptors.rlim_cur = descriptors.rlim_max;
    setrlimit(RLIMIT_NOFILE, &descriptors);
    if (count < 4) return 2;
    server.sin_family = AF_INET;
    server.sin_port = htons(atoi(words[2]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!strcmp(words[1], "upstream")) upstream(atof(words[3]) / 1e3);
    begin = now(), end = begin + atof(words[3]);
    signal(SIGTERM, stop);
    if (!strcmp(words[1], "udp") && count == 6) flood_udp(atof(words[4]), !strcmp(words[5], "identical"));
    else if (!strcmp(words[1], "tcp") && count == 6) flood_tcp(atof(words[4]), atoi(words[5]));
    else if (!strcmp(words[1], "loop") && count == 5) loop(atoi(words[4]));
    else if (!strcmp(words[1], "hold") && count == 6) {
        static unsigned char bytes[4096];
        unsigned len = 0;
        for (const char *at = words[5]; len < sizeof bytes && sscanf(at, "%2hhx", &bytes[len]) == 1; at += 2) len++;
        hold(atoi(words[4]), bytes, len);
    } else return 2;
    return 0;
}
