// What a UDP server cannot cost less than on the machine at hand: every datagram goes back with QR set, in batches.
// usage: echo PORT WORKERS
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <threads.h>

enum { BATCH = 32, SIZE = 4096 };

static int port;

static int worker(void *unused) {
    (void)unused;
    static _Thread_local unsigned char octets[BATCH][SIZE];
    struct sockaddr_in peers[BATCH];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    int on = 1, udp = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    setsockopt(udp, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (bind(udp, (struct sockaddr *)&own, sizeof own) != 0) {
        perror("bind");
        exit(1);
    }
    for (;;) {
        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){octets[i], SIZE};
            messages[i].msg_hdr = (struct msghdr){
                .msg_name = &peers[i], .msg_namelen = sizeof peers[i], .msg_iov = &parts[i], .msg_iovlen = 1};
        }
        int received = recvmmsg(udp, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int i = 0; i < received; i++) {
            parts[i].iov_len = messages[i].msg_len;
            octets[i][2] |= 0x80;
        }
        if (received > 0) sendmmsg(udp, messages, received, 0);
    }
}

int main(int count, char **words) {
    if (count != 3) return 2;
    port = atoi(words[1]);
    thrd_t last;
    for (int i = atoi(words[2]); i > 0; i--) thrd_create(&last, worker, NULL);
    thrd_join(last, NULL);
}
