/* Looks up each line of standard input by getaddrinfo, and then prints a line. For glibc and musl. */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(void) {
    char name[1024];
    while (fgets(name, sizeof name, stdin)) {
        name[strcspn(name, "\n")] = 0;
        struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
        int error = getaddrinfo(name, NULL, &hints, &found);
        printf("%s\n", error ? "error" : "found");
        fflush(stdout);
        if (!error) freeaddrinfo(found);
    }
    return 0;
}
