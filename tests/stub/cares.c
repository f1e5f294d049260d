/* Looks up each line of standard input by c-ares, and then prints a line. */
#include <ares.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>

static void finished(void *status_out, int status, int timeouts, struct ares_addrinfo *result) {
    *(int *)status_out = status;
    if (result) ares_freeaddrinfo(result);
}

int main(void) {
    char name[1024];
    ares_library_init(ARES_LIB_INIT_ALL);
    while (fgets(name, sizeof name, stdin)) {
        name[strcspn(name, "\n")] = 0;
        ares_channel channel;
        if (ares_init(&channel) != ARES_SUCCESS) return 1;
        struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
        int status = -1;
        ares_getaddrinfo(channel, name, NULL, &hints, finished, &status);
        for (;;) {
            fd_set reads, writes;
            FD_ZERO(&reads);
            FD_ZERO(&writes);
            int count = ares_fds(channel, &reads, &writes);
            if (count == 0) break;
            struct timeval wait;
            select(count, &reads, &writes, NULL, ares_timeout(channel, NULL, &wait));
            ares_process(channel, &reads, &writes);
        }
        ares_destroy(channel);
        printf("%s\n", status == ARES_SUCCESS ? "found" : "error");
        fflush(stdout);
    }
    return 0;
}
